"""The loop, the checkpoints and the run folder together, on real files."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from artgen.codecs.pool import GuardPool
from artgen.errors import DecoderCrashed, ImageTimeout, RunError, StorageError, UsageError
from artgen.models import registry
from artgen.models.spec import Facts, Restorer
from artgen.models.weights import load
from artgen.training.data import Batch, Crops
from artgen.training.holdout import MOST_TRIED, HeldOut, hold_out, stretches
from artgen.training.loop_restorer import TrainState, train
from artgen.training.mixtures import DEFAULT_WEIGHTS
from artgen.training.pictures import Pictures, digest_of, list_sources
from artgen.training.rank import Rank, pick_device, pick_dtype
from artgen.training.recipe import RestorerRecipe, load_recipe
from artgen.training.run import _divide, fresh, go_back, train_restorer
from artgen.training.scribe import facts_of_data
from artgen.training.skipped import Skipped, read_skipped
from artgen.training.state import checkpoints, load_checkpoint, save_checkpoint
from artgen.training.tally import Tally
from artgen.training.validate import tasks_of, validate
from tests.pictures import files, write_tar

TINY = {"widths": [8, 8, 8], "blocks": 1}


def recipe(**changes) -> RestorerRecipe:
    values = {
        "params": TINY,
        "patch_px": 32,
        "batch_images": 4,
        "steps": 6,
        "warmup_steps": 2,
        "holdout": 3,
        "report_steps": 3,
        "validate_steps": 6,
        "precision": "fp32",
        "damage": {"noise": 1.0, "missing": 1.0},
        "halflife_images": 8,
    }
    return RestorerRecipe(**{**values, **changes})


@pytest.fixture
def data(tmp_path) -> str:
    folder = tmp_path / "data"
    folder.mkdir()
    rows, columns = np.mgrid[0:48, 0:56]
    for number in range(5):
        waves = np.stack([np.sin(rows / (3 + number + c)) * np.cos(columns / (4 + c)) for c in range(3)], axis=-1)
        Image.fromarray((127 + 120 * waves).astype(np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def fresh_state(settings: RestorerRecipe) -> TrainState:
    torch.manual_seed(settings.seed)
    network, _ = registry.build(settings.model, settings.params)
    mean, _ = registry.build(settings.model, settings.params)
    mean.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    return TrainState(network, mean.requires_grad_(False), optimizer)


def test_a_run_leaves_a_model_a_log_and_a_panel(data, tmp_path):
    path = train_restorer(data, str(tmp_path / "run"), recipe())
    restorer = load(str(tmp_path / "run"))
    assert path == str(tmp_path / "run" / "model.safetensors")
    assert restorer.facts.damage == ("noise", "missing")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["pictures"] == 3
    assert lines[0]["held_out"] == 2
    assert [line["step"] for line in lines if "loss" in line] == [3, 6]
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert 5 < lines[-1]["noise-25-colour"] < 60
    assert Image.open(tmp_path / "run" / "panels" / "final.png").width >= 3 * 48
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 6


def test_learning_lowers_the_loss(data, tmp_path):
    losses = []
    settings = recipe(
        steps=90, report_steps=30, batch_images=12, learning_rate=3e-3, holdout=0, damage={"noise": 1.0}
    )
    train_restorer(data, str(tmp_path / "run"), settings, report=lambda n: losses.append(n["loss"]))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.timeout(120)
def test_resume_is_exact(data, tmp_path):
    settings = recipe(checkpoint_minutes=0.0)
    train_restorer(data, str(tmp_path / "straight"), settings)

    def stop(numbers):
        if numbers["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_restorer(data, str(tmp_path / "broken"), settings, report=stop)
    assert load_file(tmp_path / "broken" / "model.safetensors").keys()
    train_restorer(data, str(tmp_path / "broken"), settings)
    straight, broken = (
        {
            f"{name}/{key}": value
            for name in ("network", "mean")
            for key, value in load_file(
                tmp_path / run / "checkpoints" / "step-00000006" / f"{name}.safetensors"
            ).items()
        }
        for run in ("straight", "broken")
    )
    assert straight.keys() == broken.keys()
    assert all(torch.equal(straight[key], broken[key]) for key in straight)
    assert len(list((tmp_path / "broken" / "checkpoints").iterdir())) == 2


def test_ranks_share_each_batch_between_them(data):
    settings = recipe(steps=3, report_steps=10)
    crops = Crops(Pictures(list_sources(data), 32), settings)
    asked: dict[int, set[int]] = {0: set(), 1: set()}
    for rank in (0, 1):

        def batches(first: int, count: int, rank: int = rank) -> Batch:
            asked[rank] |= set(range(first, first + count))
            return crops.batch(first, count)

        state = fresh_state(settings)
        train(
            state,
            batches,
            settings,
            forward=state.network,
            report=lambda _: None,
            save=lambda _: None,
            rank=rank,
            world=2,
        )
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] >= set(range(12))


@pytest.mark.parametrize(
    ("model", "params"), [("default", TINY), ("dncnn", {"depth": 4, "width": 8, "channels": 3})]
)
def test_a_step_that_is_not_finite_changes_nothing_and_many_end_the_run(model, params):
    """dncnn has batch norm, whose statistics the forward pass itself changes."""
    settings = recipe(steps=100, model=model, params=params)
    state = fresh_state(settings)
    before = {k: v.clone() for k, v in state.network.state_dict().items()}

    def broken(first: int, count: int) -> Batch:
        nan = torch.full((count, 3, 32, 32), math.nan)
        return Batch(nan, nan, torch.zeros(count, 1, 32, 32))

    def forward(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return state.network(x, mask) if model == "default" else state.network(x)

    with pytest.raises(RunError, match="20 steps in a row were not finite"):
        train(state, broken, settings, forward=forward, report=lambda _: None, save=lambda _: None)
    assert all(torch.equal(before[k], v) for k, v in state.network.state_dict().items())


def test_a_run_goes_back_to_its_last_good_checkpoint(data, tmp_path):
    settings = recipe(steps=40, report_steps=1, checkpoint_minutes=1e-9, warmup_steps=1)
    run = str(tmp_path / "run")
    crops = Crops(Pictures(list_sources(data), 32), settings)
    state = fresh_state(settings)
    rates: dict[tuple[int, int], float] = {}
    saved: list[int] = []

    def batches(first: int, count: int) -> Batch:
        batch = crops.batch(first, count)
        return batch if state.rollbacks or first < 10 * 4 else batch._replace(damaged=batch.damaged * math.nan)

    def note(numbers: Mapping[str, float]) -> None:
        rates[state.rollbacks, int(numbers["step"])] = numbers["lr"]

    def save(of: TrainState) -> None:
        saved.append(of.step)
        save_checkpoint(of, run, Facts(name="toy", architecture="default"))

    train(
        state, batches, settings, forward=state.network, report=note, save=save,
        go_back=lambda of: go_back(of, settings, run),
    )  # fmt: skip
    assert state.rollbacks == 1
    assert state.step == 40
    assert saved == [*range(1, 41)]  # none of the 20 bad steps was saved, and all came again
    assert rates[1, 12] == pytest.approx(rates[0, 12] / 2)
    assert all(torch.isfinite(weight).all() for weight in state.network.parameters())
    resumed = fresh_state(settings)
    assert load_checkpoint(resumed, run)
    assert resumed.rollbacks == 1  # the rate stays halved after a resume


def test_a_run_that_goes_astray_again_and_again_ends_with_what_to_do(data, tmp_path):
    settings = recipe(steps=1000, report_steps=1000, learning_rate=1e4, loss="l2", warmup_steps=1)
    with pytest.raises(RunError, match=r"for the 6\. time.*lower learning_rate \(10000\)"):
        train_restorer(data, str(tmp_path / "run"), settings)


@pytest.fixture
def soon_astray(monkeypatch):
    monkeypatch.setattr("artgen.training.loop_restorer.BAD_STEPS", 2)
    monkeypatch.setattr("artgen.training.run.MOST_ROLLBACKS", 1)


@pytest.mark.usefixtures("soon_astray")
@pytest.mark.parametrize("steps", [9, 4])  # the step that does harm is one of many, or the last
def test_weights_that_a_step_destroyed_are_never_saved(data, tmp_path, steps):
    """The loss of the step that destroys them is that of the weights before it."""
    run, moderate = tmp_path / "run", recipe(steps=3, holdout=0, checkpoint_minutes=0.0)
    train_restorer(data, str(run), moderate)
    sound = (run / "model.safetensors").read_bytes()
    wild = dataclasses.replace(moderate, steps=steps, learning_rate=1e9, clip_norm=1e9, warmup_steps=1)
    with pytest.raises(RunError, match=r"the last checkpoint \(step-00000003\) is good: lower learning_rate"):
        train_restorer(data, str(run), wild)
    assert checkpoints(run) == ["step-00000002", "step-00000003"]
    assert (run / "model.safetensors").read_bytes() == sound
    train_restorer(data, str(run), dataclasses.replace(moderate, steps=5))
    assert checkpoints(run) == ["step-00000004", "step-00000005"]


@pytest.mark.usefixtures("soon_astray")
def test_what_to_do_names_no_checkpoint_that_is_broken_or_not_there(data, tmp_path):
    wild = recipe(steps=30, holdout=0, learning_rate=1e9, clip_norm=1e9, warmup_steps=1)
    with pytest.raises(RunError, match=r"at half the rate; lower learning_rate"):
        train_restorer(data, str(tmp_path / "new"), wild)
    run = tmp_path / "run"
    train_restorer(data, str(run), recipe(steps=1, holdout=0))
    broken = run / "checkpoints" / "step-00000001" / "network.safetensors"
    save_file({name: weight * math.nan for name, weight in load_file(broken).items()}, broken)
    with pytest.raises(
        RunError, match=r"not one step went well from the last checkpoint \(step-00000001\) on.*remove .*run/"
    ):
        train_restorer(data, str(run), recipe(steps=30, holdout=0))


def test_the_last_steps_are_reported_and_validated_once(data, tmp_path):
    told = []
    train_restorer(
        data, str(tmp_path / "run"), recipe(steps=4, validate_steps=4), report=lambda n: told.append(n["step"])
    )
    assert told == [3, 4]
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines if "noise-25-colour" in line] == [4]
    assert [line["loss"] > 0 for line in lines if "step" in line] == [True, True]
    train_restorer(data, str(tmp_path / "run"), recipe(steps=4, validate_steps=4))
    assert [line["step"] for line in log_of(tmp_path / "run") if "noise-25-colour" in line] == [4]


def test_the_time_of_a_validation_does_not_count_as_training(monkeypatch):
    clock = iter([0.0, 1.0, 1.0, 1.0, 101.0, 103.0, 103.0])
    monkeypatch.setattr("artgen.training.tally.time.monotonic", lambda: next(clock))
    tally = Tally(4)
    with tally.paused():
        tally.flush()  # a hundred seconds pass
    tally.add({"loss": 1.0})
    assert tally.flush()["images_per_s"] == 2.0


def test_a_network_that_is_mostly_dead_is_told(data, tmp_path, caplog):
    run = tmp_path / "run"
    train_restorer(data, str(run), recipe(steps=1))
    restorer = load(str(run))
    for name, weights in restorer.module.named_parameters():
        if name.endswith("first.bias"):
            torch.nn.init.constant_(weights, -100)
    dead = tmp_path / "dead.safetensors"
    save_file(restorer.module.state_dict(), dead, metadata={"artgen": restorer.facts.to_json()})
    with caplog.at_level(logging.WARNING, logger="artgen.training.scribe"):
        train_restorer(data, str(tmp_path / "next"), recipe(steps=1, start=str(dead)))
    assert "100 % of the hidden units" in caplog.text
    assert "scripts/revive.py" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "next" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["silent-units"] == 1
    healthy = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert healthy[-1]["silent-units"] < 0.3


def test_a_run_may_begin_from_given_weights(data, tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    train_restorer(data, first, recipe(steps=3))
    still = recipe(steps=1, learning_rate=1e-12, start=f"{first}/model.safetensors")
    train_restorer(data, second, still)
    begun = load_file(f"{first}/model.safetensors")
    for name, weight in load_file(f"{second}/model.safetensors").items():
        torch.testing.assert_close(weight, begun[name], rtol=0, atol=1e-6)
    (tmp_path / "first" / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    train_restorer(data, second, dataclasses.replace(still, steps=2))  # the checkpoint holds all that it needs
    with pytest.raises(UsageError, match="there is no model at"):
        train_restorer(data, str(tmp_path / "new"), still)
    (tmp_path / "elsewhere.safetensors").rename(tmp_path / "first" / "model.safetensors")
    with pytest.raises(UsageError, match="has other sizes than the recipe's model"):
        train_restorer(data, str(tmp_path / "third"), dataclasses.replace(still, params={**TINY, "blocks": 2}))
    with pytest.raises(UsageError, match="is a 'default', not a 'dncnn'"):
        train_restorer(data, str(tmp_path / "third"), dataclasses.replace(still, model="dncnn", params={}))


def test_the_clock_may_end_a_run(data, tmp_path):
    steps = []
    settings = recipe(steps=10**6, minutes=0.02, report_steps=1, holdout=0)
    train_restorer(data, str(tmp_path / "run"), settings, report=lambda n: steps.append(n["step"]))
    assert 1 <= len(steps) < 1000


def test_unusable_pictures_are_left_out_and_named(data, tmp_path):
    folder = Path(data)
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("L", (20, 200)).save(folder / "small.png")
    Image.new("I;16", (64, 64), 257 * 100).save(folder / "grey.png")
    train_restorer(data, str(tmp_path / "run"), recipe(holdout=0, steps=2, report_steps=1))
    skipped = read_skipped(str(tmp_path / "run"))
    assert {key: reason.split()[0] for key, reason in skipped.items()} == {
        "broken.png": "DecodeFailed:",
        "small.png": "20x200",
    }
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["skipped_pictures"] == 2
    with Pictures(list_sources(data), 32) as pictures:
        found = [pictures[number] for number in range(len(pictures))]
    assert [None if pixels is None else pixels.shape for pixels in found][5:] == [None, (64, 64), None]
    assert found[6] is not None
    assert (found[6] == 100).all()


def test_what_was_left_out_stays_told_until_it_can_be_used(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train_restorer(data, str(run), recipe(holdout=0, steps=2))
    (run / "skipped").mkdir()
    told = {f"{number}.png": "DecodeFailed: no" for number in range(5)}
    told |= {"new.png": "ImageTimeout: 300 s", "gone.png": "DecodeFailed: no"}
    (run / "skipped" / "rank-0.json").write_text(json.dumps(told))
    (run / "skipped" / "rank-3.json").write_text('{"3.png": "DecodeFailed: of a rank that is no more"}')
    shutil.copy(Path(data) / "0.png", Path(data) / "new.png")
    monkeypatch.setattr("artgen.training.data.epoch_order", lambda *_: np.array([3, 4, 3, 4, 3, 4]))
    train_restorer(data, str(run), recipe(holdout=0, steps=4))
    assert read_skipped(str(run)) == {key: told[key] for key in ("0.png", "1.png", "2.png", "new.png")}
    assert log_of(run)[-1]["skipped_pictures"] == 4
    assert [path.name for path in (run / "skipped").iterdir()] == ["rank-0.json"]


def test_ranks_take_over_what_those_before_have_told(tmp_path):
    folder = tmp_path / "skipped"
    folder.mkdir()
    for number in range(5):
        (folder / f"rank-{number}.json").write_text(json.dumps({f"{number}.png": "no", "all.png": f"{number}"}))
    (folder / "notes.txt").write_text("mine")
    told = [Skipped(str(tmp_path), Rank(number, 2), None) for number in range(2)]
    assert told[0].before == {"0.png": "no", "2.png": "no", "4.png": "no", "all.png": "0"}
    assert told[1].before == {"1.png": "no", "3.png": "no", "all.png": "1"}
    for one in told:
        one.tell(one.before)
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "rank-0.json", "rank-1.json"]
    assert read_skipped(str(tmp_path)) == {**{f"{number}.png": "no" for number in range(5)}, "all.png": "1"}


@pytest.mark.parametrize("error", [DecoderCrashed("killed"), ImageTimeout("slow")])
def test_a_decoder_that_dies_once_costs_no_picture(data, monkeypatch, error):
    decode, errors = GuardPool.decode, [error]

    def fail_once(pool, given):
        if errors:
            raise errors.pop()
        return decode(pool, given)

    monkeypatch.setattr(GuardPool, "decode", fail_once)
    with Pictures(list_sources(data), 32) as pictures:
        assert pictures[0] is not None
        assert not errors
        errors.extend([error, error])
        assert pictures[1] is None
        assert list(pictures.unusable) == ["1.png"]


def test_few_pictures_are_looked_at_for_one_to_hold_out():
    class Looked:
        """Of a thousand pictures the first thirty and the second half are too small."""

        def __init__(self) -> None:
            self.at = []

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, number: int) -> np.ndarray | None:
            self.at.append(number)
            return np.zeros((40, 40), np.uint8) if 30 <= number < 500 else None

    pictures = Looked()
    held = hold_out(pictures, 250)
    assert held.numbers == [30, 250]
    assert held.rest
    assert max(sum(first <= number < first + 250 for number in pictures.at) for first in (500, 750)) == MOST_TRIED


def test_memory_holds_only_so_many_pixels(data):
    sources = list_sources(data)
    with Pictures(sources, 32, kept_pixels=2 * 48 * 56) as few, Pictures(sources, 32) as all_of_them:
        small, large = (Crops(pictures, recipe(damage={"clean": 1.0})) for pictures in (few, all_of_them))
        assert torch.equal(small.batch(0, 15).clean, large.batch(0, 15).clean)
        assert list(few._kept) == list(all_of_them._kept)[:2], (
            "what came first stays: the next epoch asks in another order"
        )
        assert len(all_of_them._kept) == 5


def test_held_out_pictures_are_few_and_none_is_trained_on(data, tmp_path):
    assert [list(stretch) for stretch in stretches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert len(stretches(1000, 2)) <= 64
    assert stretches(5, 0) == []
    with Pictures(list_sources(data), 32) as pictures:
        assert hold_out(pictures, 2).numbers == [0, 2, 4]
        assert hold_out(pictures, 0) == HeldOut([], [], rest=True)
        assert hold_out(pictures, 1).rest is False


def test_where_a_picture_cannot_be_held_out_the_next_one_is(data, tmp_path, monkeypatch):
    (Path(data) / "0.png").write_bytes(b"\x89PNG nothing")
    trained = []
    monkeypatch.setattr(
        "artgen.training.run.Crops",
        lambda pictures, *rest: trained.append(pictures._sources) or Crops(pictures, *rest),
    )
    train_restorer(data, str(tmp_path / "run"), recipe(steps=1, holdout=60))
    assert [source.key for source in trained[0]] == ["0.png", "2.png", "3.png", "4.png"]
    lines = log_of(tmp_path / "run")
    assert lines[0]["held_out"] == 1
    assert lines[-1]["noise-25-colour"] > 5
    assert read_skipped(str(tmp_path / "run")).keys() == {"0.png"}


def test_one_usable_picture_is_trained_on_and_validated_on_with_a_warning(data, tmp_path, caplog):
    for number in range(4):
        (Path(data) / f"{number}.png").write_bytes(b"\x89PNG nothing")
    with caplog.at_level(logging.WARNING, logger="artgen.training.run"):
        train_restorer(data, str(tmp_path / "run"), recipe(steps=1))
    assert "no picture can be kept out of training" in caplog.text
    assert log_of(tmp_path / "run")[-1]["noise-25-colour"] > 5


def test_a_rank_divides_data_as_the_first_one_says(data):
    def add_up(flat: torch.Tensor) -> None:
        flat[:3] += torch.tensor([1.0, 3.0, 1.0])  # rank 0 holds out 1 and 3, and another one can be used

    rank = Rank(1, 2, add_up)
    told = _divide(list_sources(data), "", recipe(), torch.device("cpu"), rank, Skipped(data, rank, None), None)
    assert [source.key for source in told.kept] == ["0.png", "2.png", "4.png"]
    assert told.held == []


def test_a_picture_with_samples_that_are_not_numbers_is_left_out(data, tmp_path):
    spoilt = np.full((48, 48), 0.5, np.float32)
    spoilt[3, 4] = np.nan
    Image.fromarray(spoilt).save(Path(data) / "nan.tif")
    train_restorer(data, str(tmp_path / "run"), recipe(steps=2, holdout=0))
    skipped = read_skipped(str(tmp_path / "run"))
    assert skipped == {"nan.tif": "DecodeFailed: 1 samples that are not numbers: save it without them"}


def test_nothing_to_train_on_is_a_usage_error(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no image"):
        list_sources(str(tmp_path / "empty"))
    with pytest.raises(UsageError, match="gone"):
        list_sources(str(tmp_path / "gone"))
    told = r"none of 64x64 pixels .*\(5 left out, such as '0.png': 56x48 is under 64 pixels\)"
    with pytest.raises(UsageError, match=told):
        train_restorer(data, str(tmp_path / "run"), recipe(patch_px=64))
    assert len(read_skipped(str(tmp_path / "run"))) == 5
    assert not (tmp_path / "run" / "recipe.json").exists()
    with pytest.raises(UsageError, match="'tpu' is not available"):
        pick_device("tpu")


def test_a_checkpoint_of_another_architecture_is_refused(data, tmp_path):
    train_restorer(data, str(tmp_path / "run"), recipe(steps=1, holdout=0))
    told = r"another architecture.*\(its weights 'head.weight' are 8x40x3x3, not 4x40x3x3\)$"
    with pytest.raises(UsageError, match=told):
        train_restorer(data, str(tmp_path / "run"), recipe(params={"widths": [4, 4, 4], "blocks": 1}))
    with pytest.raises(UsageError, match=r"another architecture.*\(it has no weights 'model.0.weight'\)$"):
        train_restorer(data, str(tmp_path / "run"), recipe(model="dncnn", params={}))
    with pytest.raises(UsageError, match="is of another optimizer; use another RUN or its own recipe"):
        train_restorer(data, str(tmp_path / "run"), recipe(optimizer="muon", holdout=0))


def changed_lines(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["changed_settings"] for line in lines if "changed_settings" in line]


def test_going_on_with_other_data_or_another_recipe_is_said_once(data, tmp_path, caplog, monkeypatch):
    # Ray sets logging up anew in a process that trains on it, which silences loggers that were there before.
    monkeypatch.setattr(logging.getLogger("artgen.training.made_of"), "disabled", False)
    caplog.set_level(logging.WARNING, "artgen.training.made_of")
    run = tmp_path / "run"
    train_restorer(data, str(run), recipe(steps=1))
    kept = json.loads((run / "data.json").read_text())
    assert (kept["data"], kept["images"]) == ([data], 5)
    Path(data).rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    train_restorer(moved, str(run), recipe(steps=2, learning_rate=1e-4, minutes=60.0, report_steps=1))
    assert not caplog.records
    assert not changed_lines(run)

    Image.new("RGB", (64, 64)).save(tmp_path / "moved" / "6.png")
    train_restorer(moved, str(run), recipe(steps=3, seed=1, damage={"noise": 1.0}))
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith("the run goes on from step 2 with other settings than so far: ")
    for part in (
        "seed 0 -> 1",
        "{'missing': 1.0, 'noise': 1.0} -> {'noise': 1.0}",
        "5 images of",
        "-> '6 images of",
    ):
        assert part in told
    (changed,) = changed_lines(run)
    assert changed.keys() == {"DATA", "damage", "seed"}
    assert changed["seed"] == [0, 1]
    assert json.loads((run / "data.json").read_text())["images"] == 6

    (run / "recipe.json").write_text("{edited")
    (run / "data.json").unlink()
    train_restorer(moved, str(run), recipe(steps=4, seed=2))
    assert len(changed_lines(run)) == 1


def test_data_json_tells_no_secret(data):
    sources = list_sources(data)
    told = facts_of_data("s3://user:hidden@bucket/a?token=hidden", sources, sources[1:])
    assert told["data"] == ["s3://bucket/a"]
    assert told["trained_on"] != told["listing"]
    assert digest_of(sources) != digest_of(sources[::-1])


def test_of_held_out_pictures_the_centres_are_kept_and_score_the_same(tmp_path, monkeypatch):
    dice = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    for number, shape in enumerate([(301, 402, 3), (193, 230, 3), (40, 251), (90, 77, 3)]):
        Image.fromarray(dice.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")
    with Pictures(list_sources(str(folder)), 32) as pictures:
        whole, few = [pictures[number] for number in range(4)], hold_out(pictures, 1).centres
    assert [pixels.shape for pixels in few] == [(193, 192, 3), (193, 192, 3), (40, 193), (90, 77, 3)]
    assert all(pixels.base is None for pixels in few), "a view keeps the picture whole"
    network, facts = registry.build("default", TINY)
    restorer = Restorer(network, facts, "")
    assert validate(restorer, few, None) == validate(restorer, [p for p in whole if p is not None], None)

    looked_at = []

    def note(_, held: list[np.ndarray], *__) -> dict[str, float]:
        looked_at.extend(held)
        return {}

    monkeypatch.setattr("artgen.training.scribe.validate", note)
    train_restorer(str(folder), str(tmp_path / "run"), recipe(holdout=2, steps=1))
    assert max(max(pixels.shape) for pixels in looked_at) <= 193


def test_a_compressed_archive_is_indexed_once(tmp_path):
    made = write_tar(tmp_path / "a.tar.gz", files(4), "w:gz")
    sources = list_sources(str(made))
    with Pictures(sources, 8) as pictures:
        assert pictures[0] is not None
        assert pictures._reader.gzip(sources[0])._checked, "it was inflated again to find its seek points"


def test_a_failed_save_leaves_the_last_checkpoint(tmp_path):
    settings = recipe()
    state = fresh_state(settings)
    _, facts = registry.build(settings.model, settings.params)
    state.step = 1
    save_checkpoint(state, tmp_path, facts)
    # A file stands where the next checkpoint would be put together.
    state.step = 2
    (tmp_path / "checkpoints" / "step-00000002").write_text("in the way")
    with pytest.raises(StorageError, match="the one before it is intact"):
        save_checkpoint(state, tmp_path, facts)
    assert load_checkpoint(state, tmp_path)
    assert state.step == 1


def test_a_model_without_masks_trains_too(data, tmp_path):
    settings = recipe(model="dncnn", params={"depth": 4, "width": 8}, steps=2)
    train_restorer(data, str(tmp_path / "run"), settings)
    assert load(str(tmp_path / "run")).facts.channels == 1


def test_a_model_without_weights_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="'identity' has no weights to train"):
        train_restorer(data, str(tmp_path / "run"), recipe(model="identity", params={}))


@pytest.mark.parametrize(("model", "params", "seen"), [("article", {}, (28, 28)), ("default", TINY, (24, 24))])
def test_a_model_is_validated_on_crops_as_it_is_trained_on(model, params, seen):
    network, facts = registry.build(model, params)
    shapes = set()
    network.register_forward_pre_hook(lambda _, given: shapes.add(tuple(given[0].shape[-2:])))
    validate(Restorer(network, facts, ""), [np.zeros((28, 28), np.uint8)], None)
    assert shapes == {seen}


def test_a_run_goes_on_with_the_decay_that_it_is_given(data, tmp_path):
    ends = {}
    for decay in (1e-4, 40.0):
        run = str(tmp_path / str(decay))
        train_restorer(data, run, recipe(steps=2, holdout=0))
        train_restorer(data, run, recipe(steps=4, holdout=0, weight_decay=decay, learning_rate=0.01))
        ends[decay] = load_file(f"{run}/model.safetensors")["head.weight"].abs().sum()
    assert ends[40.0] < 0.95 * ends[1e-4]


def test_bf16_learns_as_fp32_does(data, tmp_path):
    moved = {}
    for precision in ("fp32", "bf16"):
        state, _ = fresh(recipe(), torch.device("cpu"))
        before = torch.cat([weight.detach().flatten().clone() for weight in state.network.parameters()])
        train_restorer(data, str(tmp_path / precision), recipe(steps=4, holdout=0, precision=precision))
        assert load_checkpoint(state, str(tmp_path / precision))
        moved[precision] = torch.cat([weight.detach().flatten() for weight in state.network.parameters()]) - before
    assert not torch.equal(moved["fp32"], moved["bf16"])
    assert torch.nn.functional.cosine_similarity(moved["fp32"], moved["bf16"], dim=0) > 0.9


def test_what_is_trained_is_what_is_validated():
    names = [task.name for task in tasks_of(DEFAULT_WEIGHTS, 3)]
    assert names == [
        "noise-15-colour", "noise-25-colour", "noise-50-colour", "noise-25-grey", "salt-pepper-0.5-grey", "missing-0.8-grey",
        "holes-0.15-colour", "scratches-0.05-colour", "jpeg-10-grey",
    ]  # fmt: skip
    assert [task.name for task in tasks_of(["mixture"], 3)] == [task.name for task in tasks_of([], 3)] == names
    assert [task.name for task in tasks_of(["noise", "clean"], 1)] == [
        "noise-15-grey",
        "noise-25-grey",
        "noise-50-grey",
    ]
    assert [task.name for task in tasks_of(["holes"], 1)] == ["holes-0.15-grey", "scratches-0.05-grey"]
    _, facts = fresh(recipe(damage={"noise": 1.0, "jpeg": 0.0}), torch.device("cpu"))
    assert facts.damage == ("noise",)


def test_precision_names():
    cpu = torch.device("cpu")
    assert pick_dtype("fp32", cpu) is None
    assert pick_dtype("bf16", cpu) is torch.bfloat16
    with pytest.raises(UsageError, match="'half'"):
        pick_dtype("half", cpu)
    with pytest.raises(UsageError, match=r"'fp16'.*train with bf16 or fp32"):
        pick_dtype("fp16", cpu)


def test_a_damaged_checkpoint_is_written_anew(data, tmp_path):
    settings, run = recipe(checkpoint_minutes=0.0), tmp_path / "run"
    train_restorer(data, str(run), settings)
    newest = run / "checkpoints" / "step-00000006" / "network.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    train_restorer(data, str(run), settings)
    assert newest.read_bytes() == whole


def test_going_back_leaves_no_damaged_checkpoint_behind(data, tmp_path, monkeypatch):
    """Its files would be kept as they are when the run comes to its step again."""
    run = tmp_path / "run"
    train_restorer(data, str(run), recipe(steps=2, checkpoint_minutes=0.0))
    newest = run / "checkpoints" / "step-00000002" / "network.safetensors"

    def astray(state: TrainState, *_, go_back, **__) -> None:
        newest.write_bytes(b"cut")
        go_back(state)
        assert state.step == 1
        raise KeyboardInterrupt

    monkeypatch.setattr("artgen.training.run.train", astray)
    with pytest.raises(KeyboardInterrupt):
        train_restorer(data, str(run), recipe())
    assert not newest.parent.exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("default", {"patch_px": 44}, "patch_px is 44.*takes multiples of 8: use 40 or 48"),
        ("default", {"patch_px": 4}, "use 8 or 16"),
        ("dncnn", {"micro_images": 4}, "micro_images is 4.*use micro_images = 0"),
    ],
)
def test_crops_that_the_model_does_not_take_are_refused(name, changes, message):
    with pytest.raises(UsageError, match=message):
        fresh(load_recipe(name, changes), torch.device("cpu"))


def test_models_that_take_any_crops_get_them():
    fresh(load_recipe("article"), torch.device("cpu"))
    fresh(load_recipe("dncnn", {"micro_images": 4, "params": {"batch_norm": False}}), torch.device("cpu"))


def test_a_place_of_data_may_have_a_comma(data, tmp_path):
    Path(data).rename(tmp_path / "a,b")
    places = (f"{tmp_path}/a,b/[0-2].png", f"{tmp_path}/a,b/4.png")
    assert [source.key for source in list_sources(places)] == ["0.png", "1.png", "2.png", "4.png"]
