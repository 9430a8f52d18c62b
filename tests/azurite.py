"""A real Azure Blob server for tests: azurite (`npm install -g azurite`) on 127.0.0.1, where it is installed."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def azure_options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options for `az://` URLs of a new, empty account."""
    pytest.importorskip("adlfs", reason="needs artgen[azure]")
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs azurite (npm install -g azurite)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("azurite")
    key = base64.b64encode(secrets.token_bytes(64)).decode()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--skipApiVersionCheck"],
            stdout=log,
            stderr=log,
            env={**os.environ, "AZURITE_ACCOUNTS": f"artgen:{key}"},
        )
        try:
            _wait(process, port)
            endpoint = f"http://127.0.0.1:{port}/artgen"
            yield {
                "connection_string": f"DefaultEndpointsProtocol=http;AccountName=artgen;AccountKey={key};BlobEndpoint={endpoint};"
            }
        finally:
            process.terminate()
            process.wait(20)


def _wait(process: subprocess.Popen[bytes], port: int, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"azurite did not answer on port {port} within {timeout_s:.0f} s")
