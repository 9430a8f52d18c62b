"""How many of 1000 modes a preset makes within a budget of CPU seconds: Stacked MNIST at 28x28, RGB.

    python bench/stacked_mnist.py MNIST [--preset NAME ...] [--seeds N] [--cpu-seconds S] [--samples N]
                                  [--set KEY=VALUE] [--shards N] [--classifier FILE] [--raw] [--threads N]
                                  [--device cpu]

MNIST: folder of the training set's train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz. A picture is three of its
digits, each in a channel of its own (Metz et al. 2017, section 3.3.1); every batch stacks new ones. A classifier of
digits, trained first (with --classifier kept in that file, or taken from it), reads the channels of N samples.

Told of every preset and seed, of the running mean of the generator (with --raw also of the generator itself):
  modes  three-digit numbers of 1000 that are among the samples;
  KL     divergence, in nats, of their histogram from equal shares;
  FD     Frechet distance from N real pictures, of the classifier's features of all three channels.
The floors are those of N other real pictures. The classifier, the probe of the speed that turns seconds into a number
of images (as schedules need it), and the sampling are not in the budget. On a GPU, seconds are those of the clock. Each
preset runs as it is, in its own shards: batch norm sees one shard at a time, and more of them take longer. With --shards
1 it does what one worker needs, and what figures before this flag are of. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import gzip
import statistics as stats
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from artgen.errors import UsageError
from artgen.inference.sample import sample
from artgen.metrics import classifier
from artgen.metrics.classifier import Classifier
from artgen.metrics.coverage import divergence, histogram, modes
from artgen.metrics.sets import Statistics, frechet, statistics
from artgen.models.gans.spec import GanFacts, Painter
from artgen.training.gan_data import Reals
from artgen.training.gan_recipe import GanRecipe, load_gan_recipe
from artgen.training.gan_run import fresh
from artgen.training.gan_state import GanState
from artgen.training.loop_gan import Unstable, train
from artgen.training.rank import pick_device, pick_dtype

CHANNELS, SIDE, MODES = 3, 28, 1000
PROBE_SHARE, WARMUP_STEPS = 0.03, 6
REFERENCE_SEED, FLOOR_SEED = 10**6, 10**6 + 1


class Score(NamedTuple):
    modes: int
    kl: float
    distance: float

    def __str__(self) -> str:
        return f"modes {self.modes:4d}  KL {self.kl:.3f}  FD {self.distance:.2f}"


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of unsigned bytes, compressed with gzip."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise UsageError(f"{path} is no IDX file of unsigned bytes")
    shape = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


class Stacks:
    """Pictures of three digits, a function of (seed, position)."""

    def __init__(self, digits_NHW: Tensor, seed: int) -> None:
        self._digits, self._seed = digits_NHW, seed

    def __call__(self, first: int, count: int) -> Reals:
        chosen = np.random.default_rng([self._seed, first]).integers(0, len(self._digits), (count, CHANNELS))
        return Reals(self._digits[torch.from_numpy(chosen)], None)


class Judge:
    """Scores pictures, uint8 N x 3 x 28 x 28, by a classifier of digits."""

    def __init__(self, digits: Classifier, real_NCHW: Tensor) -> None:
        self._digits = digits
        self._real = self._seen(real_NCHW)[0]

    def __call__(self, pixels_NCHW: Tensor) -> Score:
        found, counts = self._seen(pixels_NCHW)
        return Score(modes(counts), divergence(counts), frechet(self._real, found))

    def _seen(self, pixels_NCHW: Tensor) -> tuple[Statistics, Tensor]:
        features = self._digits.look(pixels_NCHW.reshape(-1, 1, SIDE, SIDE))
        labels = self._digits.labels(features).view(-1, CHANNELS)
        numbers = (labels * torch.tensor([100, 10, 1])).sum(1)
        return statistics(features.view(len(pixels_NCHW), -1)), histogram(numbers, MODES)


def digit_classifier(digits_NHW: Tensor, labels_N: Tensor, file: Path | None) -> Classifier:
    if file is not None and file.exists():
        return classifier.from_bytes(file.read_bytes(), str(file))
    made = classifier.train(digits_NHW[:, None], labels_N, [str(digit) for digit in range(10)])
    if file is not None:
        file.write_bytes(made.to_bytes())
    return made


def budgeted(
    recipe: GanRecipe, facts: GanFacts, pictures: Stacks, seconds: float, device: torch.device
) -> GanRecipe:
    """The recipe with as many images as are trained on in `seconds`, by a probe after some steps of warming up."""
    dtype, clock = pick_dtype(recipe.precision, device), clock_of(device)
    state, times = fresh(recipe, facts, device), []

    class Enough(Exception):
        """The probe has lasted long enough."""

    def report(_: object) -> None:
        times.append(clock())
        if len(times) > 2 * WARMUP_STEPS and times[-1] - times[WARMUP_STEPS] > PROBE_SHARE * seconds:
            raise Enough

    try:
        train(
            state, pictures, facts.latent, replace(recipe, report_steps=1), report=report, look=ignore, save=ignore,
            dtype=dtype,
        )  # fmt: skip
    except Enough:
        rate = (len(times) - 1 - WARMUP_STEPS) * recipe.batch_images / (times[-1] - times[WARMUP_STEPS])
        return replace(recipe, images=max(int(rate * seconds), recipe.batch_images))
    raise UsageError(f"images = {recipe.images} is less than the probe trains on; leave it as it is")


def clock_of(device: torch.device) -> Callable[[], float]:
    return time.process_time if device.type == "cpu" else time.perf_counter


def ignore(_: GanState) -> None:
    """Nothing is looked at and nothing is kept while the clock runs."""


def run(name: str, seed: int, digits_NHW: Tensor, judge: Judge, args: argparse.Namespace) -> Score | None:
    """Trains one preset from one seed and tells of it; None where it went wrong."""
    device = torch.device(pick_device(args.device))
    shards = {} if args.shards is None else {"shards": args.shards}
    recipe = load_gan_recipe(name, {"seed": seed, **shards}, sets=args.set)
    recipe = replace(recipe, minutes=0.0, checkpoint_minutes=1e9, look_images=10**12)
    facts = GanFacts(recipe.model, SIDE, SIDE, CHANNELS, recipe.latent, (), recipe.generator)
    pictures, dtype = Stacks(digits_NHW, seed), pick_dtype(recipe.precision, device)
    losses, clock = [], clock_of(device)
    try:
        recipe = budgeted(recipe, facts, pictures, args.cpu_seconds, device)
        state, began = fresh(recipe, facts, device), clock()
        train(
            state, pictures, facts.latent, recipe, report=lambda numbers: losses.append(numbers["d_loss"]),
            look=ignore, save=ignore, dtype=dtype,
        )  # fmt: skip
    except Unstable as error:
        print(f"{name:14} seed {seed}  {error}", flush=True)
        return None
    took = clock() - began
    score = judge(_samples(state.mean, facts, args.samples))
    raw = f"  (raw: {judge(_samples(state.generator, facts, args.samples))})" if args.raw else ""
    swing = f"  D loss {min(losses):.2f}-{max(losses):.2f}" if losses else ""
    print(
        f"{name:14} seed {seed}  {recipe.shards} shard(s)  {score}{raw}  {took:.0f} s  {recipe.images / took:.0f} img/s  "
        f"{recipe.images / 1000:.0f} kimg{swing}",
        flush=True,
    )
    return score


def _samples(generator: torch.nn.Module, facts: GanFacts, count: int) -> Tensor:
    pixels = sample(Painter(generator, facts, "trained by this benchmark"), range(count))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--preset", action="append", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cpu-seconds", type=float, default=200.0)
    parser.add_argument("--samples", type=int, default=26_000)
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    parser.add_argument("--shards", type=int, help="instead of each preset's own")
    parser.add_argument("--classifier", type=Path, metavar="FILE")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    digits = torch.from_numpy(read_idx(args.mnist / "train-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(args.mnist / "train-labels-idx1-ubyte.gz")).long()
    reader = digit_classifier(digits, labels, args.classifier)
    judge = Judge(reader, Stacks(digits, REFERENCE_SEED)(0, args.samples).pixels)
    facts = reader.facts
    print(f"classifier {100 * facts.accuracy:.2f} % of {facts.held} digits held out; {args.samples} samples")
    print(f"{'real (floor)':21} {judge(Stacks(digits, FLOOR_SEED)(0, args.samples).pixels)}", flush=True)
    for name in args.preset or ["default", "dcgan-tuned", "dcgan", "article"]:
        scores = [score for seed in range(args.seeds) if (score := run(name, seed, digits, judge, args))]
        if len(scores) > 1:
            means = [stats.mean(values) for values in zip(*scores, strict=True)]
            of = f"mean of {len(scores)}" + (f" of {args.seeds}" if len(scores) < args.seeds else "")
            print(f"{name:14} {of:7} modes {means[0]:6.1f}  KL {means[1]:.3f}  FD {means[2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
