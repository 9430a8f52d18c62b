"""A run that is stopped and gone on with ends as one that was not, with as many ranks as there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from artgen.errors import RunError, StorageError, UsageError
from artgen.models.spec import Facts
from artgen.training.data import Batch, Crops
from artgen.training.loop_restorer import TrainState, share_of, train
from artgen.training.rank import Rank as ThisRank
from artgen.training.rank import add_gradients_up, check_agreement
from artgen.training.recipe import RestorerRecipe
from artgen.training.run import fresh
from artgen.training.state import checkpoints, last_step, load_checkpoint, save_checkpoint
from tests.runs import files_of_at_most

FACTS = Facts(name="toy", architecture="toy")
OPTIMIZERS = {"SGD": 0.05, "AdamW": 1e-3}


class Toy(nn.Module):
    """Two convolutions with dropout between them: random numbers that must not depend on where the run was stopped."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(dropout), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x_BCHW: Tensor, mask_B1HW: Tensor) -> Tensor:
        return x_BCHW - self.body(x_BCHW)


def recipe(**changes: Any) -> RestorerRecipe:
    values = {
        "patch_px": 16,
        "batch_images": 5,
        "steps": 100,
        "warmup_steps": 10,
        "report_steps": 10,
        "halflife_images": 50,
    }
    return RestorerRecipe(**{**values, "checkpoint_minutes": 1e6, **changes})


def state(dropout: float = 0.0, optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW) -> TrainState:
    torch.manual_seed(7)
    network, mean = Toy(dropout), Toy(dropout)
    mean.load_state_dict(network.state_dict())
    return TrainState(network, mean.requires_grad_(False), optimizer(network.parameters(), lr=1e-3))


def crops(settings: RestorerRecipe) -> Crops:
    dice = np.random.default_rng(3)
    return Crops([dice.integers(0, 256, (24 + i, 30, 3), np.uint8) for i in range(7)], settings)


def weights(of: TrainState) -> dict[str, Tensor]:
    found = {f"network.{key}": value for key, value in of.network.state_dict().items()}
    return found | {f"mean.{key}": value for key, value in of.mean.state_dict().items()}


def go(of: TrainState, settings: RestorerRecipe, save: Any = lambda _: None, **how: Any) -> list[float]:
    losses: list[float] = []
    train(
        of, crops(settings).batch, settings, forward=of.network, save=save,
        report=lambda numbers: losses.append(numbers["loss"]), **how,
    )  # fmt: skip
    return losses


class Stopped(Exception):
    pass


def test_fifty_steps_and_fifty_more_are_a_hundred_bit_for_bit(tmp_path: Path) -> None:
    settings = recipe()
    straight = state(dropout=0.3)
    go(straight, settings)

    broken = state(dropout=0.3)

    def stop(numbers: Any) -> None:
        if numbers["step"] == 50:
            save_checkpoint(broken, tmp_path, FACTS)
        if numbers["step"] == 60:
            raise Stopped

    with pytest.raises(Stopped):
        train(broken, crops(settings).batch, settings, forward=broken.network, save=lambda _: None, report=stop)
    torch.manual_seed(1234)  # another process finds another state of the generator
    again = state(dropout=0.3)
    torch.rand(17)
    assert load_checkpoint(again, tmp_path)
    assert again.step == 50
    go(again, settings)
    assert again.step == straight.step == 100
    one, other = weights(straight), weights(again)
    assert all(torch.equal(one[key], other[key]) for key in one)
    for key, values in straight.optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, again.optimizer.state_dict()["state"][key][name])


def test_parts_of_a_batch_add_up_to_it() -> None:
    whole, parts = state(optimizer=torch.optim.SGD), state(optimizer=torch.optim.SGD)
    settings = recipe(steps=20, learning_rate=0.05)
    go(whole, settings)
    go(parts, recipe(steps=20, learning_rate=0.05, micro_images=2))
    one, other = weights(whole), weights(parts)
    assert max((one[key] - other[key]).abs().max().item() for key in one) < 1e-6


@pytest.mark.parametrize(("images", "world"), [(16, 1), (16, 3), (5, 2), (7, 7), (128, 24)])
def test_shares_cover_a_batch_once(images: int, world: int) -> None:
    covered: list[int] = []
    for rank in range(world):
        first, count = share_of(images, rank, world)
        assert count >= images // world
        covered += range(first, first + count)
    assert covered == list(range(images))


def test_more_workers_than_images_are_refused() -> None:
    with pytest.raises(UsageError, match="too few for 5 workers"):
        share_of(4, 0, 5)


def test_statistics_of_batch_norm_become_those_of_the_whole_batch() -> None:
    sent: list[Tensor] = []
    norms = [nn.BatchNorm2d(2), nn.BatchNorm2d(2)]
    for norm, value in zip(norms, (4.0, 8.0), strict=True):
        norm.get_buffer("running_mean").fill_(value)
    # What the second rank sends, and the first, which gets the sum.
    add_gradients_up(norms[1], torch.tensor(1.0), 0.0, 0.25, lambda flat: sent.append(flat.clone()))
    numbers = add_gradients_up(norms[0], torch.tensor(2.0), 5.0, 0.75, lambda flat: flat.add_(sent[0]))
    assert numbers == [3.0, 5.0]
    assert norms[0].get_buffer("running_mean").tolist() == [5.0, 5.0]
    assert norms[0].get_buffer("running_var").tolist() == [1.0, 1.0]


def _rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for name, rate in OPTIMIZERS.items():
        mine = state(optimizer=getattr(torch.optim, name))
        settings = recipe(steps=30, learning_rate=rate)
        losses = go(mine, settings, rank=rank, world=world, add_up=dist.all_reduce)
        torch.save({**weights(mine), "losses": torch.tensor(losses)}, f"{folder}/{name}-{rank}.pt")
    mine.step += rank  # as if the second had found another checkpoint
    with pytest.raises(RunError, match="RUN must lie where every node sees it"):
        check_agreement(mine.step, torch.device("cpu"), ThisRank(rank, world, dist.all_reduce))
    dist.barrier()  # a rank that leaves while the other still talks to it takes it down
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_train_as_one_up_to_the_order_of_sums(tmp_path: Path) -> None:
    """Five images a batch on two ranks, so the shares differ. Plain gradient descent keeps the tiny differences of the
    order of sums; AdamW divides by the size of the gradient and enlarges them where it is nearly zero."""
    mp.spawn(_rank, args=(2, str(tmp_path)), nprocs=2)
    for (optimizer, rate), (tolerance, of_loss) in zip(
        OPTIMIZERS.items(), ((1e-6, 1e-5), (1e-3, 1e-4)), strict=True
    ):
        alone = state(optimizer=getattr(torch.optim, optimizer))
        losses = go(alone, recipe(steps=30, learning_rate=rate))
        first, second = (torch.load(tmp_path / f"{optimizer}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[key], second[key]) for key in first), "the replicas differ"
        expected = weights(alone)
        assert max((first[key] - expected[key]).abs().max().item() for key in expected) < tolerance
        assert first["losses"].tolist() == pytest.approx(losses, rel=of_loss)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    kept = state()
    kept.step = 1
    save_checkpoint(kept, tmp_path, FACTS)
    fuller = state()
    fuller.step = 2
    fuller.network.body[0] = nn.Conv2d(3, 4000, 3)
    told = r"step-00000002.*free some space.*the one before it is intact"
    with files_of_at_most(100_000), pytest.raises(StorageError, match=told):
        save_checkpoint(fuller, tmp_path, FACTS)
    again = state(dropout=0.1)
    assert load_checkpoint(again, tmp_path)
    assert again.step == last_step(tmp_path) == 1
    assert all(torch.equal(value, weights(kept)[key]) for key, value in weights(again).items())
    for step in (3, 4, 5):
        kept.step = step
        save_checkpoint(kept, tmp_path, FACTS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("name", ["network.safetensors", "mean.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, name: str) -> None:
    for step in (4, 8):
        saved = state()
        saved.step = step
        save_checkpoint(saved, tmp_path, FACTS)
    newest = tmp_path / "checkpoints" / "step-00000008" / name
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    again = state()
    assert load_checkpoint(again, tmp_path)
    assert again.step == 4
    newest.unlink()
    (tmp_path / "checkpoints" / "step-00000004" / name).unlink()
    with pytest.raises(RunError, match=r"no checkpoint of .* can be read"):
        load_checkpoint(state(), tmp_path)


def test_a_checkpoint_without_its_last_file_does_not_count(tmp_path: Path) -> None:
    saved = state()
    saved.step = 3
    save_checkpoint(saved, tmp_path, FACTS)
    (tmp_path / "checkpoints" / "step-00000003" / "position.json").unlink()
    assert checkpoints(tmp_path) == []
    assert not load_checkpoint(state(), tmp_path)


def test_a_picture_of_nan_skips_its_step_and_harms_nothing() -> None:
    settings = recipe(steps=10, report_steps=10)
    trained, numbers = state(), {}

    def batches(first: int, count: int) -> Batch:
        batch = crops(settings).batch(first, count)
        if first == 15:
            batch.damaged[0, 0, 3, 3] = torch.nan
        return batch

    train(trained, batches, settings, forward=trained.network, save=lambda _: None, report=numbers.update)
    assert numbers["skipped"] == 1
    assert trained.step == 10
    assert all(value.isfinite().all() for value in weights(trained).values())


def test_a_skipped_step_leaves_the_statistics_of_a_batch_norm_alone() -> None:
    settings = recipe(steps=4, report_steps=4)
    network, mean = (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(2))
    mean.load_state_dict(network.state_dict())
    trained = TrainState(network, mean.requires_grad_(False), torch.optim.AdamW(network.parameters(), lr=1e-3))
    before: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}

    def batches(first: int, count: int) -> Batch:
        batch = crops(settings).batch(first, count)
        if first == 15:
            batch.damaged[0, 0, 3, 3] = torch.nan
        return batch

    def forward(x: Tensor, mask: Tensor) -> Tensor:
        if not x.isfinite().all():
            before.update({key: value.clone() for key, value in weights(trained).items()})
        return network(x)

    train(trained, batches, settings, forward=forward, save=lambda _: None, report=numbers.update)
    assert numbers["skipped"] == 1
    assert before["network.1.num_batches_tracked"] == 3
    assert all(torch.equal(value, before[key]) for key, value in weights(trained).items())


def test_the_start_is_a_function_of_the_seed() -> None:
    settings = recipe(model="default", params={"widths": [8, 8, 8], "blocks": 1})
    one, _ = fresh(settings, torch.device("cpu"))
    torch.rand(3)
    other, _ = fresh(settings, torch.device("cpu"))
    assert all(torch.equal(value, weights(other)[key]) for key, value in weights(one).items())
