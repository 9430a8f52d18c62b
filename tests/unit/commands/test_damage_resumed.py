"""`artgen damage` after an end before time: the same command goes on, and the bytes are those of an undisturbed one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from artgen.commands import damage
from artgen.console import Console
from artgen.storage import targz
from artgen.storage.atomic import PREFIX
from artgen.storage.owner import this_host
from artgen.work.lock import only_driver
from tests import pictures
from tests.runs import artgen_here, files_of_at_most, tree

FLAGS = ("--noise", "25", "--missing", "0.2")
COUNT = 5
KEPT = "_damage/record.jsonl"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Pictures that grow, so that a limit on the size of a file is met in the middle."""
    contents = {f"{n}.png": pictures.png(pictures.picture(n, 40 * (n + 1), 30 * (n + 1))) for n in range(COUNT)}
    return pictures.write_folder(tmp_path / "in", contents)


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path) -> dict[str, str]:
    assert artgen_here("damage", source, tmp_path / "undisturbed", *FLAGS).returncode == 0
    return tree(tmp_path / "undisturbed")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that are damaged from here on; after two of them comes Ctrl-C, once."""
    names: list[str] = []
    real: Callable[..., float] = damage.damage_one

    def damage_one(entry: Any, *rest: Any) -> float:
        if len(names) == 2:
            names.append("Ctrl-C")
            raise KeyboardInterrupt
        names.append(entry.name)
        return real(entry, *rest)

    monkeypatch.setattr(damage, "damage_one", damage_one)
    return names


def test_ctrl_c_then_the_same_command(
    undisturbed: dict[str, str], source: Path, tmp_path: Path, made: list[str]
) -> None:
    stopped = artgen_here("damage", source, tmp_path / "out", *FLAGS)
    assert stopped.returncode == 1
    assert "interrupted after 2 of 5 images; the same command goes on from here" in stopped.stderr
    assert not (tmp_path / "out" / "damage.jsonl").exists()
    result = artgen_here("damage", source, tmp_path / "out", *FLAGS)
    assert result.returncode == 0, result.stderr
    assert "2 of 5 images already done" in result.stderr
    assert made == ["0.png", "1.png", "Ctrl-C", "2.png", "3.png", "4.png"]
    assert tree(tmp_path / "out") == undisturbed
    records = [json.loads(line) for line in (tmp_path / "out" / "damage.jsonl").read_text().splitlines()]
    assert [record["key"] for record in records] == [f"{n}.png" for n in range(COUNT)]


def test_what_a_killed_process_did_not_write_down_is_done_again(
    undisturbed: dict[str, str], source: Path, tmp_path: Path, made: list[str]
) -> None:
    output = tmp_path / "out"
    assert artgen_here("damage", source, output, *FLAGS).returncode == 1
    settings, *_ = (output / KEPT).read_text().splitlines()
    (output / KEPT).write_text(f"{settings}\n")
    (output / "images" / f"{PREFIX}{this_host()}-{2**22 + 1}-0123456789abcdef.tmp").write_bytes(b"half")
    assert artgen_here("damage", source, output, *FLAGS).returncode == 0
    assert tree(output) == undisturbed


def test_a_full_disk_then_the_same_command(
    undisturbed: dict[str, str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = tmp_path / "out", damage.damage_one

    def on_a_full_disk(*given: Any) -> float:
        with files_of_at_most(20_000):  # here alone: a decoder process would inherit it
            return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(damage, "damage_one", on_a_full_disk)
        full = artgen_here("damage", source, output, *FLAGS)
    assert full.returncode == 1, full.stderr
    assert "free some space, then run the same command again" in full.stderr
    assert 0 < len(list((output / "images").iterdir())) < COUNT
    result = artgen_here("damage", source, output, *FLAGS)
    assert result.returncode == 0, result.stderr
    assert tree(output) == undisturbed


def test_a_start_that_wrote_nothing_is_not_in_the_way(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "_damage").mkdir(parents=True)
    (tmp_path / "out" / "_damage" / f"{PREFIX}probe.tmp").touch()
    assert artgen_here("damage", source, tmp_path / "out", *FLAGS).returncode == 0


def test_the_same_command_after_the_end_changes_nothing(
    undisturbed: dict[str, str], source: Path, tmp_path: Path, made: list[str]
) -> None:
    assert artgen_here("damage", source, tmp_path / "undisturbed", *FLAGS).returncode == 0
    assert made == []
    assert tree(tmp_path / "undisturbed") == undisturbed


def test_one_at_a_time_on_an_output(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Console, "say", lambda _, text: said.append(text))
    output = tmp_path / "out"
    (output / "_damage").mkdir(parents=True)
    config = damage.DamageConfig(input=str(source), output=str(output), noise=25.0, missing=0.2)
    second = threading.Thread(target=damage.damage, args=(config, Console(quiet=True)), daemon=True)
    with only_driver(str(output), said.append, folder="_damage"):
        second.start()
        second.join(3)
        assert second.is_alive()
        assert not (output / "images").exists()
    second.join(60)
    assert (output / "damage.jsonl").exists()
    assert len(said) == 1
    assert f"is at work on OUTPUT {output}: waiting for its end" in said[0]


def test_the_second_of_two_finds_what_the_first_did(
    source: Path, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it looked at OUTPUT before the first wrote anything."""
    first = artgen_here("damage", source, tmp_path / "first", *FLAGS)  # two pictures
    assert first.returncode == 1
    real = damage.only_driver

    def first_was_here(output: str, *rest: Any) -> Any:
        (tmp_path / "first" / "_damage").rename(tmp_path / "kept")
        for path in (tmp_path / "kept").iterdir():
            path.rename(Path(output) / "_damage" / path.name)
        (tmp_path / "first" / "images").rename(Path(output) / "images")
        (tmp_path / "first" / "masks").rename(Path(output) / "masks")
        return real(output, *rest)

    monkeypatch.setattr(damage, "only_driver", first_was_here)
    second = artgen_here("damage", source, tmp_path / "second", *FLAGS)
    assert second.returncode == 0, second.stderr
    assert "2 of 5 images already done" in second.stderr
    assert made == ["0.png", "1.png", "Ctrl-C", "2.png", "3.png", "4.png"]


def test_failed_images_are_tried_again_and_stay_in_their_place(source: Path, tmp_path: Path) -> None:
    (source / "1.png").write_bytes(b"\x89PNG no more")
    for _ in range(2):
        result = artgen_here("damage", source, tmp_path / "out", *FLAGS, "--json", "--quiet")
        assert result.returncode == 3, result.stderr
        assert json.loads(result.stdout) == {"output": str(tmp_path / "out"), "images": COUNT - 1, "failed": 1}
        records = [json.loads(line) for line in (tmp_path / "out" / "damage.jsonl").read_text().splitlines()]
        assert [record["key"] for record in records] == [f"{n}.png" for n in range(COUNT)]
        assert [record["key"] for record in records if "error" in record] == ["1.png"]


def test_an_output_that_a_glob_matches_is_not_damaged_again(source: Path, made: list[str]) -> None:
    assert artgen_here("damage", source / "**" / "*.png", source / "out", *FLAGS).returncode == 1
    assert artgen_here("damage", source / "**" / "*.png", source / "out", *FLAGS).returncode == 0
    assert len(list((source / "out" / "images").rglob("*.png"))) == COUNT


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((*FLAGS, "--seed", "1"), "seed: was 0, now 1"),
        (("--noise", "26", "--missing", "0.2"), "now {'noise': 26.0, 'missing': 0.2}"),
        ((*FLAGS, "--jpeg", "10"), "damage: was {'noise': 25.0, 'missing': 0.2}"),
    ],
)
def test_other_settings_are_refused(
    source: Path, tmp_path: Path, made: list[str], flags: tuple[str, ...], said: str
) -> None:
    assert artgen_here("damage", source, tmp_path / "out", *FLAGS).returncode == 1
    refused(source, tmp_path / "out", said, *flags)


def test_another_input_and_changed_files_are_refused(source: Path, tmp_path: Path, made: list[str]) -> None:
    assert artgen_here("damage", source, tmp_path / "out", *FLAGS).returncode == 1
    other = pictures.write_folder(tmp_path / "other", {"a.png": pictures.png(pictures.picture(9))})
    refused(other, tmp_path / "out", f"input: was {source}, now {other}", *FLAGS)
    (source / "0.png").write_bytes(pictures.png(pictures.picture(9)))
    refused(source, tmp_path / "out", "files of INPUT: have changed", *FLAGS)


@pytest.mark.parametrize("name", ["mine.txt", "damage.jsonl", "_artgen/run.json", "_damage/mine.txt"])
def test_a_folder_of_something_else_is_refused(source: Path, tmp_path: Path, name: str) -> None:
    refused(source, pictures.write_folder(tmp_path / "out", {name: b"keep"}), "is not empty", *FLAGS)


def test_no_other_command_takes_it_for_its_own(undisturbed: dict[str, str], source: Path, tmp_path: Path) -> None:
    output = tmp_path / "undisturbed"
    for command in (("restore", source, output, "--model", "identity", "--overwrite"), ("status", output)):
        assert artgen_here(*command).returncode == 2
    assert tree(output) == undisturbed


def refused(source: Path, output: Path, said: str, *flags: str) -> None:
    before = tree(output)
    result = artgen_here("damage", source, output, *flags)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr
    assert "choose a" in result.stderr
    assert tree(output) == before


class Locked(MemoryFileSystem):
    """A store that opens with its storage options alone."""

    protocol = "locked"
    cachable = False

    def __init__(self, secret: str = "") -> None:
        if secret != "open":
            raise ValueError("no secret")
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).replace("locked://", "memory://", 1))


def test_storage_options_open_input_and_output(source: Path, tmp_path: Path) -> None:
    fsspec.register_implementation("locked", Locked, clobber=True)
    Locked(secret="open").put(str(source), "/damage-test/in", recursive=True)
    command = ("damage", "locked://damage-test/in", "locked://damage-test/out", *FLAGS)
    assert artgen_here(*command).returncode == 2
    result = artgen_here(*command, "--storage-options", '{"secret": "open"}')
    assert result.returncode == 0, result.stderr
    found = Locked(secret="open").find("/damage-test/out")
    Locked(secret="open").get("/damage-test/out/", str(tmp_path / "got"), recursive=True)
    assert len(found) == 2 * COUNT + 3, found  # pictures, masks; record, lease, damage.jsonl
    assert artgen_here("damage", source, tmp_path / "out", *FLAGS).returncode == 0
    assert tree(tmp_path / "got" / "images") == tree(tmp_path / "out" / "images")


def test_a_compressed_tar_is_read_through_once_for_its_index(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[bool] = []
    real = targz.Gzip._kept_index

    def kept_index(gzip: targz.Gzip) -> bytes:
        index = real(gzip)
        kept.append(bool(index))
        return index

    monkeypatch.setattr(targz.Gzip, "_kept_index", kept_index)
    contents = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    archive = pictures.write_tar(tmp_path / "in.tar.gz", contents, "w:gz")
    assert artgen_here("damage", archive, tmp_path / "out", *FLAGS).returncode == 0
    assert kept == [False, True]  # the listing makes it, reading finds it
    kept.clear()
    flags = ("--damage", "noise=25", "--no-peers")
    assert artgen_here("evaluate", "restorer", "identity", archive, *flags).returncode == 0
    assert kept == [False, True]


@pytest.mark.parametrize(("flag", "said"), [("--max-pixels", "raise --max-pixels"), ("--image-timeout", "raise")])
def test_limits_on_one_image(source: Path, tmp_path: Path, flag: str, said: str) -> None:
    value = {"--max-pixels": "1200", "--image-timeout": "1e-6"}[flag]
    result = artgen_here("damage", source, tmp_path / "out", *FLAGS, flag, value)
    assert result.returncode == 3, result.stderr
    errors = [
        json.loads(line).get("error", "") for line in (tmp_path / "out/damage.jsonl").read_text().splitlines()
    ]
    assert said in errors[-1]
    assert artgen_here("damage", source, tmp_path / "other", *FLAGS, flag, "-1").returncode == 2
