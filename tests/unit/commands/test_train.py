"""What `artgen train` says while it goes, and the places that it refuses."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from artgen.commands import train
from artgen.commands.train import GanProgress, check_places, settings
from artgen.console import Console
from artgen.errors import RunError, StorageError, UsageError
from artgen.storage import atomic, uri
from artgen.training import run
from artgen.training.gan_recipe import gan_recipe_names, load_gan_recipe
from artgen.training.pictures import shown_parts
from artgen.training.recipe import TrainConfig
from tests.pictures import files, write_folder
from tests.runs import artgen_here, tree


def test_a_report_of_a_gan_without_one_good_step_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    GanProgress(Console())({"images": 4000, "progress": 0.5, "skipped": 10, "images_per_s": 7.0, "left_s": 60.0})
    assert "D nan  G nan  D right nan %  7.0 images/s  0:01:00 left  10 steps skipped" in capsys.readouterr().err


def test_a_run_inside_of_data_with_a_comma_in_its_path_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "a,b"
    data.mkdir()
    with pytest.raises(UsageError, match="lies in DATA"):
        check_places(TrainConfig(data=str(data), folder=str(data / "run")))
    check_places(TrainConfig(data=str(data), folder=str(tmp_path / "run")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("model=nope", "no model is called 'nope'"),
        ("patch_px=30", "takes multiples of 8: use 24 or 32"),
        ('damage={"rain": 1}', "no training damage is called 'rain'"),
        ('damage={"noise": "x"}', "give each kind a number"),
        ("precision=fp17", "precision is 'fp17'"),
        ('params={"wrong": 1}', "does not take the parameters {'wrong': 1}"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_anything_is_looked_at(
    changes: str, message: str
) -> None:
    with pytest.raises(UsageError) as refused:
        settings({"data": "nowhere", "folder": "nowhere too", "set": [changes]})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("model=nope", "no GAN is called 'nope'"),
        ('generator={"foo": 1}', "the generator 'dcgan' does not take the parameters {'foo': 1}"),
        ('discriminator={"foo": 1}', "the discriminator 'dcgan' does not take the parameters {'foo': 1}"),
        ('generator={"base": -3}', "'dcgan' cannot be built with generator = {'base': -3}"),
        ('generator={"base": 0}', "'dcgan' has a layer without a single weight"),
        ("height=30", "cannot halve one of 30x28 pixels"),
        ("width=300", "width is 300; use 28 to 256"),
        ("seed=18446744073709551616", "seed is 18446744073709551616; use"),
        ("discriminator={}", "'dcgan' has batch norm"),
    ],
)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_gan_that_cannot_be_is_refused_before_anything_is_looked_at(
    tmp_path: Path, changes: str, message: str, engine: str
) -> None:
    refused = artgen_here(
        "train", "gan", "nowhere", tmp_path / "run", "--dry-run", "--engine", engine, "--set", changes
    )
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", gan_recipe_names())
def test_a_gan_that_can_be_is_not(recipe: str) -> None:
    for changes in ([], ["classes=true"], ["height=32", "width=64", "channels=4"]):
        settings({"data": "x", "folder": "y", "recipe": recipe, "set": changes}, load_gan_recipe)


def test_a_size_that_nobody_set_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    GanProgress(Console())({"size_rule": "all pictures become 256x168 pixels", "step": 0})
    assert "all pictures become 256x168 pixels" in capsys.readouterr().err


@pytest.mark.parametrize("made", ["manifest/part-0.parquet", "_artgen/settings.json"])
def test_an_output_is_no_run_and_a_run_is_no_output(tmp_path: Path, made: str) -> None:
    data = write_folder(tmp_path / "in", files(2))
    output = write_folder(tmp_path / "out", {made: b"{}", "_artgen/lock": b""})
    refused = artgen_here("train", "restorer", data, output)
    assert refused.returncode == 2
    assert f"RUN {output} is an OUTPUT of restore or generate" in refused.stderr

    trained = write_folder(tmp_path / "run", {"recipe.json": b"{}", "_artgen/lock": b""})
    for command in (["restore", data, trained, "--model", "identity"], ["generate", "default", trained]):
        refused = artgen_here(*command)
        assert refused.returncode == 2
        assert f"OUTPUT {trained} is the RUN of a training" in refused.stderr
    check_places(TrainConfig(data=str(data), folder=str(trained)))


def test_a_dry_run_shows_no_password(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in", files(2))
    shipped = resources.files("artgen.models").joinpath("weights", "default.safetensors").read_bytes()
    start = "memory://me:SECRET@host/a.safetensors"
    atomic.write(start, shipped)
    flags = ("--dry-run", "--json", "--set")
    planned, refused = (
        artgen_here("train", "restorer", data, "memory://me:SECRET@host/run", *flags, f"start={weights}")
        for weights in (start, "https://me:SECRET@127.0.0.1:9/a.safetensors?sig=SECRET")
    )
    assert planned.returncode == 0, planned.stdout
    assert refused.returncode == 2, refused.stdout
    assert "https://127.0.0.1:9/a.safetensors" in refused.stdout
    for told in (planned, refused):
        assert "SECRET" not in told.stdout + told.stderr
    facts = json.loads(planned.stdout)
    assert (facts["run"], facts["recipe"]["start"]) == ("memory://host/run", "memory://host/a.safetensors")


def test_no_part_of_data_shows_its_password() -> None:
    assert shown_parts("a,https://me:SECRET@host/y.zip?sig=T") == "a,https://host/y.zip"
    assert shown_parts(["a,b", "s3://c/d"]) == "a,b,s3://c/d"


@pytest.mark.parametrize("flags", [[], ["--quiet"], ["--quiet", "--json"]])
def test_quiet_leaves_out_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(run, "train_restorer", fails)
    data = write_folder(tmp_path / "in", files(2))
    ended = artgen_here("train", "restorer", data, f"memory://me:SECRET@host{tmp_path}", *flags)
    assert ended.returncode == 1
    assert "the disk is full" in ended.stderr
    assert ("the disk is full" in ended.stdout) == ("--json" in flags)
    assert "SECRET" not in ended.stdout + ended.stderr
    uri.remove("memory://host", None)


def test_a_bad_recipe_of_a_gan_is_told_by_the_file_that_was_given(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("a = = 2")
    refused = artgen_here("train", "gan", tmp_path, tmp_path / "run", "--recipe", bad)
    assert refused.returncode == 2
    assert f"'{bad}' is not valid TOML" in refused.stderr
    assert "--config" not in refused.stderr


def test_a_dry_run_of_a_restorer_tells_device_and_precision_and_refuses_too_many_workers(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "in", files(2))
    planned = artgen_here("train", "restorer", data, tmp_path / "run", "--dry-run", "--device", "cpu", "--json")
    assert planned.returncode == 0, planned.stderr
    told = json.loads(planned.stdout)
    assert told["device"] == "cpu"
    assert told["precision"] in ("fp32", "bf16")
    refused = artgen_here("train", "restorer", data, tmp_path / "run", "--dry-run", "--workers", "2:9")
    assert refused.returncode == 2
    assert "batch_images is 8, too few for 9 workers" in refused.stderr


def test_a_run_that_ends_before_its_first_checkpoint_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RunError("it went astray")

    monkeypatch.setattr(run, "train_restorer", fails)
    data = write_folder(tmp_path / "in", files(2))
    ended = artgen_here("train", "restorer", data, tmp_path / "run")
    assert ended.returncode == 1
    assert "it went astray; nothing is saved yet: the same command begins anew" in ended.stdout + ended.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", files(4))


def test_a_run_of_the_other_training_is_refused_untouched(data: Path, tmp_path: Path) -> None:
    small = ("--set", "steps=1", "--set", "batch_images=2", "--set", "patch_px=24", "--set", "holdout=0")
    assert artgen_here("train", "restorer", data, tmp_path / "r", "--recipe", "dncnn", *small).returncode == 0
    few = ("--set", "images=2", "--set", "batch_images=2", "--set", "shards=1")
    before = tree(tmp_path / "r")
    refused = artgen_here("train", "gan", data, tmp_path / "r", *few)
    assert refused.returncode == 2
    assert "is a run of `artgen train restorer`: choose another RUN" in refused.stderr
    assert tree(tmp_path / "r") == before


@pytest.mark.parametrize("kind", ["gan", "restorer"])
def test_memory_that_ends_is_told_with_what_takes_less(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: 9 bytes\nat x"
        )

    monkeypatch.setattr(train, "_train_here", full)
    ended = artgen_here("train", kind, data, tmp_path / kind, "--set", "batch_images=4")
    assert ended.returncode == 1
    assert "can't allocate memory: 9 bytes; take a smaller " in ended.stderr
    assert "mistake of artgen" not in ended.stderr
