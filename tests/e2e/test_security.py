"""What a hostile INPUT, model or name may not do. Each clause of the promise, and the test that holds it:

no pickle from storage            here; unit/models/test_weights.py, unit/models/test_gans.py
archives cannot escape            here; unit/storage/test_names.py (any listing), e2e/test_hostile.py (the corpus)
links are not followed out        here; unit/storage/test_archive.py (test_links), test_zip.py and test_tar.py (members)
SVG, EPS and URLs are not opened  here
limits on what a header claims    here; unit/codecs/test_decode.py, unit/storage/test_zip.py, test_tar.py
temporary files are private       here
the report escapes names          here, by the whole path; unit/report/test_page.py, e2e/test_report_browser.py
secrets are kept                  e2e/test_s3_faults.py, e2e/test_odd_runs.py, unit/storage/test_uri.py
"""

from __future__ import annotations

import ast
import io
import os
import socket
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import artgen
from artgen.storage import atomic, scratch
from tests import pictures
from tests.runs import artgen_here, rows, tree

IDENTITY = ("--model", "identity", "--workers", "1")
PNG = pictures.png(pictures.picture(1))
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='http://%s/x'/></svg>"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file pop\nshowpage\n%%EOF\n"


def restore(source: Path, output: Path, *flags: str) -> dict[str, dict]:
    result = artgen_here("restore", source, output, *(flags or IDENTITY))
    assert result.returncode in (0, 3), result.stderr
    return {row["key"]: row for row in rows(output)}


@pytest.fixture
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address that counts who calls it."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed at the end of the test
                    return
                with connection:
                    calls.append(connection.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", calls
        server.shutdown(socket.SHUT_RDWR)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_model_that_is_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": PNG})
    torch.save({"params": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
    result = artgen_here("restore", source, tmp_path / "out", "--model", tmp_path / "evil.pth")
    assert result.returncode == 2
    assert "may run code" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_nothing_in_the_package_unpickles() -> None:
    """Every torch.load is weights-only, numpy loads no objects, and no other reader of pickles is imported."""
    found = []
    for path in sorted(Path(artgen.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if {"dill", "cloudpickle", "joblib", "marshal", "shelve"} & {module.partition(".")[0], *names}:
                found.append(where)
            if "pickle" in names or (module == "pickle" and names != ["UnpicklingError"]):
                found.append(where)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
                if given.get("allow_pickle") or (of_torch and given.get("weights_only") is not True):
                    found.append(where)
    assert found == []


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_members_cannot_leave_output_nor_links_leave_the_archive(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    names = [
        "../up.png",
        "/absolute.png",
        "a/../../../up.png",
        "..\\up.png",
        "ok.png",
        "C:\\x.png",
        "../../etc/x.png",
    ]
    archive = tmp_path / "in" / f"hostile.{kind}"
    archive.parent.mkdir()
    if kind == "tar":
        with tarfile.open(archive, "w") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(PNG)
                tar.addfile(member, io.BytesIO(PNG))
            for name, link_type in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.linkname = link_type, str(secret)
                tar.addfile(member)
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            for name in names:
                packed.writestr(name, PNG)
            link = zipfile.ZipInfo("soft.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, str(secret))
    before = tree(tmp_path)
    found = restore(archive, tmp_path / "out")
    assert len(found) == len(names), "every member is a row, no link is"
    assert {row["status"] for row in found.values()} == {"ok"}
    assert {path for path in tree(tmp_path) if not path.startswith("out/")} == set(before)
    root = (tmp_path / "out" / "images").resolve()
    assert all((root / row["output_name"]).resolve().is_relative_to(root) for row in found.values())


def test_links_of_a_folder_are_not_followed_out_of_it(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": PNG})
    outside = pictures.write_folder(tmp_path / "outside", {"secret.png": PNG, "more/secret.png": PNG})
    (source / "file.png").symlink_to(outside / "secret.png")
    (source / "folder").symlink_to(outside)
    (source / "chain.png").symlink_to("file.png")
    (source / "tar.tar").symlink_to(pictures.write_tar(tmp_path / "outside.tar", {"b.png": PNG}))
    assert list(restore(source, tmp_path / "out")) == ["a.png"]


def test_vector_formats_run_no_program_and_fetch_nothing(
    tmp_path: Path, listener: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under their own names and under a picture's; Ghostscript is there to be called, and would leave a trace."""
    address, calls = listener
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gs", "gswin64c", "inkscape", "rsvg-convert", "convert", "magick"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    svg = SVG.replace(b"%s", address.encode())
    contents = {
        "a.svg": svg,
        "a.eps": EPS,
        "a.ps": EPS,
        "svg.png": svg,
        "eps.png": EPS,
        "no-name": EPS,
        "ok.png": PNG,
    }
    contents["link.url"] = f"[InternetShortcut]\nURL=http://{address}/x.png\n".encode()
    found = restore(pictures.write_folder(tmp_path / "in", contents), tmp_path / "out")
    assert {key: row["status"] for key, row in found.items()} == {
        "svg.png": "failed",
        "eps.png": "failed",
        "ok.png": "ok",
    }
    assert not (tmp_path / "called").exists()
    assert calls == []


def test_paths_and_urls_in_parquet_are_not_opened(tmp_path: Path, listener: tuple[str, list[bytes]]) -> None:
    address, calls = listener
    (tmp_path / "secret.png").write_bytes(PNG)
    places = [
        f"http://{address}/x.png",
        f"file://{tmp_path}/secret.png",
        str(tmp_path / "secret.png"),
        "s3://bucket/x.png",
    ]
    images = [{"bytes": None, "path": place} for place in places] + [{"bytes": PNG, "path": "ok.png"}]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images}), tmp_path / "in" / "struct.parquet")
    pq.write_table(pa.table({"image": places}), tmp_path / "in" / "text.parquet")
    found = restore(tmp_path / "in", tmp_path / "out")
    assert [key for key, row in found.items() if row["status"] == "ok"] == ["struct.parquet/4"]
    assert calls == []


def test_what_a_header_claims_is_bounded(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    contents = {"bomb.png": bomb, "ok.png": PNG}
    source = pictures.write_folder(tmp_path / "in", contents)
    with tarfile.open(source / "claims.tar", "w") as tar:
        member = tarfile.TarInfo("big.png")
        member.size = len(PNG)
        tar.addfile(member, io.BytesIO(PNG))
    header = bytearray((source / "claims.tar").read_bytes())
    header[124:136] = b"77777777777\0"  # 8 GiB, in a file of 10 KiB
    header[148:156] = b"        "
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    (source / "claims.tar").write_bytes(header)
    found = restore(source, tmp_path / "out")
    assert found["bomb.png"]["error_type"] == "TooManyPixels"
    assert {key: row["status"] for key, row in found.items() if key != "ok.png"} == dict.fromkeys(
        ["bomb.png", "claims.tar/big.png"], "failed"
    )
    assert found["ok.png"]["status"] == "ok"


def test_temporary_files_are_private_and_what_is_published_is_not(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic.open_for_commit(str(tmp_path / "picture.png")) as file:
            (spool,) = tmp_path.iterdir()
            assert stat.S_IMODE(spool.stat().st_mode) == 0o600
            file.write(b"x")
        assert stat.S_IMODE((tmp_path / "picture.png").stat().st_mode) == 0o644
    finally:
        os.umask(old)
    with atomic.open_for_commit("memory://private/x") as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


def test_scratch_folders_of_a_run_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a run makes in the temporary folder, looked at from inside while it lists."""
    from artgen.commands import restore as command

    seen: list[int] = []
    list_input = command.list_input

    def look(*given):
        seen.extend(stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tmp").rglob("*"))
        return list_input(*given)

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(command, "list_input", look)
    scratch._folder.cache_clear()  # this process may have one elsewhere
    try:
        restore(pictures.write_folder(tmp_path / "in", {"a.png": PNG}), tmp_path / "out")
    finally:
        scratch._folder.cache_clear()
    assert seen == [0o700, 0o700], "the folder of this process, and in it that of the run"
    assert [list(path.iterdir()) for path in (tmp_path / "tmp").iterdir()] == [[]], "which is empty again"


def test_the_report_escapes_the_names_it_shows(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)>'\"&.png"
    source = pictures.write_folder(tmp_path / "in", {hostile: PNG, f"bad {hostile}": b"\x89PNG\r\n\x1a\nno"})
    restore(source, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x onerror" not in page
    assert "&lt;img src=x onerror" in page
