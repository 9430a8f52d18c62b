"""What `artgen restore` keeps in OUTPUT of the archives that it has listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.storage.index import Index
from tests import pictures
from tests.runs import artgen_here, rows, tree

IDENTITY = ("--model", "identity", "--engine", "local", "--workers", "1")
SOURCE = "memory://restore-index/in"
KEYS = [f"{name}/{picture}" for name in ("a.tar", "b.tar.gz", "c.tar") for picture in ("0.png", "1.png")]


@pytest.fixture(autouse=True)
def archives(tmp_path: Path) -> Iterator[None]:
    fs = fsspec.filesystem("memory")
    for n, (name, mode) in enumerate((("a.tar", "w"), ("b.tar.gz", "w:gz"), ("c.tar", "w"))):
        contents = {f"{i}.png": pictures.png(pictures.picture(10 * n + i)) for i in range(2)}
        path = pictures.write_tar(tmp_path / name, contents, mode)
        fs.pipe_file(f"/restore-index/in/{name}", path.read_bytes())
    yield
    fs.rm("/restore-index", recursive=True)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Archives of INPUT that bytes were asked of, in order."""
    asked: list[str] = []
    real = MemoryFileSystem.cat_file

    def cat_file(fs: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        asked.append(path.rpartition("/")[2])
        return real(fs, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return asked


def kept(output: Path) -> list[str]:
    return sorted(path.suffix for path in (output / "_artgen" / "index").glob("*"))


def test_later_runs_walk_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    assert artgen_here("restore", SOURCE, output, *IDENTITY).returncode == 0
    assert [row["key"] for row in rows(output)] == KEYS
    assert kept(output) == [".gzidx", ".members", ".members", ".members"]
    monkeypatch.setattr(Index, "_walk", lambda *_: pytest.fail("it is walked again"))
    assert artgen_here("restore", SOURCE, output, *IDENTITY).returncode == 0
    assert [row["key"] for row in rows(output)] == KEYS
    # Cleared are the pictures, not what the listing of the same command has just found its members by.
    assert artgen_here("restore", SOURCE, output, *IDENTITY, "--overwrite").returncode == 0
    assert [row["key"] for row in rows(output)] == KEYS
    assert kept(output) == [".gzidx", ".members", ".members", ".members"]


def test_a_dry_run_keeps_nothing(tmp_path: Path, read: list[str]) -> None:
    output = tmp_path / "out"
    dry = ("restore", SOURCE, output, *IDENTITY, "--dry-run", "--json")
    assert json.loads(artgen_here(*dry).stdout)["images"] == 6
    assert not output.exists()
    assert artgen_here("restore", SOURCE, output, *IDENTITY).returncode == 0
    pictures.write_tar(tmp_path / "d.tar", {"0.png": pictures.png(pictures.picture(99))})
    fsspec.filesystem("memory").pipe_file("/restore-index/in/d.tar", (tmp_path / "d.tar").read_bytes())
    before = tree(output)
    read.clear()
    facts = json.loads(artgen_here(*dry).stdout)
    assert (facts["images"], facts["left"]) == (7, 1)
    assert set(read) == {"d.tar"}
    assert tree(output) == before


@pytest.mark.parametrize("error", [ConnectionError("no route"), KeyboardInterrupt()])
def test_a_listing_that_is_interrupted_goes_on(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    output = tmp_path / "out"
    ask = MemoryFileSystem.cat_file

    def cat_file(fs: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        if path.endswith("c.tar"):
            raise error
        return ask(fs, path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "cat_file", cat_file)
        assert artgen_here("restore", SOURCE, output, *IDENTITY).returncode == 1
    assert kept(output) == [".gzidx", ".members", ".members"]
    read.clear()
    dry = artgen_here("restore", SOURCE, output, *IDENTITY, "--dry-run", "--json")
    assert json.loads(dry.stdout)["images"] == 6
    assert set(read) == {"c.tar"}
    assert artgen_here("restore", SOURCE, output, *IDENTITY).returncode == 0
    assert [row["key"] for row in rows(output)] == KEYS


def test_a_listing_that_is_interrupted_leaves_what_others_made_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = MemoryFileSystem.cat_file

    def cat_file(fs: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        if path.endswith("c.tar"):
            raise ConnectionError("no route")
        return ask(fs, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    output = pictures.write_folder(tmp_path / "mine", {"x.txt": b"keep"})
    result = artgen_here("restore", SOURCE, output, *IDENTITY)
    assert result.returncode == 1
    assert "no route" in result.stderr
    assert list(tree(output)) == ["x.txt"]
