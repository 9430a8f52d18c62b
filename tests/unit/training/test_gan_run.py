"""The loop, the checkpoints and the run folder together, on real files."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save

from artgen.errors import RunError, StorageError, UsageError
from artgen.inference.sample import sample
from artgen.models.gans.weights import painter_from
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe, gan_recipe_names, load_gan_recipe
from artgen.training.gan_run import train_gan
from artgen.training.gan_scribe import grid_name
from artgen.training.gan_state import load_gan, save_gan
from artgen.training.journal import read_log
from artgen.training.loop_gan import Unstable, train
from artgen.training.shards import Shards
from artgen.training.state import check_same, last_step
from tests.runs import tree
from tests.unit.training import gan_ranks


def recipe(**changes) -> GanRecipe:
    values = {
        "model": "r3", "generator": gan_ranks.R3, "discriminator": gan_ranks.R3, "batch_images": 4, "shards": 2,
        "images": 80, "latent": 8, "report_steps": 5, "look_images": 40, "precision": "fp32", "classes": True,
        "augment": 0.3, "augment_target": 1.0, "halflife_images": 8,
    }  # fmt: skip
    return GanRecipe(**{**values, **changes})


MLP = {"model": "mlp", "generator": {"widths": [8]}, "discriminator": {"widths": [8]}, "augment": 0.0}


@pytest.fixture
def data(tmp_path) -> str:
    dice = np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1", "b/2", "b/3"):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (28, 32), np.uint8)).save(path)
    (tmp_path / "data" / "a" / "broken.png").write_bytes(b"\x89PNG nothing")
    return str(tmp_path / "data")


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    place = run / "checkpoints" / f"step-{step:08d}"
    networks = {
        f"{part}/{key}": value
        for part in ("generator", "discriminator", "mean")
        for key, value in load_file(place / f"{part}.safetensors").items()
    }
    for part in ("generator_optimizer", "discriminator_optimizer"):
        saved = torch.load(place / f"{part}.pt", weights_only=True)
        networks |= {f"{part}/{n}/{key}": v for n, values in saved["state"].items() for key, v in values.items()}
    return networks


def test_ten_steps_and_ten_more_are_twenty_bit_for_bit(data, tmp_path):
    settings = recipe()
    train_gan(data, str(tmp_path / "straight"), settings)

    def stop(numbers):
        if numbers["step"] == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_gan(data, str(tmp_path / "broken"), replace(settings, checkpoint_minutes=0.0), report=stop)
    assert not (tmp_path / "broken" / "checkpoints" / "step-00000010").exists()
    train_gan(data, str(tmp_path / "broken"), settings)
    straight, broken = tensors(tmp_path / "straight", 20), tensors(tmp_path / "broken", 20)
    assert straight.keys() == broken.keys()
    assert [key for key in straight if not torch.equal(straight[key], broken[key])] == []
    positions = [
        json.loads((tmp_path / run / "checkpoints" / "step-00000020" / "position.json").read_text())
        for run in ("straight", "broken")
    ]
    # A target of 1 is never passed, so the probability falls at every step.
    assert positions[0]["augment"] == positions[1]["augment"] < settings.augment
    assert len(list((tmp_path / "broken" / "checkpoints").iterdir())) == 2
    assert [line["resumed_at"] for line in read_log(str(tmp_path / "broken")) if "resumed_at" in line] == [-1, 9]


def test_a_run_leaves_a_model_a_log_grids_and_what_became_of_the_data(data, tmp_path):
    run = tmp_path / "run"
    path = train_gan(data, str(run), recipe())
    painter = painter_from(Path(path).read_bytes(), path)
    assert (painter.facts.height, painter.facts.width, painter.facts.classes) == (28, 32, ("a", "b"))
    assert sample(painter, [3]).shape == (1, 28, 32, 1)
    told = json.loads((run / "data.json").read_text())
    assert told["images"] == 5
    assert told["size_rule"] == ""
    assert list(told["unusable"]) == ["a/broken.png"]
    assert sorted(p.name for p in run.glob("*.png")) == [
        "fakes-000000_040.png",
        "fakes-000000_080.png",
        "reals.png",
    ]
    for name in ("fakes-000000_080.png", "interpolation.gif"):
        content = (run / name).read_bytes()
        assert b"trainedAlgorithmicMedia" in content, name
        assert b"in training, 80 images seen" in content, name
    assert b"trainedAlgorithmicMedia" not in (run / "reals.png").read_bytes()
    with Image.open(run / "interpolation.gif") as film:
        assert (film.size, film.n_frames) == ((4 * 32, 4 * 28), 48)  # pyright: ignore[reportAttributeAccessIssue]
    best = painter_from((run / "best.safetensors").read_bytes(), "best")
    assert best.facts == painter.facts
    looks = [line for line in read_log(str(run)) if "fd_random" in line]
    assert [line["step"] for line in looks] == [10, 20]
    assert all(line["fd_random"] > 0 and line["diversity"] > 0 for line in looks)
    assert Image.open(run / "fakes-000000_040.png").size == (8 * 32, 8 * 28)
    curves = [line for line in read_log(str(run)) if "d_loss" in line]
    assert [line["step"] for line in curves] == [5, 10, 15, 20]
    named = {
        "images",
        "d_loss",
        "g_loss",
        "r1",
        "r2",
        "d_right",
        "d_grad",
        "g_grad",
        "augment",
        "images_per_s",
        "gamma",
    }
    assert named <= curves[0].keys()
    assert curves[0]["gamma"] > curves[-1]["gamma"]
    assert list((run / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("name", ["article", "dcgan", "dcgan-tuned", "default", "r3"])
def test_every_shipped_recipe_takes_a_step(name):
    small = {"mlp": {"widths": [8]}, "dcgan": {"base": 4}, "r3": gan_ranks.R3}[load_gan_recipe(name).model]
    changes = {"batch_images": 4, "shards": 2, "images": 4, "generator": small, "report_steps": 1}
    settings = load_gan_recipe(name, {**changes, "discriminator": {**load_gan_recipe(name).discriminator, **small}})
    _, told = gan_ranks.trained(settings)
    assert all(math.isfinite(value) for value in told[0].values())
    assert 0 <= told[0]["d_right"] <= 1
    assert told[0]["skipped"] == 0


def test_the_shipped_recipes_and_changes_on_top(tmp_path):
    assert gan_recipe_names() == ["article", "dcgan", "dcgan-tuned", "default", "r3"]
    assert load_gan_recipe("article").latent == 100
    assert load_gan_recipe("default", {"images": 3}, ["gamma=7"]).gamma == 7
    (tmp_path / "mine.toml").write_text('model = "dcgan"\ngamma-end = 2\n')
    assert load_gan_recipe(str(tmp_path / "mine.toml")).gamma_end == 2
    for name, sets, message in (
        ("nothing", None, "no GAN recipe 'nothing'"),
        ("default", ["gama=3"], "did you mean 'gamma'"),
        ("default", ["gamma=-3"], r"gamma is -3\.0; use 0 or more"),
        ("default", ["beta2=1"], r"beta2 is 1\.0; use 0 to 0\.9999999"),
        ("default", ["gamma=inf"], "gamma is inf; use a finite number"),
        ("default", ["learning_rate=1e999"], "learning_rate is inf; use a finite number"),
        ("default", ["latent=100000"], "latent is 100000; use 1 to 65536"),
        ("default", ["generator=5"], "generator is not a table of KEY = VALUE: on a command line write it as JSON"),
        ("default", ["channels=2"], r"channels is 2; use 1 \(grey\)"),
        ("default", ["game=chess"], "game 'chess' is not known"),
        ("default", ["augment_end=2"], "use 0 to 1"),
    ):
        with pytest.raises(UsageError, match=message):
            load_gan_recipe(name, sets=sets)


def test_a_batch_that_does_not_divide_up_is_refused():
    with pytest.raises(UsageError, match="batch_images is 6, which 4 shards cannot share"):
        Shards(6, 4)
    with pytest.raises(UsageError, match="3 workers cannot share 2 shards"):
        Shards(6, 2, 0, 3)
    with pytest.raises(UsageError, match="batch_images is 64, which 3 workers cannot share"):
        Shards(64, 0, 0, 3)
    assert [list(Shards(12, 4, rank, 3).ours) for rank in range(3)] == [[0], [1], [2, 3]]
    assert [list(Shards(12, 0, rank, 3).ours) for rank in range(3)] == [[0], [1], [2]]


def test_steps_that_are_not_finite_change_nothing_and_many_end_the_run():
    state, _ = gan_ranks.start(gan_ranks.RECIPE)
    before = {key: value.clone() for key, value in gan_ranks.weights_of(state).items()}

    def loud(first: int, count: int) -> Reals:
        return Reals(torch.full((count, 1, 28, 28), math.nan), None)

    settings = recipe(images=10**4, classes=False)
    with pytest.raises(RunError, match="20 steps in a row were not finite"):
        train(state, loud, 8, settings, report=lambda _: None, look=lambda _: None, save=lambda _: None)
    assert all(torch.equal(before[key], value) for key, value in gan_ranks.weights_of(state).items())


def test_one_pass_that_is_not_finite_leaves_running_statistics_as_they_were():
    state, real = gan_ranks.start(gan_ranks.DCGAN)
    reals, told = partial(real.batch, gan_ranks.DCGAN), []
    run = partial(train, state, reals, 8, report=told.append, look=lambda _: None, save=lambda _: None)
    run(replace(gan_ranks.DCGAN, images=16))
    before = {key: value.clone() for key, value in gan_ranks.weights_of(state).items()}
    assert any("running_var" in key for key in before)
    hook = state.generator.register_forward_pre_hook(lambda _, given: (given[0] * math.inf, *given[1:]))
    with pytest.raises(Unstable, match=r"the last steps were not finite \(1 of them\)"):
        run(replace(gan_ranks.DCGAN, images=24, report_steps=1))
    hook.remove()
    assert told[-1]["skipped"] == 1
    assert all(torch.equal(before[key], value) for key, value in gan_ranks.weights_of(state).items())
    run(replace(gan_ranks.DCGAN, images=32, report_steps=1))
    assert told[-1]["skipped"] == 0
    assert all(value.isfinite().all() for value in gan_ranks.weights_of(state).values())


def test_the_default_game_is_learnt():
    # A picture that is all light or all dark: the generator must find both.
    settings = recipe(
        images=4000, batch_images=16, shards=1, classes=False, report_steps=50, learning_rate=4e-3, gamma=1.0,
        augment=0.0, augment_target=0.0, model="mlp", generator={"widths": [16]}, discriminator={"widths": [16]},
    )  # fmt: skip
    state, _ = gan_ranks.start(settings)

    def reals(first: int, count: int) -> Reals:
        light = (torch.arange(first, first + count) % 2 * 200 + 20).to(torch.uint8)
        return Reals(light[:, None, None, None].expand(count, 1, 28, 28), None)

    train(state, reals, 8, settings, report=lambda _: None, look=lambda _: None, save=lambda _: None)
    with torch.no_grad():
        means = state.mean(torch.randn(200, 8), None).mean((1, 2, 3))
    assert 0.2 < (means > 0).float().mean() < 0.8
    assert means.abs().mean() > 0.4


def test_grids_have_names_of_their_own_that_sort_as_they_were_made():
    images = [0, 40, 999, 1000, 1001, 123_000, 123_040, 124_000, 10**9, 10**9 + 64]
    names = [grid_name(number) for number in images]
    assert names == sorted(set(names))
    assert names[5:7] == ["fakes-000123.png", "fakes-000123_040.png"]


def test_a_size_that_nobody_set_is_told_and_written_down(tmp_path):
    for number, size in enumerate([(45, 31), (60, 60)]):
        path = tmp_path / "data" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", size, 99 * number).save(path)
    told: list[dict] = []
    settings = replace(gan_ranks.DCGAN, images=2, batch_images=2, shards=1)
    train_gan(str(tmp_path / "data"), str(tmp_path / "run"), settings, report=lambda line: told.append(dict(line)))
    rule = json.loads((tmp_path / "run" / "data.json").read_text())["size_rule"]
    assert "become 44x28 pixels, as '0.png', the first usable one, has 45x31" in rule
    assert told[0] == {"size_rule": rule, "step": 0}
    assert [line["size_rule"] for line in read_log(str(tmp_path / "run")) if "size_rule" in line] == [rule]


def test_a_checkpoint_of_another_architecture_is_refused(data, tmp_path):
    train_gan(data, str(tmp_path / "run"), recipe(images=4))
    other = recipe(images=4, generator={**gan_ranks.R3, "blocks": 2})
    with pytest.raises(UsageError, match=r'params: was \{"base": 8, .*\}, now \{"base": 8, "blocks": 2'):
        train_gan(data, str(tmp_path / "run"), other)
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="another architecture"):
        train_gan(data, str(tmp_path / "run"), other)


def test_penalties_and_batch_norm_do_not_go_together():
    settings = replace(gan_ranks.DCGAN, gamma_end=0.1)
    with pytest.raises(UsageError, match=r"gamma is 0\.1, .* 'dcgan' has batch norm, .*put `norm = false`"):
        gan_ranks.start(settings)
    gan_ranks.start(replace(settings, discriminator={"base": 4, "norm": False}))
    gan_ranks.start(replace(settings, gamma_end=0.0))


def test_a_run_that_goes_on_with_something_else_says_so(data, tmp_path, caplog):
    run, settings = str(tmp_path / "run"), recipe(images=4, **MLP)
    train_gan(data, run, settings)
    caplog.clear()
    train_gan(data, run, replace(settings, images=8, learning_rate=1e-3, look_images=80, licence="CC0-1.0"))
    assert "with other settings" not in caplog.text, "how long and how fast may change"

    shutil.copyfile(Path(data) / "a" / "1.png", Path(data) / "a" / "3.png")
    train_gan(data, run, replace(settings, images=12, seed=1, gamma=2.0, game="bce"))
    assert "the run goes on from step 2 with other settings than so far: " in caplog.text
    (changed,) = [line["changed_settings"] for line in read_log(run) if "changed_settings" in line]
    listed = changed.pop("DATA")
    assert changed == {"seed": [0, 1], "gamma": [5.0, 2.0], "game": ["relativistic", "bce"]}
    assert [text.partition(" (listing")[0] for text in listed] == [f"{count} images of {data}" for count in (5, 6)]
    caplog.clear()
    moved = str(shutil.copytree(data, tmp_path / "moved"))
    train_gan(moved, run, replace(settings, images=16, seed=1, gamma=2.0, game="bce"))
    assert "with other settings" not in caplog.text, "the same pictures at another place"


def test_a_run_whose_pictures_have_other_labels_says_so(data, tmp_path, caplog):
    run, settings, keys = (
        str(tmp_path / "run"),
        recipe(images=4, **MLP),
        ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/3.png"),
    )
    table = Path(data) / "metadata.csv"
    for images, of_x in ((4, 2), (8, 3)):
        caplog.clear()
        rows = [f"{key},{'x' if number < of_x else 'y'}\n" for number, key in enumerate(keys)]
        table.write_text("file_name,label\n" + "".join(rows))
        train_gan(data, run, replace(settings, images=images))
    assert "with other settings than so far: DATA '5 images of " in caplog.text


def test_another_batch_is_refused(data, tmp_path):
    run, settings = tmp_path / "run", recipe(images=4, **MLP)
    train_gan(data, str(run), settings)
    before = tree(run)
    with pytest.raises(UsageError, match=r"batch_images is 2, and RUN .* was begun with 4: use 4, or another RUN"):
        train_gan(data, str(run), replace(settings, images=8, batch_images=2))
    assert tree(run) == before


def test_a_run_of_other_pictures_is_refused_though_all_shapes_are_the_same(data, tmp_path):
    settings, run = recipe(images=4, height=30, width=30), tmp_path / "run"
    train_gan(data, str(run), settings)
    before = tree(run)
    (tmp_path / "data" / "a").rename(tmp_path / "data" / "c")
    for changes, message in (
        ({"height": 32, "width": 32}, "height: was 30, now 32; width: was 30, now 32"),
        ({}, r'classes: was \["a", "b"\], now \["b", "c"\]'),
    ):
        with pytest.raises(UsageError, match=message):
            train_gan(data, str(run), replace(settings, images=8, **changes))
        assert tree(run) == before
    (tmp_path / "data" / "c").rename(tmp_path / "data" / "a")
    train_gan(data, str(run), replace(settings, images=8, licence="CC0-1.0"))  # which decides no picture
    assert last_step(run) == 2


@pytest.mark.parametrize(
    "found", [None, b"cut", b"\x02\0\0\0\0\0\0\0{}"], ids=["missing", "damaged", "without facts"]
)
def test_a_run_goes_on_from_its_checkpoint_without_its_model(found, data, tmp_path):
    run = tmp_path / "run"
    train_gan(data, str(run), recipe(**MLP, images=4))
    model = run / "model.safetensors"
    model.unlink() if found is None else model.write_bytes(found)
    train_gan(data, str(run), recipe(**MLP, images=8))
    assert [line["resumed_at"] for line in read_log(str(run)) if "resumed_at" in line] == [-1, 1]
    painter_from(model.read_bytes(), "model")


def test_without_its_checkpoints_a_run_begins_anew_whatever_its_model_was(data, tmp_path):
    run = tmp_path / "run"
    train_gan(data, str(run), recipe(**MLP, images=4))
    shutil.rmtree(run / "checkpoints")
    train_gan(data, str(run), recipe(**MLP, images=4, height=30))
    assert painter_from((run / "model.safetensors").read_bytes(), "model").facts.height == 30


def test_of_long_lists_the_difference_is_told(tmp_path):
    facts = {"classes": [str(number) for number in range(1000)]}
    (tmp_path / "model.safetensors").write_bytes(save({}, {"facts": json.dumps(facts)}))
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000001" / "position.json").write_text("{}")
    check_same(str(tmp_path), "facts", facts)
    with pytest.raises(UsageError, match=r'classes: from number 990 on was \["990", .*\], now \["x"\]'):
        check_same(str(tmp_path), "facts", {"classes": [*facts["classes"][:990], "x"]})


def test_damaged_checkpoints_and_failed_saves_leave_the_last_good_one(tmp_path):
    state, real = gan_ranks.start(gan_ranks.RECIPE)
    facts = gan_ranks.facts(gan_ranks.RECIPE, real)
    folder, run = tmp_path / "checkpoints", str(tmp_path)
    for state.step in (1, 2):
        save_gan(state, run, facts)
    (folder / "step-00000002" / "mean.safetensors").write_bytes(b"cut")
    assert load_gan(state, run)
    assert state.step == 1
    state.step = 3
    (folder / "step-00000003").write_text("in the way")
    with pytest.raises(StorageError, match="the one before it is intact"):
        save_gan(state, run, facts)
    assert load_gan(state, run)
    assert state.step == 1
    (folder / "step-00000001" / "generator_optimizer.pt").unlink()
    with pytest.raises(RunError, match="no checkpoint of"):
        load_gan(state, run)


def test_a_run_at_its_end_is_not_looked_at_again(data, tmp_path):
    """At that state for the second time the pictures are no better, and with a low loss the game would pass for lost."""
    settings, run, told = recipe(images=44, **MLP), str(tmp_path / "run"), []
    train_gan(data, run, settings)
    position = tmp_path / "run" / "checkpoints" / "step-00000011" / "position.json"
    numbers = json.loads(position.read_text())
    assert numbers["good_step"] == 11, "the end lies between two looks"
    position.write_text(json.dumps({**numbers, "d_loss": 0.01}))
    train_gan(data, run, settings, report=told.append)
    assert told == []
    assert json.loads(position.read_text())["rescues"] == 0


def test_a_damaged_checkpoint_is_written_anew(data, tmp_path):
    settings, run = recipe(**MLP), tmp_path / "run"
    train_gan(data, str(run), settings)
    newest = run / "checkpoints" / "step-00000020" / "generator.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    train_gan(data, str(run), settings)
    assert newest.read_bytes() == whole
