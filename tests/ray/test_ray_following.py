"""A job that is followed while its jobs server fails: the server is played."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from ray.job_submission import JobStatus

from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_jobs
from artgen.errors import RunError

CONFIG = RestoreConfig(input="a", output="b", address="http://h:1")


class Server:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def submit_job(self, **_: Any) -> str:
        return "raysubmit_x"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "a line\n"
        raise self._error

    def get_job_info(self, job: str) -> SimpleNamespace:
        return SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=3)

    def stop_job(self, job: str) -> None:
        raise RuntimeError("status code 502")


def test_a_log_stream_that_breaks_off_leaves_the_job_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_jobs, "_connect", lambda _: Server(aiohttp.ServerDisconnectedError()))
    assert ray_jobs.submit(["restore"], CONFIG, Console()) == 3
    assert "the log stream broke off" in capsys.readouterr().err


def test_a_server_that_does_not_stop_a_job_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "_connect", lambda _: Server(KeyboardInterrupt()))
    with pytest.raises(RunError, match=r"502.*the job may go on: follow it"):
        ray_jobs.submit(["restore"], CONFIG, Console(), interrupt="stop")
