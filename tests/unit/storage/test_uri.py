from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from artgen.errors import UsageError
from artgen.storage import atomic
from artgen.storage import uri as uris


@pytest.mark.parametrize(
    ("uri", "parts", "joined"),
    [
        ("s3://b", ("x", "y.png"), "s3://b/x/y.png"),
        ("s3://b/", ("x",), "s3://b/x"),
        ("/", ("x",), "/x"),
        ("memory://", ("x",), "memory://x"),
        ("out", ("images", "a b#%.png"), "out/images/a b#%.png"),
    ],
)
def test_join(uri, parts, joined):
    assert uris.join(uri, *parts) == joined


@pytest.mark.parametrize(
    ("uri", "local"),
    [("a/b", True), ("/a://b", True), ("file:///a", True), ("s3://b/a", False), ("memory://x", False), (".", True)],
)
def test_is_local(uri, local):
    assert uris.is_local(uri) is local


def test_local_path_takes_file_urls_and_home():
    assert uris.local_path("file:///a/b c") == "/a/b c"
    assert uris.local_path("~/x") == os.path.expanduser("~/x")
    with pytest.raises(UsageError, match="not on this machine"):
        uris.local_path("s3://b/x")


def test_filesystem_of_a_local_path_ignores_the_options_of_a_store(tmp_path):
    fs, path = uris.filesystem(str(tmp_path / "x"), {"key": "k", "secret": "s"})
    assert fs.protocol[0] == "file"
    assert path == str(tmp_path / "x")


def test_memory_exists():
    fs, path = uris.filesystem("memory://uri-test/a")
    assert not uris.exists("memory://uri-test/a")
    fs.pipe_file(path, b"x")
    assert uris.exists("memory://uri-test/a")


def test_unknown_protocol_and_wrong_options_are_usage_errors_without_values():
    with pytest.raises(UsageError, match="s4://"):
        uris.filesystem("s4://b/x")
    pytest.importorskip("requests")
    with pytest.raises(UsageError, match="does not open with these storage options: nope") as caught:
        uris.filesystem("github://x/y", {"nope": "hush"})
    assert "hush" not in str(caught.value)


def test_a_host_that_does_not_answer_is_a_usage_error():
    with pytest.raises(UsageError, match="cannot be reached: Connection refused"):
        uris.filesystem("ftp://127.0.0.1:1/x")


def test_missing_package_names_the_extra():
    code = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from artgen.storage import uri\nfrom artgen.errors import UsageError\n"
        "try: uri.filesystem('gs://b/x', {'token': 'hush'})\n"
        "except UsageError as e: print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'artgen[gcs]'" in out
    assert "hush" not in out


def test_messages_hide_credentials_in_a_url():
    assert uris.shown("https://me:pw@host/a.zip?sig=abc") == "https://host/a.zip"
    assert uris.shown("/a?b@c") == "/a?b@c"
    assert uris.shown("zip://in/a.png::https://me:pw@host/a.zip?sig=abc") == "zip://in/a.png::https://host/a.zip"
    assert uris.shown("/a::b@c") == "/a::b@c"
    assert uris.shown("s3://key:secret@bucket/in/a.png?sig=abc") == "s3://bucket/in/a.png"


@pytest.mark.parametrize("place", ["s3://b/in/scan-??.png", "abfss://scans@account.dfs.core.windows.net/in"])
def test_an_address_in_a_bucket_is_shown_as_it_is(place: str):
    assert uris.shown(place) == place


def test_import_pulls_in_nothing_heavy():
    code = (
        "import sys, artgen.storage.archive, artgen.storage.atomic, artgen.storage.names\n"
        "print([m for m in ('fsspec', 'pyarrow', 's3fs', 'aiohttp', 'indexed_gzip', 'numpy', 'torch', 'asyncio')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("store", ["memory://removal", "local"])
def test_what_is_removed_is_taken_by_its_name_not_as_a_pattern(tmp_path: Path, store: str) -> None:
    folder = str(tmp_path) if store == "local" else store
    for name in ("photo [1].png", "photo 1.png", "scans[1]/a.png", "scans1/a.png"):
        atomic.write(uris.join(folder, *name.split("/")), b"x")
    uris.remove(uris.join(folder, "photo [1].png"))
    uris.remove(uris.join(folder, "scans[1]"))
    uris.remove(uris.join(folder, "no [such].png"))
    assert uris.read_or_none(uris.join(folder, "photo [1].png")) is None
    assert uris.read_or_none(uris.join(folder, "scans[1]", "a.png")) is None
    assert uris.read_or_none(uris.join(folder, "photo 1.png")) == b"x"
    assert uris.read_or_none(uris.join(folder, "scans1", "a.png")) == b"x"
