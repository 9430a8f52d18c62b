"""What the end of a run leaves in OUTPUT."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from artgen.commands.carry import drop_uncommitted
from artgen.sinks import manifest, parquet, shards
from artgen.work.plan import Plan
from tests import pictures
from tests.outputs import png, row
from tests.runs import artgen_here, rows
from tests.unit.storage import packs

IDENTITY = ("--model", "identity", "--engine", "local", "--workers", "1", "--unit-images", "1")


def test_parts_of_units_without_rows_go_and_all_else_stays(tmp_path: Path) -> None:
    for unit in ("0123abcd-000000", "0123abcd-000001.4-8", "89abcdef-000000"):
        for kind in (parquet, shards):
            sink = kind.open(str(tmp_path), unit)
            sink.add("a.png", png(1), row(unit))
            sink.commit()
        if not unit.startswith("89"):
            manifest.write(str(tmp_path), unit, [row(unit, unit=unit)])
    for name in ("shards/notes.txt", "shards/train-000.tar", "parquet/part-00000.parquet"):
        (tmp_path / name).write_text("mine")
    drop_uncommitted(Plan(str(tmp_path), "89abcdef01234567", 0, 0, 1, "", {}, ""), None)
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == [
        "part-00000.parquet",
        "part-0123abcd-000000.parquet",
        "part-0123abcd-000001.4-8.parquet",
    ]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [
        "0123abcd-000000.tar",
        "0123abcd-000001.4-8.tar",
        "notes.txt",
        "train-000.tar",
    ]


def test_pictures_of_a_plan_that_died_go_where_the_next_is_of_others(tmp_path: Path) -> None:
    """A process is killed within its first units, its sources are renamed, and the same command ends well."""
    names = ("a.png", "b.png", "c.png", "d.png")
    source = pictures.write_folder(tmp_path / "in", {name: pictures.png(pictures.picture(1)) for name in names})
    output = tmp_path / "out"
    command = ("restore", source, output, *IDENTITY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "write", lambda *_: os._exit(9))
        child = os.fork()
        if child == 0:
            artgen_here(*command)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = {path.name for path in (output / "images").iterdir()}
    assert "a.png" in left
    pictures.write_folder(output / "images", {"mine.png": b"of somebody"})
    for name in ("a.png", "b.png"):
        (source / name).rename(source / f"new-{name}")
    assert artgen_here(*command).returncode == 0
    assert sorted(path.name for path in (output / "images").iterdir()) == [
        "c.png", "d.png", "mine.png", "new-a.png", "new-b.png",
    ]  # fmt: skip
    assert not (output / "_artgen" / "begun").exists()


def test_an_interrupted_overwrite_goes_on_and_a_finished_one_starts_anew(tmp_path: Path) -> None:
    source = pictures.write_folder(
        tmp_path / "in", {"a.png": pictures.png(pictures.picture(1)), "b.png": b"\x89PNG\r\n\x1a\nno more"}
    )
    output = tmp_path / "out"
    command = ("restore", source, output, *IDENTITY, "--overwrite", "--on-error", "stop")
    assert artgen_here(*command).returncode == 1
    first = (output / "images" / "a.png").stat()
    assert artgen_here(*command).returncode == 1
    again = (output / "images" / "a.png").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns), "what was done is kept"
    assert artgen_here(*command, "--strength", "0.5").returncode == 1
    other = (output / "images" / "a.png").stat()
    assert other.st_mtime_ns != first.st_mtime_ns, "other settings start anew"

    (source / "b.png").write_bytes(pictures.png(pictures.picture(2)))
    assert artgen_here(*command, "--strength", "0.5").returncode == 0
    done = (output / "images" / "a.png").stat()
    assert done.st_mtime_ns == other.st_mtime_ns
    assert artgen_here(*command, "--strength", "0.5").returncode == 0
    assert (output / "images" / "a.png").stat().st_mtime_ns != done.st_mtime_ns, "a finished run is made anew"
    assert [found["key"] for found in rows(output)] == ["a.png", "b.png"]


def test_an_interrupted_overwrite_of_another_input_starts_anew(tmp_path: Path) -> None:
    broken = {"z.png": b"\x89PNG\r\n\x1a\nno more"}
    first = pictures.write_folder(tmp_path / "first", {"a.png": pictures.png(pictures.picture(1)), **broken})
    second = pictures.write_folder(tmp_path / "second", {"b.png": pictures.png(pictures.picture(2)), **broken})
    flags = (*IDENTITY, "--overwrite", "--on-error", "stop")
    assert artgen_here("restore", first, tmp_path / "out", *flags).returncode == 1
    assert (tmp_path / "out" / "images" / "a.png").exists()
    assert artgen_here("restore", second, tmp_path / "out", *flags).returncode == 1
    assert not (tmp_path / "out" / "images" / "a.png").exists()
    assert {found["key"] for found in rows(tmp_path / "out")} <= {"b.png", "z.png"}


def test_an_error_that_ends_the_run_is_told_with_quiet_too(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": b"\x89PNG\r\n\x1a\nno more"})
    result = artgen_here("restore", source, tmp_path / "out", *IDENTITY, "--on-error", "stop", "--quiet")
    assert (result.returncode, result.stdout) == (1, "")
    assert "a.png" in result.stderr
    assert "1 image left: the same command goes on from here" in result.stderr


def test_a_run_that_finds_only_failures_says_how_to_do_them_again(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    command = ("restore", source, tmp_path / "out", *IDENTITY)
    first = artgen_here(*command, "--max-pixels", "10")
    assert first.returncode == 3
    assert "--retry-failed" not in first.stdout
    again = artgen_here(*command)
    assert again.returncode == 3
    assert "nothing was left to do: --retry-failed does the failed ones again" in again.stdout
    assert artgen_here(*command, "--retry-failed").returncode == 0


def test_a_broken_archive_that_was_mended_or_removed_leaves_no_failed_row(tmp_path: Path) -> None:
    good = {"1.png": pictures.png(pictures.picture(1))}
    source = pictures.write_folder(tmp_path / "in", {"x.png": pictures.png(pictures.picture(2)), "a.zip": b"no"})
    pictures.write_folder(source, {"gone.png": b"\x89PNG\r\n\x1a\nno more"})
    command = ("restore", source, tmp_path / "out", *IDENTITY)
    assert artgen_here(*command).returncode == 3
    pictures.write_zip(source / "a.zip", good)
    (source / "gone.png").unlink()
    assert artgen_here(*command).returncode == 3
    assert [found["key"] for found in rows(tmp_path / "out")] == ["a.zip/1.png", "gone.png", "x.png"]
    (source / "x.png").unlink()
    assert artgen_here(*command, "--retry-failed").returncode == 0
    assert [found["key"] for found in rows(tmp_path / "out")] == ["a.zip/1.png", "x.png"], "what was restored stays"


def test_a_run_that_ends_early_says_so_in_json_and_on_stderr(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": b"\x89PNG\r\n\x1a\nno more"})
    for flags in ((), ("--json",)):
        result = artgen_here("restore", source, tmp_path / "out", *IDENTITY, "--on-error", "stop", *flags)
        assert result.returncode == 1
        assert "1 image left: the same command goes on from here" in result.stderr
    told = json.loads(result.stdout)
    assert (told["error"], told["exit_code"], told["left"]) == ("RunError", 1, 1)
    assert told["message"].endswith("1 image left: the same command goes on from here")


def test_an_interruption_is_told_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("artgen.commands.carry._consume", interrupt)
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    result = artgen_here("restore", source, tmp_path / "out", *IDENTITY, "--json")
    told = json.loads(result.stdout)
    assert (result.returncode, told["error"], told["exit_code"]) == (1, "RunError", 1)
    assert told["message"] == "interrupted; 1 image left: the same command goes on from here"


def test_an_overwrite_that_ends_at_a_damaged_part_does_that_one_anew(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(4))
    output = tmp_path / "out"
    command = ("restore", source, output, *IDENTITY, "--overwrite")
    write = manifest.write

    def spoil(place: str, unit: str, rows: list, options: object = None) -> None:
        write(place, unit, rows, options)
        if unit.endswith("000001"):
            part = output / "manifest" / f"part-{unit}.parquet"
            part.write_bytes(packs.damaged(part.read_bytes(), "pages"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "write", spoil)
        ended = artgen_here(*command)
    assert (ended.returncode, "run the same command again" in ended.stderr) == (1, True)
    before = {path.name: path.stat().st_mtime_ns for path in (output / "manifest").iterdir()}
    assert artgen_here(*command).returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in (output / "manifest").iterdir()}
    assert before.items() - after.items() == {item for item in before.items() if "000001" in item[0]}
    assert len(rows(output)) == len(after) == 4
