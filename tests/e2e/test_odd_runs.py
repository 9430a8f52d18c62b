"""Runs that are odd but legal, and mistakes that must cost nothing."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from artgen.commands.places import told
from artgen.config import RestoreConfig
from artgen.storage import uri
from artgen.work.lock import only_driver
from tests import pictures
from tests.runs import ARTGEN, artgen_here, environment, rows, run_json, shas

IDENTITY = ("--model", "identity", "--workers", "1")


def test_failures_may_be_retried_any_number_of_times(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1)), "bad.png": b"no"})
    flags: tuple[str, ...] = IDENTITY
    for attempt in (1, 2, 3):
        result = artgen_here("restore", source, tmp_path / "out", *flags)
        assert result.returncode == 3, result.stderr
        assert [(row["key"], row["attempts"]) for row in rows(tmp_path / "out")] == [
            ("a.png", 1),
            ("bad.png", attempt),
        ]
        flags = (*IDENTITY, "--retry-failed")


def test_a_picture_whose_source_is_now_broken_does_not_stand_in_for_it(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    assert artgen_here("restore", source, tmp_path / "out", *IDENTITY).returncode == 0
    assert (tmp_path / "out/images/a.png").exists()
    (source / "a.png").write_bytes(b"broken since")
    assert artgen_here("restore", source, tmp_path / "out", *IDENTITY).returncode == 3
    assert not (tmp_path / "out/images/a.png").exists()


@pytest.mark.parametrize("left", [b"", b"PAR1 torn"])
def test_a_part_that_a_power_cut_emptied_is_done_anew_and_told(tmp_path: Path, left: bytes) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(4))
    command = ("restore", source, tmp_path / "out", *IDENTITY, "--unit-images", "2")
    assert artgen_here(*command).returncode == 0
    before = shas(tmp_path / "out")
    part = min((tmp_path / "out/manifest").iterdir())
    part.write_bytes(left)
    said = artgen_here("status", tmp_path / "out")
    assert (said.returncode, "2 images done" in said.stdout) == (0, True)
    assert "1 part of the manifest cannot be read" in said.stdout
    said = artgen_here("report", tmp_path / "out")
    assert (said.returncode, part.name in said.stderr) == (0, True)
    result = artgen_here(*command)
    assert result.returncode == 0, result.stderr
    assert part.name in result.stderr
    assert shas(tmp_path / "out") == before


def test_overwrite_never_clears_its_own_input(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    output = tmp_path / "out"
    assert artgen_here("restore", source, output, *IDENTITY).returncode == 0
    result = artgen_here("restore", output / "images", output, *IDENTITY, "--overwrite")
    assert result.returncode == 2
    assert "lies in OUTPUT" in result.stderr
    assert (output / "images/a.png").exists()


def test_a_glob_that_matches_output_does_not_restore_it_again(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    for _ in range(2):
        assert artgen_here("restore", f"{source}/*", source / "out", *IDENTITY).returncode == 0
        assert [row["key"] for row in rows(source / "out")] == ["a.png"]


def test_pictures_of_another_input_are_not_replaced_silently(tmp_path: Path) -> None:
    first = pictures.write_folder(tmp_path / "first", {"a.png": pictures.png(pictures.picture(1))})
    other = pictures.write_folder(tmp_path / "other", {"a.png": pictures.png(pictures.picture(2))})
    more = pictures.write_folder(tmp_path / "more", {"b.png": pictures.png(pictures.picture(3))})
    output = tmp_path / "out"
    assert artgen_here("restore", first, output, *IDENTITY).returncode == 0
    before = shas(output)
    result = artgen_here("restore", other, output, *IDENTITY)
    assert result.returncode == 2
    assert str(first) in result.stderr
    assert shas(output) == before
    assert artgen_here("restore", f"{tmp_path}/./first/", output, *IDENTITY).returncode == 0
    assert artgen_here("restore", more, output, *IDENTITY).returncode == 0
    assert sorted(shas(output)) == ["a.png", "b.png"]


def test_an_input_without_an_image_is_a_mistake(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"notes.txt": b"hello"})
    result = artgen_here("restore", source, tmp_path / "out", *IDENTITY)
    assert result.returncode == 2
    assert "notes.txt" in result.stderr
    assert not (tmp_path / "out").exists()


def test_two_drivers_by_mistake_end_with_one_row_for_each_key(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(6))
    output = tmp_path / "out"
    command = [*ARTGEN, "restore", str(source), str(output), *IDENTITY]
    drivers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=200) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert len(shas(output)) == 6
    assert sorted(run["images"] for run in run_json(output)["runs"]) == [0, 6]


def test_a_second_driver_says_that_it_waits_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "_artgen").mkdir()
    said: list[str] = []
    waited = threading.Event()

    def second() -> None:
        with only_driver(str(tmp_path), said.append):
            waited.set()

    with only_driver(str(tmp_path), said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert not waited.wait(0.3)
    assert waited.wait(10)
    thread.join()
    assert len(said) == 1
    assert f"process {os.getpid()}" in said[0]


def test_passwords_in_addresses_are_not_kept(tmp_path: Path) -> None:
    config = RestoreConfig(input="s3://id:hidden@bucket/in?sig=hidden", output="s3://id:hidden@bucket/out")
    assert told(config)["input"] == "s3://bucket/in"
    assert "hidden" not in json.dumps(told(config))


def test_output_may_lead_through_a_folder_that_is_not_there(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    for _ in range(2):
        result = artgen_here("restore", source, f"{tmp_path}/nowhere/../out", *IDENTITY)
        assert result.returncode == 0, result.stderr
        assert "1 image restored" in result.stdout
    assert list(shas(tmp_path / "out")) == ["a.png"]


def test_an_output_that_does_not_answer_is_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pictures.write_folder(tmp_path / "in", {"a.png": pictures.png(pictures.picture(1))})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(uri, "ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    result = artgen_here("restore", source, "s3://bucket/out", *IDENTITY)
    assert result.returncode == 2, result.stderr
    assert "s3://bucket/out" in result.stderr
    assert "hidden" not in result.stderr


@pytest.mark.parametrize("size", [1, 2, 9])
def test_damage_of_tiny_pictures(tmp_path: Path, size: int) -> None:
    contents = {f"{n}.png": pictures.png(pictures.picture(n, size, size)) for n in range(12)}
    source = pictures.write_folder(tmp_path / "in", contents)
    flags = ("--noise", "25", "--missing", "0.3", "--holes", "--scratches", "--blur", "--fade", "--jpeg", "20")
    for number, chosen in enumerate((flags, ("--mixture",))):
        result = artgen_here("damage", source, tmp_path / f"out{number}", *chosen)
        assert result.returncode == 0, result.stderr
        assert len(list((tmp_path / f"out{number}/images").iterdir())) == len(contents)
