"""Files that somebody put below OUTPUT/images are neither replaced nor removed in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from artgen.work import foreign
from artgen.work import plan as plans
from artgen.work.listing import Listing
from tests import pictures
from tests.runs import artgen_here, rows, tree
from tests.unit.storage import packs

IDENTITY = ("--model", "identity", "--engine", "local", "--workers", "1")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures.write_folder(
        tmp_path / "in", {f"{name}.png": pictures.png(pictures.picture(n)) for n, name in enumerate("ab")}
    )


def restore(photos: Path, output: Path, *flags: str, code: int = 0) -> str:
    result = artgen_here("restore", photos, output, *IDENTITY, *flags)
    assert result.returncode == code, result.stderr
    return result.stderr


def test_a_file_of_somebody_else_keeps_its_name(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert "did not make" not in restore(photos, output)
    pictures.write_folder(output / "images", {"New.png": b"mine", "sub": b"mine too"})
    pictures.write_folder(
        photos, {"new.png": pictures.png(pictures.picture(5)), "sub/c.png": (photos / "a.png").read_bytes()}
    )
    assert "2 files below images/ that artgen did not make" in restore(photos, output)
    assert (output / "images" / "New.png").read_bytes() == b"mine"
    assert (output / "images" / "sub").read_bytes() == b"mine too"
    names = {row["key"]: row["output_name"] for row in rows(output)}
    assert names == {"a.png": "a.png", "b.png": "b.png", "new.png": "new~2.png", "sub/c.png": "sub~/c.png"}
    assert restore(photos, output, "--retry-failed").count("did not make") == 1, "and so it stays"


def test_a_file_with_the_name_of_a_failed_image_stays(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    pictures.write_folder(photos, {"c.png": b"\x89PNG\r\n\x1a\nno more"})
    restore(photos, output, code=3)
    (output / "images" / "c.png").write_bytes(b"mine")
    pictures.write_folder(photos, {"c.png": pictures.png(pictures.picture(5))})
    restore(photos, output, "--retry-failed")
    assert (output / "images" / "c.png").read_bytes() == b"mine"
    assert (output / "images" / "c~2.png").exists()


def test_what_a_killed_run_left_is_not_somebody_elses(photos: Path, tmp_path: Path) -> None:
    """Its pictures have no rows, and the next plan, of an archive that has grown, gives them the same names."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    restore(photos, killed)
    for part in (killed / "manifest").iterdir():
        part.unlink()
    pictures.write_folder(photos, {"c.png": pictures.png(pictures.picture(5))})
    assert "did not make" not in restore(photos, killed)
    restore(photos, whole)
    assert tree(killed / "images") == tree(whole / "images")


@pytest.mark.parametrize("where", ["all", "pages", "footer"])
def test_a_damaged_file_of_an_old_plan_stops_nothing(photos: Path, tmp_path: Path, where: str) -> None:
    output = tmp_path / "out"
    restore(photos, output)
    (file,) = (output / "_artgen").glob("plan-*/units-*.parquet")
    file.write_bytes(packs.damaged(file.read_bytes(), where))
    (output / "images" / "mine.txt").write_bytes(b"mine")
    assert list(foreign.planned(str(output))) == []
    pictures.write_folder(photos, {"c.png": pictures.png(pictures.picture(5))})
    restore(photos, output)


def test_overwrite_says_what_it_removes(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    restore(photos, output)
    assert "--overwrite" not in restore(photos, output, "--overwrite")
    pictures.write_folder(output / "images", {"mine/a.txt": b"1", "mine.txt": b"2"})
    assert "--overwrite: 2 files below images/ that artgen did not make" in restore(photos, output, "--overwrite")
    assert not (output / "images" / "mine.txt").exists()


def test_in_a_store_as_well() -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    output = "memory://foreign-test/out"
    fs = MemoryFileSystem()
    fs.pipe({"/foreign-test/out/images/sub/a.png": b"mine", "/foreign-test/out/images/.artgen-1.tmp": b"left"})
    try:
        assert list(foreign.names(output)) == ["sub/a.png"]
        assert foreign.count(output) == 1
        with Listing("/in", []) as listed:
            plans.prepare(listed, output, {"extension": ".png"})
            assert listed.foreign == 1
    finally:
        fs.rm("/foreign-test", recursive=True)
