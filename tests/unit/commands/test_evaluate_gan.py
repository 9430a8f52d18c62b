"""`artgen evaluate gan` in this process: figures whose answer is known, the cache, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from safetensors.torch import save_file

from artgen.codecs.pool import GuardPool
from artgen.errors import DecoderCrashed
from artgen.metrics.classifier import Classifier, ClassifierFacts, Network
from artgen.models.gans.weights import load_painter
from artgen.work import picture_set
from artgen.work.gan_evaluation import classes_as_in
from tests import pictures
from tests.generators import write_run
from tests.runs import artgen_here

COUNT = 132  # a little more than random features are


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Commands that ran here before leave torch with all of the cores, which gain nothing on pictures so small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("models") / "run")


@pytest.fixture(scope="module")
def output(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "out"
    sinks = ("--to", "png", "--to", "parquet", "--grid")
    result = artgen_here("generate", run, folder, "--seeds", f"0-{COUNT - 1}", *sinks, "--engine", "local")
    assert result.returncode == 0, result.stderr
    return folder


def write_kinds(folder: Path, kinds: dict[str, int], seed: int = 0) -> Path:
    """Pictures of 36 x 28 with a bright half on noise, in a folder for each kind of half."""
    dice = np.random.default_rng(seed)
    halves = {"left": np.s_[:, :18], "right": np.s_[:, 18:], "top": np.s_[:14]}
    for kind, count in kinds.items():
        for number in range(count):
            pixels = dice.integers(0, 120, (28, 36, 3)).astype(np.uint8)
            pixels[halves[kind]] += 100
            pictures.write_folder(folder, {f"{kind}/{number:03d}.png": pictures.png(Image.fromarray(pixels))})
    return folder


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("data"), {"left": 44, "right": 44, "top": 44})


def evaluate(*args: str | Path, code: int = 0) -> tuple[dict[str, Any], str]:
    result = artgen_here("evaluate", "gan", *args, "--samples", str(COUNT), "--device", "cpu", "--json")
    assert result.returncode == code, result.stderr + result.stdout
    return json.loads(result.stdout), result.stderr


def figures(facts: dict[str, Any]) -> list[float]:
    return [facts["metrics"][name] for name in ("fd_random", "kid_random", "precision", "recall")]


def test_a_generator_is_its_own_output_whatever_holds_it(run: Path, output: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    facts, _ = evaluate(run, output / "images", *cache)
    distance, kernel, precision, recall = figures(facts)
    assert distance == pytest.approx(0, abs=1e-6)
    assert kernel < 0  # unbiased: a set is nearer to itself than to another of its kind
    assert (precision, recall) == (1, 1)
    assert facts["left_out"] == {}
    assert "kid_random_deviation" not in facts["metrics"]  # all subsets would be the same one
    assert facts["fake"] == {
        "model": str(run), "model_sha256": load_painter(str(run)).sha256, "seeds": f"0-{COUNT - 1}", "truncation": 1.0,
        "precision": "fp32", "classes": "equally often", "images": COUNT, "unusable": 0, "first_unusable": {},
    }  # fmt: skip
    assert (facts["extractor"]["name"], facts["extractor"]["figure"]) == ("random", "fd_random")
    assert facts["pairs"]["real"] == facts["pairs"]["fake"] == COUNT
    for model, data in ((output, output / "images"), (output / "parquet", output)):
        found, _ = evaluate(model, data, *cache)
        # The same pictures, though perhaps in another order.
        assert figures(found) == pytest.approx(figures(facts), rel=1e-6, abs=1e-6), model
        assert found["fake"]["listed"] == found["real"]["listed"] == COUNT, "each picture of an OUTPUT once"


def test_seed_and_truncation_reach_the_sampler(run: Path, output: Path, tmp_path: Path) -> None:
    def found(*flags: str) -> list[float]:
        return figures(evaluate(run, output / "images", "--cache", tmp_path, *flags)[0])

    others, narrow = found("--seed", "1000"), found("--truncation", "0.3")
    assert 0.01 < others[0] < narrow[0]
    assert others[3] > narrow[3]


@pytest.mark.parametrize("flag", [("--truncation", "0.5"), ("--precision", "bf16")])
def test_flags_that_cannot_change_pictures_are_refused(output: Path, flag: tuple[str, str]) -> None:
    result = artgen_here("evaluate", "gan", output, output, *flag)
    assert result.returncode == 2
    assert "is pictures, which --truncation and --precision cannot change" in result.stderr


def test_pictures_against_pictures_and_what_is_unusable(kinds: Path, run: Path, tmp_path: Path) -> None:
    data = write_kinds(tmp_path / "in", {"left": 60, "right": 60, "top": 40}, seed=1)
    (data / "left" / "broken.png").write_bytes(b"\x89PNG no more")
    pictures.write_folder(data, {"z.jpg": pictures.jpeg(pictures.picture(1, 80, 50, grey=True))})
    cache = ("--cache", tmp_path / "cache")
    facts, said = evaluate(kinds, data, "--images", "162", *cache, code=3)
    real = facts["real"]
    assert (real["listed"], real["images"], real["unusable"], real["changed"]) == (162, 161, 1, 1)
    assert list(real["first_unusable"]) == ["left/broken.png"]
    assert facts["cache"]["from"] == "made now"
    assert "looking at 162 pictures of DATA" in said
    generated, said = evaluate(run, data, "--images", "162", *cache, code=3)
    assert generated["cache"]["from"] == "cache"
    assert "of DATA" not in said
    assert generated["real"] == real
    assert facts["metrics"]["fd_random"] < generated["metrics"]["fd_random"] / 3
    assert facts["metrics"]["precision"] > generated["metrics"]["precision"]
    place = Path(facts["cache"]["file"])
    sound = place.read_bytes()
    place.write_bytes(sound[:-5] + b"12345")
    text = artgen_here("evaluate", "gan", run, data, "--images", "162", "--samples", str(COUNT), *cache)
    assert text.returncode == 3
    assert f"the cache file {place} is broken and is made anew" in text.stderr
    assert place.read_bytes() == sound
    assert "it is not FID" in text.stdout
    assert "1 of DATA cannot be used, such as 'left/broken.png': DecodeFailed" in text.stdout


def test_the_cache_goes_by_the_pictures_themselves(kinds: Path, run: Path, tmp_path: Path) -> None:
    cache = ("--cache", tmp_path / "cache")
    first, _ = evaluate(run, kinds, *cache)
    copied = Path(shutil.copytree(kinds, tmp_path / "copy", copy_function=shutil.copyfile))
    copy, said = evaluate(run, copied, *cache)
    assert copy["cache"]["from"] == "cache"
    assert "of DATA" not in said
    assert copy["metrics"] == first["metrics"]
    path = copied / "left" / "000.png"
    before = path.stat()
    other = pictures.png(Image.new("RGB", (36, 28)))
    path.write_bytes(other + bytes(before.st_size - len(other)))  # PNG readers stop at the end of the picture
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed, _ = evaluate(run, copied, *cache)
    assert changed["cache"]["from"] == "made now"
    assert changed["real"]["images"] == COUNT
    assert changed["metrics"] != first["metrics"]


def test_what_a_decoder_that_died_left_out_is_not_kept(
    kinds: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the machine's fault, so the next run looks again."""
    cache, decode = ("--cache", tmp_path / "cache"), GuardPool.decode
    first = (kinds / "left" / "000.png").read_bytes()

    def dies(self: GuardPool, content: bytes) -> Any:
        if content == first:
            raise DecoderCrashed("the decoder died")
        return decode(self, content)

    with monkeypatch.context() as broken:
        broken.setattr(GuardPool, "decode", dies)
        facts, _ = evaluate(run, kinds, *cache, code=3)
    assert "DecoderCrashed" in json.dumps(facts)
    again, _ = evaluate(run, kinds, *cache)
    assert again["cache"]["from"] == "made now"
    assert again["real"]["images"] == COUNT


@pytest.mark.slow
def test_a_classifier_of_torchvision_sees_them(
    kinds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 512 features need more pictures than there are; what is shown is the way from the flag to the figures."""
    from torchvision.models import resnet18

    from artgen.work import gan_evaluation

    monkeypatch.setattr(gan_evaluation, "too_few", lambda *_: "")
    save_file(resnet18(weights=None).state_dict(), tmp_path / "r.safetensors")
    few = write_kinds(tmp_path / "few", {"left": 20, "top": 20}, seed=5)
    facts, _ = evaluate(
        few, few, "--extractor", f"resnet18:{tmp_path / 'r.safetensors'}", "--cache", tmp_path / "cache"
    )
    assert facts["metrics"]["fd_resnet18"] == pytest.approx(0, abs=1e-3)
    assert facts["metrics"]["kid_resnet18"] <= 0
    assert (facts["extractor"]["name"], facts["extractor"]["features"]) == ("resnet18", 512)


def test_the_users_cache_is_the_default_and_none_is_needed(
    output: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = output / "images"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts, _ = evaluate(run, data)
    assert Path(facts["cache"]["file"]).parent == tmp_path / "artgen"
    assert len(list((tmp_path / "artgen").iterdir())) == 1
    (tmp_path / "file").write_text("in the way")
    found, said = evaluate(run, data, "--cache", tmp_path / "file")
    assert "choose another --cache folder" in said
    assert found["metrics"] == facts["metrics"]


def test_a_classifier_counts_the_classes(kinds: Path, run: Path, tmp_path: Path) -> None:
    two = write_kinds(tmp_path / "two", {"left": 66, "right": 66}, seed=3)
    flags = ("--cache", tmp_path / "cache", "--extractor", "classifier")
    facts, said = evaluate(two, kinds, *flags, "--out", tmp_path / "out")
    assert "training a classifier on 132 pictures" in said
    found = facts["metrics"]
    assert (found["classes"], found["modes"], found["modes_real"]) == (3, 2, 3)
    assert found["kl_uniform"] == pytest.approx(np.log(3 / 2), abs=0.02)
    assert found["kl_real"] == pytest.approx(np.log(3 / 2), abs=0.1)
    assert found["recall"] < 0.9 < found["precision"]
    assert "right of 13 held out" in facts["extractor"]["note"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == facts
    again, said = evaluate(two, kinds, *flags)
    assert "training" not in said
    assert again["metrics"] == found
    given, _ = evaluate(
        two, kinds, "--cache", tmp_path / "2", "--classifier", tmp_path / "out/classifier.safetensors"
    )
    assert given["metrics"] == found
    assert given["extractor"] == facts["extractor"]
    blank = pictures.png(Image.new("RGB", (30, 30)))
    square = pictures.write_folder(tmp_path / "square", {f"{number}.png": blank for number in range(4)})
    result = artgen_here("evaluate", "gan", square, kinds, "--classifier", tmp_path / "out/classifier.safetensors")
    assert result.returncode == 2
    assert "36x28 with 3 channels, but those of MODEL are 30x30 with 3" in result.stderr


def test_the_storage_options_reach_the_classifier(kinds: Path, tmp_path: Path) -> None:
    class Locked(MemoryFileSystem):
        protocol = "locked"
        cachable = False

        def __init__(self, key: str = "", **rest: Any) -> None:
            super().__init__(**rest)
            self._open_to = key == "right"

        def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
            if not self._open_to:
                raise PermissionError(13, "no key was given")
            return content

    facts = ClassifierFacts(("left", "right"), 28, 36, 3, 0.5, 9, 1, 0)
    content = Classifier(Network(3, 2), facts).to_bytes()
    fsspec.register_implementation("locked", Locked, clobber=True)
    flags = ("--classifier", "locked://c.safetensors", "--cache", tmp_path / "cache")
    found, _ = evaluate(kinds, kinds, *flags, "--storage-options", '{"key": "right"}')
    assert found["extractor"]["name"] == "classifier"
    refused = artgen_here("evaluate", "gan", kinds, kinds, "--samples", str(COUNT), *flags)
    assert refused.returncode == 1
    assert "cannot read 'locked://c.safetensors': no key was given" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--samples", "128"], "needs 129 pictures on each side; there are 128 of DATA and 128 of MODEL"),
        (["--images", "4"], "there are 4 of DATA and 132 of MODEL: give more, raise --samples or --images"),
    ],
)
def test_of_few_pictures_only_the_frechet_distance_is_left_out(
    run: Path, kinds: Path, tmp_path: Path, flags: list[str], said: str
) -> None:
    command = ["evaluate", "gan", run, kinds, "--samples", str(COUNT), "--cache", tmp_path, *flags]
    facts = json.loads(artgen_here(*command, "--json").stdout)
    assert facts["metrics"]["fd_random"] is None
    assert said in facts["left_out"]["fd_random"]
    assert all(isinstance(facts["metrics"][name], float) for name in ("kid_random", "precision", "recall"))
    text = artgen_here(*command)
    assert text.returncode == 0, text.stderr
    assert "fd_random left out\n" in text.stdout
    assert f"left out: {facts['left_out']['fd_random']}" in text.stdout


def test_a_dry_run_takes_settings_from_everywhere_and_writes_nothing(
    run: Path, kinds: Path, tmp_path: Path
) -> None:
    (tmp_path / "e.toml").write_text("samples = 50\ntruncation = 0.5\nimages = 60\n")
    flags = ["--config", tmp_path / "e.toml", "--set", "images=70", "--seed", str(2**62 + 1), "--dry-run", "--json"]
    result = artgen_here("evaluate", "gan", run, kinds, "--samples", "40", *flags, "--cache", tmp_path / "c")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["samples"], told["images"], told["listed"], told["truncation"]) == (40, 70, COUNT, 0.5)
    assert (told["width"], told["height"], told["extractor"], told["seed"]) == (36, 28, "random", 2**62 + 1)
    assert not (tmp_path / "c").exists()
    refused = artgen_here("evaluate", "gan", run, kinds, "--set", "sample=4", "--dry-run")
    assert refused.returncode == 2
    assert "did you mean 'samples'" in refused.stderr


def test_sizes_that_differ(kinds: Path, tmp_path: Path) -> None:
    mixed = write_kinds(tmp_path / "mixed", {"left": COUNT})
    Image.new("RGB", (40, 28)).save(mixed / "left" / "100.png")
    result = artgen_here("evaluate", "gan", mixed, kinds, "--samples", str(COUNT), "--cache", tmp_path / "cache")
    assert result.returncode == 2
    assert "'left/100.png' is 40x28 RGB, the first is 36x28 RGB" in result.stderr


@pytest.mark.parametrize("name", ["000", "100"])
def test_a_grey_picture_among_coloured_ones_takes_no_colour_from_them(
    kinds: Path, tmp_path: Path, name: str
) -> None:
    mixed = write_kinds(tmp_path / "mixed", {"left": COUNT})
    Image.new("L", (36, 28)).save(mixed / "left" / f"{name}.png")
    result = artgen_here("evaluate", "gan", mixed, kinds, "--samples", str(COUNT), "--cache", tmp_path / "cache")
    assert result.returncode == 2
    assert "36x28 L" in result.stderr
    assert "give pictures of one generator, all of one size and mode" in result.stderr


def test_pictures_of_one_name_in_two_parts_are_counted_each(kinds: Path, output: Path, tmp_path: Path) -> None:
    parts = [write_kinds(tmp_path / name, {"left": 5}, seed) for seed, name in enumerate("ab")]
    for part in parts:
        (part / "left" / "broken.png").write_bytes(b"\x89PNG no more")
    facts, _ = evaluate(output, ",".join(map(str, parts)), "--cache", tmp_path / "cache", code=3)
    assert (facts["real"]["listed"], facts["real"]["images"], facts["real"]["unusable"]) == (12, 10, 2)
    assert set(facts["real"]["first_unusable"]) == {"left/broken.png", "left/broken.png#2"}


def test_an_out_that_cannot_be_written_is_told_before_anything_is_looked_at(
    kinds: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("looked at for nothing")

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(picture_set, "look_at", never)
    flags = ("--samples", str(COUNT), "--cache", tmp_path / "cache", "--out", tmp_path / "file" / "x")
    result = artgen_here("evaluate", "gan", output, kinds, *flags)
    assert result.returncode == 2, result.stderr
    assert f"--out {tmp_path}/file/x cannot be written to: " in result.stderr


def test_the_figures_are_told_even_if_they_cannot_be_kept(kinds: Path, output: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "evaluation.json").mkdir(parents=True)
    facts, said = evaluate(output, kinds, "--cache", tmp_path / "cache", "--out", tmp_path / "out", code=1)
    assert facts["metrics"]["fd_random"] > 0
    assert "evaluation.json" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--samples", "3"], "there are 3 pictures of DATA and 3 of MODEL, and a comparison needs 4 on each side"),
        (["--images", "2"], "there are 2 pictures of DATA and 132 of MODEL"),
        (["--samples", "0"], "--samples is 0"),
        (["--truncation", "1.5"], "--truncation is 1.5"),
        (["--seed", "-1"], "--seed -1"),
        (["--precision", "fp8"], "--precision fp8"),
        (["--device", "abacus"], "abacus"),
        (["--extractor", "vgg16"], "use random, classifier, inception:PATH, or NAME:PATH"),
        (
            ["--extractor", "resnet:/no/such.pth"],
            "torchvision has no classifier called 'resnet'; did you mean 'resnet",
        ),
        (["--extractor", "inception:/no/such.pth"], "/no/such.pth"),
        (["--extractor", "random", "--classifier", "x"], "drop one"),
        (["--classifier", "/no/such.safetensors"], "there is no classifier at"),
    ],
)
def test_wrong_flags_are_exit_code_2(run: Path, kinds: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    result = artgen_here("evaluate", "gan", run, kinds, "--samples", str(COUNT), "--cache", tmp_path, *flags)
    assert result.returncode == 2, result.stdout
    assert said in result.stderr


def test_wrong_models_and_data(run: Path, kinds: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pictures.write_folder(tmp_path / "bad", {f"{n}.png": b"no" for n in range(COUNT)})
    pictures.write_folder(tmp_path / "young", {"recipe.json": b"{}", "reals.png": b""})
    for model, data, said in (
        (tmp_path / "nothing", kinds, "there is no generator at"),
        (tmp_path / "young", kinds, "there is no generator at"),
        (tmp_path / "empty", kinds, "is no generator and holds no picture"),
        (tmp_path / "bad", kinds, "MODEL holds no picture that can be read"),
        (run, tmp_path / "empty", "holds no image"),
        (run, tmp_path / "bad", "not one of the pictures can be read"),
        (run, tmp_path / "gone", "does not exist"),
    ):
        result = artgen_here("evaluate", "gan", model, data, "--samples", str(COUNT), "--cache", tmp_path / "cache")
        assert result.returncode == 2, (model, data)
        assert said in result.stderr, result.stderr
    restorer = Path(__file__).parents[3] / "artgen" / "models" / "weights" / "default.safetensors"
    result = artgen_here("evaluate", "gan", restorer, kinds, "--samples", str(COUNT))
    assert result.returncode == 2
    assert "is a restorer" in result.stderr


def test_a_generator_with_classes_draws_them_as_often_as_they_are_in_data(run: Path, tmp_path: Path) -> None:
    names = load_painter(str(run)).facts.classes
    counts = {name: 12 * (number + 1) for number, name in enumerate(names)}
    data = tmp_path / "data"
    for name, count in counts.items():
        for number in range(count):
            pictures.write_folder(data, {f"{name}/{number}.png": pictures.png(pictures.picture(number, 36, 28))})
    numbers = classes_as_in(str(data), names, 60, None)
    assert numbers is not None
    total = sum(counts.values())
    assert [numbers.count(place) for place in range(len(names))] == [60 * counts[name] // total for name in names]
    assert classes_as_in(str(data), [*names, "more"], 60, None) is None
    assert classes_as_in(str(data / names[0]), names, 60, None) is None
    flags = ("--samples", "60", "--cache", tmp_path / "cache", "--json")
    told = json.loads(artgen_here("evaluate", "gan", run, data, *flags).stdout)
    assert told["fake"]["classes"] == "as often as in DATA"
    told = json.loads(artgen_here("evaluate", "gan", run, data / names[0], *flags).stdout)
    assert told["fake"]["classes"] == "equally often"
