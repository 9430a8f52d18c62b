"""`artgen generate` in this process: what it leaves behind, and what it refuses before any work."""

from __future__ import annotations

import io
import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from artgen.inference.sample import sample
from artgen.models.gans.weights import load_painter
from tests.generators import write_run
from tests.runs import artgen_here, rows, run_json, tree


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("models") / "run")


def generate(*args: str | Path) -> None:
    result = artgen_here("generate", *args, "--engine", "local", "--workers", "2")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def output(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "out"
    generate(run, folder, "--seeds", "0-39,70", "--to", "png", "--to", "parquet", "--to", "webdataset",
             "--grid", "9", "--interpolate", "4,7,1", "--frames", "5")  # fmt: skip
    return folder


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_seed_is_in_every_sink_once(run: Path, output: Path) -> None:
    seeds = [*range(40), 70]
    found = rows(output)
    assert [row["seed"] for row in found] == seeds
    assert {row["status"] for row in found} == {"ok"}
    expected = sample(load_painter(str(run)), seeds)
    (part,) = (output / "parquet").iterdir()
    table = pq.read_table(part)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"] == {"image": {"_type": "Image"}}
    for row, pixels, other in zip(found, expected, table.to_pylist(), strict=True):
        path = output / row["output_uri"]
        assert np.array_equal(picture(path), pixels), row["key"]
        assert other["image"]["bytes"] == path.read_bytes()
        assert (other["seed"], other["class_name"]) == (row["seed"], ("cat", "dog", "eel")[row["seed"] % 3])
        assert other["model_sha256"] == row["model_sha256"]
        assert other["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    (shard,) = (output / "shards").iterdir()
    import webdataset

    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert [item["json"]["seed"] for item in samples] == seeds


def test_grid_frames_and_report(run: Path, output: Path) -> None:
    expected = sample(load_painter(str(run)), range(9))
    grid = picture(output / "grid.png")
    assert grid.shape == (84, 108, 3)
    assert np.array_equal(grid[28:56, 36:72], expected[4])
    frames = sorted((output / "interpolation").glob("frame-*.png"))
    assert [path.name for path in frames] == [f"frame-{number:05d}.png" for number in range(9)]
    stops = sample(load_painter(str(run)), [4, 7, 1], [1, 1, 1])
    for number, pixels in zip((0, 4, 8), stops, strict=True):
        assert np.array_equal(picture(frames[number]), pixels)
    between = [np.abs(picture(a).astype(int) - picture(b)).mean() for a, b in pairwise(frames)]
    assert max(between) < np.abs(stops[0].astype(int) - stops[1]).mean()
    with Image.open(output / "interpolation" / "animation.webp") as animation:
        assert getattr(animation, "n_frames", 1) == 9
        assert b"trainedAlgorithmicMedia" in animation.info["xmp"]
    assert b"trainedAlgorithmicMedia" in (output / "grid.png").read_bytes()
    page = (output / "report.html").read_text()
    assert "41 pictures generated." in page
    assert run_json(output)["model"]["sha256"] in page


def test_the_report_shows_as_many_as_are_asked_for(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    generate(run, output, "--seeds", "0-8")
    page = output / "report.html"
    for flags, shown in (["--sample", "4"], 4), ([], 9):
        assert artgen_here("report", output, *flags).returncode == 0
        assert page.read_text().count('alt="Generated from seed') == shown


def test_frames_are_made_once_and_those_of_another_route_go(run: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "out", tmp_path / "out" / "interpolation"
    same = (run, output, "--interpolate", "4,7,1")
    generate(*same, "--frames", "5")
    told = json.loads((folder / "route.json").read_text())
    assert (told["seeds"], told["frames"], told["class"], told["truncation"]) == ([4, 7, 1], 5, [1], 1.0)
    assert told["model_sha256"] == load_painter(str(run)).sha256
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    assert len(before) == 11
    generate(*same, "--frames", "5")
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before
    whole = tree(folder)
    for name in ("frame-00003.png", "animation.webp", "route.json"):  # as a crash may leave it
        (folder / name).unlink()
        generate(*same, "--frames", "5")
        assert tree(folder) == whole
    generate(*same, "--frames", "3")
    assert len(list(folder.glob("frame-*.png"))) == 5
    generate(run, output, "--interpolate", "1,2", "--frames", "3")
    generate(run, tmp_path / "new", "--interpolate", "1,2", "--frames", "3")
    assert tree(folder) == tree(tmp_path / "new" / "interpolation")


def test_units_threads_and_sinks_do_not_change_a_picture(run: Path, output: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "0-39,70", "--unit-images", "7", "--set", "workers=1")
    assert tree(tmp_path / "out" / "images") == tree(output / "images")


def test_more_seeds_join_and_the_same_command_does_nothing(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    generate(run, output, "--seeds", "0-9")
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    generate(run, output, "--seeds", "5-14")
    assert [row["seed"] for row in rows(output)] == list(range(15))
    generate(run, output, "--seeds", "5-14")
    assert [entry["images"] for entry in run_json(output)["runs"]] == [10, 5, 0]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    generate(run, output, "--seeds", "2", "--overwrite")
    assert [row["seed"] for row in rows(output)] == [2]
    assert len(list(output.rglob("seed-*.png"))) == 1


def test_chosen_classes(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "0-3", "--classes", "eel,0")
    assert [row["class_name"] for row in rows(tmp_path / "out")] == ["eel", "cat", "eel", "cat"]


def test_the_report_finds_the_training_pictures(run: Path, output: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("seed-000000001.png", "seed-000000002.png"):
        (data / name).write_bytes((output / "images" / "00000" / name).read_bytes())
    (data / "broken.png").write_bytes(b"\x89PNG no more")
    generate(run, tmp_path / "out", "--seeds", "0-3", "--data", data)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "seed 2 · seed-000000002.png · distance 0.0" in page
    assert "2 training pictures" in page


def test_the_report_compares_what_the_model_was_shown(run: Path, output: Path, tmp_path: Path) -> None:
    """Cut to the model's shape, laid on white and in its mode, as training does."""
    data = tmp_path / "data"
    data.mkdir()
    for seed, name in ((1, "wide"), (2, "deep")):
        with Image.open(output / "images" / "00000" / f"seed-{seed:09d}.png") as image:
            sides = Image.effect_noise((44, 28), 90).convert("RGB")
            sides.paste(image, (4, 0))
            sides.putalpha(255)
            sides.crop((0, 0, 44, 28)).save(data / f"{name}.png")
    generate(run, tmp_path / "out", "--seeds", "0-3", "--data", data)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "seed 1 · wide.png · distance 0.0" in page
    assert "seed 2 · deep.png · distance 0.0" in page


def test_the_report_is_made_anew_from_any_folder_and_says_what_is_gone(
    run: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    name = "seed-000000001.png"
    (tmp_path / "data" / name).write_bytes((output / "images" / "00000" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    generate(run, "out", "--seeds", "0-3", "--data", "data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for text in ("Nearest training pictures", "The training pictures are not beside these: DATA"):
        assert artgen_here("report", "../out").returncode == 0
        assert text.partition("DATA")[0] in (tmp_path / "out" / "report.html").read_text()
        shutil.rmtree(tmp_path / "data", ignore_errors=True)


def test_overwrite_tells_of_files_that_it_did_not_make(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "0-3")
    (tmp_path / "out" / "images" / "mine.txt").write_text("kept for years")
    result = artgen_here("generate", run, tmp_path / "out", "--seeds", "0-3", "--overwrite", "--engine", "local")
    assert "1 file below images/ that artgen did not make will be removed too" in result.stderr


def test_training_pictures_may_lie_in_several_places(run: Path, output: Path, tmp_path: Path) -> None:
    for folder, name in (("a", "seed-000000001.png"), ("b", "seed-000000002.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes((output / "images" / "00000" / name).read_bytes())
    generate(run, tmp_path / "out", "--seeds", "0-3", "--data", f"{tmp_path / 'a'},{tmp_path / 'b'}")
    assert "2 training pictures" in (tmp_path / "out" / "report.html").read_text()


def test_training_pictures_and_output_must_lie_apart(run: Path, output: Path, tmp_path: Path) -> None:
    data = shutil.copytree(output / "images", tmp_path / "data")
    for place, told in (
        (data / "out", f"OUTPUT {data}/out lies in --data {data}"),
        (tmp_path, f"--data {data} lies in OUTPUT"),
    ):
        result = artgen_here("generate", run, place, "--seeds", "0-3", "--overwrite", "--data", data)
        assert (result.returncode, told in result.stderr) == (2, True), result.stderr
    assert not (data / "out").exists()


def test_a_dry_run_tells_the_plan_and_starts_nothing(run: Path, tmp_path: Path) -> None:
    result = artgen_here("generate", run, tmp_path / "out", "--seeds", "0-999999999", "--dry-run", "--json")
    told = json.loads(result.stdout)
    assert (told["images"], told["units"], told["unit_images"]) == (10**9, 99_841, 10_016)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds", "9-0"], "runs backwards"),
        (["--seeds", "1,x"], "'x' is no seed"),
        (["--seeds", ""], "names no seed"),
        (["--truncation", "1.5"], "truncation 1.5 is out of range"),
        (["--truncation", "nan"], "truncation nan is out of range"),
        (["--classes", "unicorn"], "this model has cat, dog, eel"),
        (["--classes", "3"], "numbers 0 to 2"),
        (["--grid", "1000"], "grid 1000 is out of range"),
        (["--grid", "0"], "grid 0 is out of range: use 1 to 256 pictures"),
        (["--seeds", "9" * 5000], "is too large; use 0 to"),
        (["--classes", "9" * 5000], "numbers 0 to 2"),
        (["--interpolate", "4"], "names 1 seed"),
        (["--interpolate", "4,b"], "--interpolate 'b'"),
        (["--interpolate", "4,,7"], "--interpolate '4,,7' has a comma with no seed beside it"),
        (["--interpolate", "0-999999999"], "frames, more than 10000"),
        (["--interpolate", "0-99", "--frames", "200"], "with 100 seeds and --frames 200 makes 19702 frames"),
        (["--frames", "1"], "frames 1 is out of range"),
        (["--data", "nowhere"], "--data: "),
        (["--data", f"{Path(__file__).parent},nowhere"], "holds no image"),
        (["--format", "gif"], "format 'gif' is not known"),
        (["--precision", "fp64"], "precision 'fp64' is not known"),
        (["--engine", "local", "--address", "x:1"], "takes no cluster address"),
    ],
)
def test_wrong_values_stop_before_work(run: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    result = artgen_here("generate", run, tmp_path / "out", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_models_that_are_none_of_ours(tmp_path: Path) -> None:
    (tmp_path / "foreign.safetensors").write_bytes(save({"a": torch.zeros(2)}))
    (tmp_path / "restorer.safetensors").write_bytes(save({"a": torch.zeros(2)}, {"artgen": "{}"}))
    (tmp_path / "text.safetensors").write_bytes(b"no weights")
    (tmp_path / "code.pth").write_bytes(b"no weights")
    for model, message in (
        ("foreign.safetensors", "is no generator of artgen"),
        ("restorer.safetensors", "is a restorer; use it as in `artgen restore"),
        ("text.safetensors", "not a sound safetensors file"),
        ("code.pth", "may hold code"),
        ("nothing", "there is no generator at"),
    ):
        result = artgen_here("generate", tmp_path / model, tmp_path / "out")
        assert result.returncode == 2, result.stderr
        assert message in result.stderr
        assert not (tmp_path / "out").exists()


def test_classes_for_a_model_without(tmp_path: Path) -> None:
    model = write_run(tmp_path / "run", classes=())
    result = artgen_here("generate", model, tmp_path / "out", "--classes", "cat")
    assert result.returncode == 2
    assert "this model has no classes" in result.stderr


def test_an_output_of_another_truncation_is_refused(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "0-1")
    result = artgen_here("generate", run, tmp_path / "out", "--seeds", "0-1", "--truncation", "0.5")
    assert result.returncode == 2
    assert "truncation: was 1.0, now 0.5" in result.stderr


def test_the_same_weights_at_another_place_go_on(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "0-1")
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    generate(moved, tmp_path / "out", "--seeds", "0-3")
    assert len(rows(tmp_path / "out")) == 4


def test_only_an_interpolation(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--interpolate", "1,2", "--frames", "3", "--format", "webp")
    assert len(list((tmp_path / "out" / "interpolation").iterdir())) == 5
    assert not (tmp_path / "out" / "images").exists()
    assert "the frames lie in interpolation/" in (tmp_path / "out" / "report.html").read_text()


def test_a_grid_beside_an_interpolation_is_made_of_the_first_seeds(run: Path, tmp_path: Path) -> None:
    flags = ("--interpolate", "1,2", "--frames", "3", "--grid", "4")
    told = json.loads(artgen_here("generate", run, tmp_path / "out", *flags, "--dry-run", "--json").stdout)
    assert (told["images"], told["grid"], told["frames"]) == (64, 4, 3)
    generate(run, tmp_path / "out", *flags)
    assert picture(tmp_path / "out" / "grid.png").shape == (56, 72, 3)
    assert len(rows(tmp_path / "out")) == 64


def test_a_grid_is_png_bytes(run: Path, tmp_path: Path) -> None:
    generate(run, tmp_path / "out", "--seeds", "3", "--grid", "--format", "jpeg")
    with Image.open(io.BytesIO((tmp_path / "out" / "grid.png").read_bytes())) as image:
        assert (image.format, image.size) == ("PNG", (36, 28))
    assert next((tmp_path / "out" / "images" / "00000").iterdir()).suffix == ".jpg"
