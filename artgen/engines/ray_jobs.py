"""A command of ours as a job of a Ray cluster: submitted to its jobs server, followed, left alone or stopped."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal

import aiohttp
from ray.job_submission import JobStatus, JobSubmissionClient

import artgen
from artgen.console import Console
from artgen.errors import RunError, UsageError
from artgen.storage import uri
from artgen.training.pictures import parts_of

Interrupt = Literal["ask", "detach", "stop"]
_PLACES = ("input", "output", "masks", "model", "data")
_HERE_ONLY = ("address", "engine", "storage_options")
_ENDED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
_POLL_S = 2.0
# How long a head that has just started is waited for.
_AGENT_S = 60.0


def submit(
    words: Sequence[str], config: Any, console: Console, *, detach: bool = False, interrupt: Interrupt = "ask",
    dry_run: bool = False,
) -> int:  # fmt: skip
    """Runs `artgen WORDS ...` with `config` as a job at `config.address`; returns its exit code, 0 at once on `detach`.

    The code of this package goes along, so the cluster runs the same version; its packages (torch, ...) must be there.
    Ctrl-C leaves the job running or stops it, as `interrupt` says; `ask` asks on a terminal and leaves it elsewhere.
    Raises UsageError for what a job cannot be told, or when no jobs server answers; RunError when it is lost later.
    """
    entrypoint = command_line(words, config)
    if dry_run:
        console.result({"address": config.address, "entrypoint": entrypoint})
        return 0
    client = _connect(config.address)
    package = os.path.dirname(os.path.abspath(artgen.__file__))
    try:
        job = _submit(client, entrypoint, package)
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"the jobs server {config.address} did not take the job: {_line(error)}") from error
    hint = f"follow it: ray job logs --follow --address {config.address} {job}"
    if detach:
        console.result({"job": job, "address": config.address}, f"job {job} is submitted; {hint}")
        return 0
    console.say(f"job {job} is submitted; {hint}")
    try:
        try:
            asyncio.run(_follow(client, job))
            code, status = _ended(client, job)
        except KeyboardInterrupt:
            return _interrupted(client, job, interrupt, hint, console)
    except (RuntimeError, OSError) as error:
        raise RunError(
            f"the jobs server {config.address} was lost ({_line(error)}); the job may go on: {hint}"
        ) from error
    facts = {"job": job, "address": config.address, "status": status, "exit_code": code}
    console.result(facts, f"job {job} has ended: {status}, exit code {code}")
    return code


def _submit(client: JobSubmissionClient, entrypoint: str, package: str) -> str:
    """The id of the job. A head whose server already answers may still wait for its agent."""
    end = time.monotonic() + _AGENT_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env={"py_modules": [package]})
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(1)


def command_line(words: Sequence[str], config: Any) -> str:
    """The shell command that gives the same `config` on the cluster. Fields without a default are positional, OUTPUT last.

    Local paths become absolute, as of a file system that the machines share: no picture, model or private key is uploaded.
    Raises UsageError for secrets: the command is shown on the dashboard to whoever reaches it.
    """
    if config.storage_options:
        raise UsageError(
            "--storage-options cannot go with a job, whose command everybody on the cluster may read: give the nodes a role, "
            "or their environment the credentials"
        )
    given: list[str] = []
    sets = ["--engine", "ray"]
    for field in sorted(fields(config), key=lambda field: field.name == "output"):
        value = getattr(config, field.name)
        if field.name in _HERE_ONLY or (field.default is not MISSING and value == field.default):
            continue
        text = _text(field.name, value)
        if field.default is MISSING:
            given.append(text)
        else:
            sets += ["--set", f"{field.name}={text}"]
    # The job starts in the folder that Ray was started in on the head, which may hold an artgen of its own.
    return f"cd / && {shlex.join(['python', '-m', 'artgen', *words, *given, *sets])}"


def _text(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if name == "c2pa":
        return ",".join(_place(name, part) for part in text.split(",") if part)
    if name == "data":
        return ",".join(_place(name, part) for part in parts_of(text))
    return _place(name, text) if name in _PLACES else text


def _place(name: str, text: str) -> str:
    if not uri.is_local(text):
        if uri.shown(text) != text:
            raise UsageError(
                f"{name} {uri.shown(text)} was given with credentials in its address, which a job would show to everybody on "
                "the cluster: leave them out, and give the nodes a role or their environment the credentials"
            )
        return text
    # A registry name such as `default` is a path only where a file bears it.
    return text if name == "model" and not os.path.exists(uri.local_path(text)) else uri.local_path(text)


def _connect(address: str) -> JobSubmissionClient:
    # Ray lets its own variables win over the address that was asked for.
    kept = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray jobs server answers at {address!r} ({_line(error)}): check that the cluster runs and that the port is that "
            "of its dashboard (8265)"
        ) from error
    finally:
        os.environ.update({name: value for name, value in kept.items() if value is not None})


async def _follow(client: JobSubmissionClient, job: str) -> None:
    """The job's output on stderr until it ends. When the stream breaks, only the state is watched from there on."""
    try:
        async for text in client.tail_job_logs(job):
            sys.stderr.write(text)
            sys.stderr.flush()
    except (RuntimeError, aiohttp.ClientError) as error:
        sys.stderr.write(f"artgen: the log stream broke off ({_line(error)}); waiting for the end of the job\n")


def _ended(client: JobSubmissionClient, job: str) -> tuple[int, str]:
    """(exit code, status) of the job, waiting for its end."""
    while (info := client.get_job_info(job)).status not in _ENDED:
        time.sleep(_POLL_S)
    code = info.driver_exit_code
    if code is None or code < 0:
        code = 0 if info.status == JobStatus.SUCCEEDED else 1
    return code, str(info.status.value)


def _interrupted(client: JobSubmissionClient, job: str, interrupt: Interrupt, hint: str, console: Console) -> int:
    """Exit code 1: whether stopped or left running, the work is not done yet."""
    if interrupt == "ask":
        interrupt = "stop" if _wants_to_stop(job) else "detach"
    if interrupt == "stop":
        client.stop_job(job)
        code, status = _ended(client, job)
        text = f"job {job} is stopped; the same command goes on from here"
        console.result({"job": job, "status": status, "exit_code": code or 1}, text)
    else:
        console.result({"job": job, "status": "RUNNING"}, f"job {job} goes on in the cluster; {hint}")
    return 1


def _wants_to_stop(job: str) -> bool:
    if not sys.stdin.isatty():
        return False
    sys.stderr.write(f"\njob {job} goes on in the cluster: stop it? [y/N] ")
    sys.stderr.flush()
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:  # Ctrl-C twice is an answer
        return True


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
