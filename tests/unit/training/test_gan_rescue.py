"""Runs that go wrong, and how they are taken back: each kind of trouble, provoked by settings that a user may choose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from artgen.errors import RunError, UsageError
from artgen.models.gans.spec import GanFacts
from artgen.training import loop_gan
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_run import MOST_RESCUES, fresh, train_gan
from artgen.training.gan_state import GanState, go_back, load_gan
from artgen.training.gan_watch import Look, Watch, trouble
from artgen.training.journal import read_log
from artgen.training.loop_gan import apply
from artgen.training.state import checkpoints
from tests.unit.training import gan_ranks


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bright square somewhere on a dark ground."""
    dice, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    for number in range(48):
        pixels = np.full((28, 28), 20, np.uint8)
        row, column = dice.integers(0, 18, 2)
        pixels[row : row + 10, column : column + 10] = 220
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


@pytest.fixture(scope="module")
def healthy(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 250 steps that went well; tests go on with copies of it."""
    run = tmp_path_factory.mktemp("healthy")
    train_gan(data, str(run), recipe())
    return run


def recipe(rate: float = 2e-3, **changes: Any) -> GanRecipe:
    values = {
        "model": "mlp", "generator": {"widths": [16, 32]}, "discriminator": {"widths": [32, 16]}, "batch_images": 8,
        "shards": 1, "latent": 8, "report_steps": 50, "look_images": 400, "metric_images": 48, "precision": "fp32",
        "halflife_images": 100, "checkpoint_minutes": 1e6, "gamma": 1.0, "gamma_end": 1.0, "learning_rate": rate,
        "learning_rate_end": rate, "images": 2000,
    }  # fmt: skip
    return GanRecipe(**{**values, **changes})


def rescues(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_log(str(run)) if "rescued" in line]


def position(run: Path) -> dict[str, Any]:
    return json.loads((run / "checkpoints" / checkpoints(run)[-1] / "position.json").read_text())


WILD = 0.1


def test_pictures_that_become_worse_are_taken_back_until_they_do_not(
    data: str, healthy: Path, tmp_path: Path
) -> None:
    run, told = tmp_path / "run", []
    shutil.copytree(healthy, run)
    good = position(run)
    assert (good["good_step"], good["rescues"]) == (250, 0)
    train_gan(data, str(run), recipe(rate=WILD, images=2400), report=told.append)
    lines = rescues(run)
    assert 1 <= len(lines) <= MOST_RESCUES
    reasons = ("the pictures became worse", "the pictures became alike", "the discriminator lost its way")
    assert all(line["rescued"].startswith(reasons) and line["step"] == 250 for line in lines)
    numbers = [numbers for numbers in told if numbers.get("step") == 300 and "rate" in numbers]
    assert [line["rate"] for line in numbers] == [WILD * 0.5**number for number in range(len(lines) + 1)]
    assert [line["gamma"] for line in numbers] == [2.0**number for number in range(len(lines) + 1)]
    assert [line["rescues"] for line in lines] == list(range(1, len(lines) + 1))
    end = position(run)
    assert (end["step"], end["good_step"], end["rescues"]) == (300, 300, len(lines))
    assert [line for line in told if "rescued" in line] == [
        {key: value for key, value in line.items() if key != "time"} for line in lines
    ]

    # Killed at every rescue and gone on with, it ends with the same bits.
    killed, kills = tmp_path / "killed", 0
    shutil.copytree(healthy, killed)
    while True:
        try:
            train_gan(data, str(killed), recipe(rate=WILD, images=2400), report=kill)
            break
        except Killed:
            kills += 1
    assert kills == len(lines)
    states = []
    for folder in (run, killed):
        state = start()
        assert load_gan(state, str(folder))
        states.append(state)
    one, other = map(gan_ranks.weights_of, states)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert states[0].rescues == states[1].rescues == kills


def test_a_rescue_makes_the_weights_it_went_back_to_the_model(data: str, healthy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(healthy, run)
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(Killed):  # at the first rescue, after many saves of what it gave up
        train_gan(data, str(run), recipe(rate=WILD, images=2400, checkpoint_minutes=0.0), report=kill)
    assert (run / "model.safetensors").read_bytes() == before


def test_a_state_within_bad_steps_never_becomes_the_good_one(
    data: str, healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step destroys the discriminator, no step after it is finite, and a look is due before the run notices."""
    run, calls = tmp_path / "run", 0
    shutil.copytree(healthy, run)

    def destroy(network: torch.nn.Module, *rest: Any) -> float:
        nonlocal calls
        norm = apply(network, *rest)
        calls += 1
        if calls == 2 * 3 + 1:  # of the discriminator, in step 254
            for weight in network.parameters():
                weight.data.fill_(1e30)
        return norm

    monkeypatch.setattr(loop_gan, "apply", destroy)
    train_gan(data, str(run), recipe(images=2400, look_images=40))
    assert [(line["rescued"], line["from_step"], line["step"]) for line in rescues(run)] == [
        ("20 steps in a row were not finite", 273, 250)
    ]
    end = position(run)
    assert (end["step"], end["good_step"], end["rescues"]) == (300, 300, 1)


def test_figures_of_other_pictures_are_no_reason_to_go_back(data: str, healthy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(healthy, run)
    place = run / "checkpoints" / checkpoints(run)[-1] / "position.json"
    place.write_text(json.dumps(position(run) | {"best": 1e-6, "most_diverse": 9.0}))
    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    with pytest.raises(Killed):
        train_gan(data, str(twin), recipe(images=2080, look_images=40), report=kill)
    train_gan(data, str(run), recipe(images=2080, look_images=40, metric_images=32), report=kill)
    end = position(run)
    assert end["rescues"] == 0
    assert end["best"] > 1e-3
    assert "of 32 pictures" in end["measured"]


def damage(run: Path, step: int) -> None:
    place = run / "checkpoints" / f"step-{step:08d}" / "generator.safetensors"
    place.write_bytes(place.read_bytes()[:-50])


def test_a_run_whose_newest_checkpoint_is_damaged_can_still_go_back(data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_gan(data, str(run), recipe(images=800, look_images=400, checkpoint_minutes=0.0))
    assert checkpoints(run) == [f"step-{step:08d}" for step in (50, 99, 100)]  # 99 names 50 as the good one
    damage(run, 100)
    with pytest.raises(Killed):
        train_gan(data, str(run), recipe(rate=1e6, images=1200), report=kill)
    assert [line["step"] for line in rescues(run)] == [50]
    assert checkpoints(run)[-1] == "step-00000050"


def test_where_the_good_checkpoint_is_damaged_the_good_one_before_is_gone_back_to(
    healthy: Path, tmp_path: Path
) -> None:
    run, state = tmp_path / "run", start()
    shutil.copytree(healthy, run)
    assert load_gan(state, str(run))
    assert (state.step, state.good_step, state.good_before) == (250, 250, 200)
    damage(run, 250)
    go_back(state, str(run))
    assert (state.step, state.good_step, state.rescues) == (200, 200, 1)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match="the checkpoint of step 150 and 200 is gone from"):
        go_back(state, str(run))


class Killed(Exception):
    pass


def kill(numbers: Any) -> None:
    if "rescued" in numbers:
        raise Killed(numbers["rescued"])


def start() -> GanState:
    return fresh(recipe(), GanFacts("mlp", 28, 28, 1, 8, (), recipe().generator), torch.device("cpu"))


R3 = {"model": "r3", "generator": gan_ranks.R3, "discriminator": gan_ranks.R3, "gamma": 0.0, "gamma_end": 0.0}


def test_losses_that_are_not_finite_are_taken_back(data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_gan(data, str(run), recipe(rate=30.0, images=240, **R3))
    lines = rescues(run)
    assert lines[0]["rescued"] == "20 steps in a row were not finite"
    assert lines[0]["step"] == 0 < lines[0]["from_step"] < 30
    assert "gamma_times" not in lines[0], "twice no penalty is none"
    assert position(run)["step"] == 30
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model.safetensors").values())


@pytest.mark.parametrize("checkpoint_minutes", [1e6, 0.0])
def test_a_run_that_no_rescue_mends_ends_at_its_last_good_step(
    data: str, healthy: Path, tmp_path: Path, checkpoint_minutes: float
) -> None:
    run = tmp_path / "run"
    shutil.copytree(healthy, run)
    before = (run / "model.safetensors").read_bytes()
    hopeless = recipe(rate=1e6, images=2160, checkpoint_minutes=checkpoint_minutes)
    for _ in range(2):  # the same command again: it says so again, and leaves all as it is
        with pytest.raises(
            UsageError, match=r"gone back 6 times already, and step 250 is its last good one: lower"
        ):
            train_gan(data, str(run), hopeless)
        assert checkpoints(run)[-1] == "step-00000250"
        assert (run / "model.safetensors").read_bytes() == before
    assert position(run)["rescues"] == MOST_RESCUES == len(rescues(run))


def test_what_counts_as_trouble() -> None:
    def said(distance: float = 10.0, diversity: float = 0.9, **numbers: float) -> str:
        state, _ = gan_ranks.start(gan_ranks.RECIPE)
        for key, value in {"best": 8.0, "most_diverse": 1.0, "d_loss": 0.6, **numbers}.items():
            setattr(state, key, value)
        return trouble(Look(np.zeros((64, 28, 28, 1), np.uint8), distance, diversity), state)

    assert said() == ""
    assert said(diversity=0.2) == "the pictures became alike (diversity 0.200, it was 1.000)"
    assert said(distance=24.1) == "the pictures became worse (fd_random 24.10, it was 8.00)"
    assert said(d_loss=0.01).startswith("the discriminator won (its loss is 0.010)")
    assert said(d_loss=0.01, distance=7.9) == "", "it has an easy game early on, while pictures get better"
    assert said(d_loss=21.0, best=-1.0) == "the discriminator lost its way (its loss is 21)"
    assert said(distance=400.0, best=-1.0, d_loss=0.0) == "", "there is nothing to compare the first look with"
    early = {"diversity": 0.001, "best": -1.0, "most_diverse": 0.001}
    assert said(**early) == "", "it may be a slow start"
    alike = "the pictures are all alike (diversity 0.001, that of real ones is 1)"
    assert said(**early, flat_step=50) == alike
    assert said(diversity=0.009, most_diverse=0.03).startswith("the pictures are all alike"), "they were not so far"
    assert said(diversity=0.015, best=-1.0, most_diverse=0.001, flat_step=50) == ""


def test_one_picture_from_the_start_on_is_taken_back_to_the_start(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every rescue and gone on with, it ends in the same way."""
    look = Watch.look
    monkeypatch.setattr(Watch, "look", lambda *given: look(*given)._replace(diversity=0.001))
    ends = []
    for name in ("run", "killed"):
        run, kills = tmp_path / name, 0
        while name == "killed" and kills < MOST_RESCUES:
            with pytest.raises(Killed):
                train_gan(data, str(run), recipe(look_images=80), report=kill)
            kills += 1
        with pytest.raises(UsageError, match=r"pictures are all alike .* and step 0 is its last good one: lower"):
            train_gan(data, str(run), recipe(look_images=80))
        lines = [(line["from_step"], line["step"]) for line in rescues(run)]
        assert lines == [(20, 0)] * MOST_RESCUES, "at the second look, back to fresh weights"
        assert checkpoints(run)[0] == "step-00000000"
        ends.append({key: value for key, value in position(run).items() if key != "seconds"})
    assert ends[0] == ends[1]


def test_a_slow_start_is_let_pass_once(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, run = [], str(tmp_path)
    look = Watch.look

    def first_flat(watch: Watch, state: GanState, facts: GanFacts) -> Look:
        looked.append(state.step)
        return look(watch, state, facts)._replace(diversity=0.5 if state.step > 50 else 0.0)

    monkeypatch.setattr(Watch, "look", first_flat)
    train_gan(data, run, recipe(images=400))
    first = position(tmp_path)
    assert (looked, first["good_step"], first["flat_step"], first["best"]) == ([50], 0, 50, -1.0)
    assert (tmp_path / "best.safetensors").is_file()
    train_gan(data, run, recipe(images=800))
    end = position(tmp_path)
    assert (looked, end["good_step"], end["flat_step"], end["rescues"]) == ([50, 100], 100, 50, 0)
    assert end["best"] > 0


def test_pictures_that_become_alike_are_taken_back(data: str, tmp_path: Path) -> None:
    """A generator with one inner number against a discriminator with thousands."""
    settings = recipe(
        rate=0.02,
        game="bce",
        generator={"widths": [1]},
        discriminator={"widths": [64, 64]},
        gamma=0.0,
        gamma_end=0.0,
    )
    with pytest.raises(Killed, match="the pictures became alike"):
        train_gan(data, str(tmp_path / "run"), settings, report=kill)


@pytest.mark.slow
def test_a_dead_game_is_seen_by_the_loss_of_the_discriminator(data: str, tmp_path: Path) -> None:
    """Its weights are so large at this rate that no generator gets through: pictures stay as they are."""

    def stop(numbers: Any) -> None:
        if "won" in numbers.get("rescued", ""):
            raise Killed

    with pytest.raises(Killed):
        train_gan(data, str(tmp_path / "run"), recipe(rate=30.0, images=3600, **R3), report=stop)


def test_the_state_is_in_the_checkpoint(data: str, healthy: Path) -> None:
    state = start()
    assert load_gan(state, str(healthy))
    fields = {
        key: getattr(state, key) for key in GanState.__slots__ if isinstance(getattr(state, key), int | float | str)
    }
    assert fields == position(healthy)
    assert 0 < fields["d_loss"] != 1.0
    assert fields["best"] > 0 < fields["most_diverse"]
