"""Whether a GAN is well: how far its pictures are from real ones, how much they differ, and what must not go on.

Shape letters: N pictures, C channels, H height, W width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from artgen.inference.sample import NotFinite, sample
from artgen.metrics.cheap_distance import RandomFeatures, distance
from artgen.metrics.sets import statistics
from artgen.models.gans.spec import GanFacts, Painter
from artgen.training.gan_state import GanState
from artgen.training.loop_gan import Unstable

GRID_IMAGES = 64
LEAST_DIVERSE = 0.25
FLAT = 0.01
"""A diversity below it is that of one picture. Fresh networks of the shipped presets have 0.02 against noise of 28x28, and
0.012 against pictures of the highest contrast there is."""
MOST_WORSE = 3.0
LEAST_D_LOSS, MOST_D_LOSS = 0.05, 20.0


class Look(NamedTuple):
    """grid: the pictures of seeds 0-63, uint8 N x H x W x C. distance: `fd_random` (metrics.cheap_distance).
    diversity: mean standard deviation of the grid's pixels over that of as many real pictures.
    """

    grid: np.ndarray
    distance: float
    diversity: float


class Watch:
    """Looks at the running mean, always at the pictures of the same seeds.

    Args: real_NCHW: uint8, all of them. images: that the distance compares, at most (of each kind). labels_N: their classes;
    the distance is then from pictures of the same classes, each as often.
    """

    def __init__(self, real_NCHW: Tensor, images: int, labels_N: Tensor | None = None) -> None:
        self.images = min(images, len(real_NCHW))
        # Spread over the listing, so that each folder has its share.
        rows = torch.arange(self.images) * len(real_NCHW) // self.images
        self._labels = None if labels_N is None else labels_N[rows].tolist()
        self._features = RandomFeatures(real_NCHW.shape[1])
        self._real = statistics(self._features(real_NCHW[rows]))
        grid = real_NCHW[:: max(len(real_NCHW) // GRID_IMAGES, 1)][:GRID_IMAGES]
        self._spread = _spread(grid.permute(0, 2, 3, 1).numpy())

    def look(self, state: GanState, facts: GanFacts) -> Look:
        """Raises Unstable when the pictures are not finite."""
        painter = Painter(state.mean, facts, "in training")
        try:
            grid = sample(painter, range(GRID_IMAGES))
            pixels = sample(painter, range(self.images), self._labels)
        except NotFinite as error:  # no other failure says anything of the game
            raise Unstable(str(error)) from error
        features = self._features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        # Where DATA is one picture many times, one picture is all there is to make.
        diversity = _spread(grid) / self._spread if self._spread else 1.0
        return Look(grid, distance(self._real, statistics(features)), diversity)


def trouble(look: Look, state: GanState) -> str:
    """What has gone wrong since the looks before, in words; empty when nothing has.

    A generator that collapses shows it by pictures that become alike, a game that one side wins by a distance that
    grows. A low loss of the discriminator alone is no trouble: it has one early on, while all gets better. Nor is a
    first look that sees one picture only (`slow_start`); a second one is.
    """
    if look.diversity < LEAST_DIVERSE * state.most_diverse:
        return f"the pictures became alike (diversity {look.diversity:.3f}, it was {state.most_diverse:.3f})"
    if look.diversity < FLAT and not slow_start(look, state):
        return f"the pictures are all alike (diversity {look.diversity:.3f}, that of real ones is 1)"
    if state.d_loss > MOST_D_LOSS:
        return f"the discriminator lost its way (its loss is {state.d_loss:.3g})"
    if state.best < 0:
        return ""
    if look.distance > MOST_WORSE * state.best:
        return f"the pictures became worse (fd_random {look.distance:.2f}, it was {state.best:.2f})"
    if state.d_loss < LEAST_D_LOSS and look.distance >= state.best:
        return f"the discriminator won (its loss is {state.d_loss:.3f}) and the pictures no longer become better"
    return ""


def slow_start(look: Look, state: GanState) -> bool:
    """Whether the first look sees one picture only: more may come yet, but this is no state to go back to."""
    return look.diversity < FLAT and state.most_diverse < FLAT and state.flat_step < 0


def _spread(pixels_NHWC: np.ndarray) -> float:
    return float(pixels_NHWC.astype(np.float32).std(0).mean())
