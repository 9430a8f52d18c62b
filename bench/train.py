"""What training costs beside the bare thing, each figure a ratio of two measurements in the same run.

    python bench/train.py [--images N] [--rounds N] [--recipe NAME] [--set KEY=VALUE] [--device cpu]

loop:   images/s of `training.loop_restorer.train` over a bare PyTorch loop with the same model, crops and damage made
        beforehand; to reach: 0.95. With data: the same with crops cut and damaged on the way.
scaling: images/s of two gloo ranks on a core each over one rank on one core, the same global batch; to reach: 1.7.
stall:  seconds that a checkpoint holds the loop up, and the share of the time at one in four minutes.
Pictures are made from a seed. Run it on an idle machine; scaling needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from artgen.training.data import Batch, Crops
from artgen.training.ema import update_mean
from artgen.training.loop_restorer import TrainState, train
from artgen.training.losses import LOSSES
from artgen.training.recipe import RestorerRecipe, load_recipe
from artgen.training.run import fresh
from artgen.training.state import save_checkpoint

WARMUP_STEPS = 3


def pictures(count: int = 24, side: int = 256) -> list[np.ndarray]:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    dice = np.random.default_rng(0)
    made = []
    for _ in range(count):
        waves = [np.sin(x * dice.uniform(0.02, 0.3) + y * dice.uniform(0.02, 0.3)) for _ in range(3)]
        made.append(
            (127 + 100 * np.stack(waves, axis=2) + dice.normal(0, 8, (side, side, 3))).clip(0, 255).astype(np.uint8)
        )
    return made


def bare(state: TrainState, batches: list[Batch], recipe: RestorerRecipe) -> float:
    """Images/s of the loop that a person would write: forward, loss, backward, clip, step, running mean."""
    device = next(state.network.parameters()).device
    began = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == WARMUP_STEPS:
            began = time.perf_counter()
        clean, damaged, mask = (t.to(device, memory_format=torch.channels_last) for t in batch)
        loss = LOSSES[recipe.loss](state.network(damaged, mask), clean)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(state.network.parameters(), recipe.clip_norm)
        state.optimizer.step()
        update_mean(state.mean, state.network, 0.99)
        loss.item()
    return (len(batches) - WARMUP_STEPS) * recipe.batch_images / (time.perf_counter() - began)


def ours(state: TrainState, batches, recipe: RestorerRecipe, **how) -> float:
    """Images/s of artgen's loop after its first steps."""
    times: list[float] = []
    train(
        state, batches, recipe, forward=state.network, report=lambda _: times.append(time.perf_counter()),
        save=lambda _: None, **how,
    )  # fmt: skip
    return (len(times) - WARMUP_STEPS) * recipe.batch_images / (times[-1] - times[WARMUP_STEPS - 1])


def loop_ratios(recipe: RestorerRecipe, device: torch.device, rounds: int) -> tuple[float, float]:
    _, facts = fresh(recipe, device)
    crops = Crops(pictures(), recipe, facts.channels)
    made = [crops.batch(step * recipe.batch_images, recipe.batch_images) for step in range(recipe.steps)]
    # The batch after the last one is looked at as well, before the end is saved.
    again = [*made, made[0]]

    def given(first: int, count: int) -> Batch:
        return again[first // count]

    rates: dict[str, list[float]] = {"bare": [], "loop": [], "data": []}
    for _ in range(rounds):
        rates["bare"].append(bare(fresh(recipe, device)[0], made, recipe))
        rates["loop"].append(ours(fresh(recipe, device)[0], given, recipe))
        rates["data"].append(ours(fresh(recipe, device)[0], crops.batch, recipe))
    ratio = {
        name: statistics.median(a / b for a, b in zip(rates[name], rates["bare"], strict=True)) for name in rates
    }
    return ratio["loop"], ratio["data"]


def _rank(rank: int, world: int, recipe: RestorerRecipe, folder: str) -> None:
    torch.set_num_threads(1)
    # One alone gets one core as well: else its thread that makes the batches would run on the other.
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    state, facts = fresh(recipe, torch.device("cpu"))
    crops = Crops(pictures(), recipe, facts.channels)
    add_up = dist.all_reduce if world > 1 else None
    rate = ours(state, crops.batch, recipe, rank=rank, world=world, add_up=add_up)
    if rank == 0:
        Path(folder, f"rate-{world}").write_text(json.dumps(rate))
    dist.destroy_process_group()


def scaling(recipe: RestorerRecipe, rounds: int) -> float:
    """Ranks are processes, each on one core of its own."""
    ratios = []
    for _ in range(rounds):
        rates = []
        for world in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_rank, args=(world, recipe, folder), nprocs=world)
                rates.append(json.loads(Path(folder, f"rate-{world}").read_text()))
        ratios.append(rates[1] / rates[0])
    return statistics.median(ratios)


def stall_s(recipe: RestorerRecipe, device: torch.device, rounds: int) -> float:
    state, facts = fresh(recipe, device)
    crops = Crops(pictures(), recipe, facts.channels)
    ours(state, crops.batch, replace(recipe, steps=WARMUP_STEPS + 1))  # so that the optimiser has a state to save
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(max(rounds, 5)):
            state.step += 1
            began = time.perf_counter()
            save_checkpoint(state, folder, facts)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=480, help="images of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON", dest="changes")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    changes = {key: json.loads(value) for key, _, value in (text.partition("=") for text in args.changes)}
    recipe = load_recipe(args.recipe, {"precision": "fp32", **changes})
    steps = max(args.images // recipe.batch_images, 2 * WARMUP_STEPS)
    recipe = replace(recipe, steps=steps, report_steps=1, minutes=0.0, checkpoint_minutes=1e9)
    device = torch.device(args.device)
    loop, data = loop_ratios(recipe, device, args.rounds)
    print(f"loop / bare loop (same tensors)        {loop:.3f}   to reach 0.95")
    print(f"loop with data / bare loop without     {data:.3f}")
    print(f"two ranks / one, one core each         {scaling(recipe, args.rounds):.3f}   to reach 1.7")
    stall = stall_s(recipe, device, args.rounds)
    print(f"checkpoint stall                       {stall:.3f} s, {100 * stall / 240:.3f} % at one in 4 minutes")


if __name__ == "__main__":
    main()
