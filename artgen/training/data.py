"""Training crops as a function of (seed, position) alone: same order, crops and damage for any workers.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Generator as Producer
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from artgen.errors import UsageError
from artgen.training.mixtures import damage_at_random
from artgen.training.recipe import RestorerRecipe

T = TypeVar("T")
CPU = torch.device("cpu")


class Batch(NamedTuple):
    """clean and damaged: float, N x channels x patch x patch, clean in [0, 1]; mask: N x 1 x patch x patch, 1 = lost."""

    clean: Tensor
    damaged: Tensor
    mask: Tensor


@lru_cache(maxsize=2)  # every batch asks for it (of a GAN every shard), and a batch may lie in two epochs
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """In what order an epoch shows `count` pictures; read-only, since it is kept."""
    order = np.random.default_rng(stable_seed(seed, "epoch", epoch)).permutation(count)
    order.setflags(write=False)
    return order


def stable_seed(*parts: int | str) -> int:
    """63 bits that depend on the parts alone, on every machine and Python (unlike `hash`)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class PictureSet(Protocol):
    """Pictures by number: uint8, H x W x 3 or H x W; None for one that cannot be used."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> np.ndarray | None: ...


@dataclass(frozen=True, slots=True)
class Crops:
    """Crop number `position` of an endless training set.

    pictures: each at least patch_px on both sides, or None for one that cannot be used. channels: of the model; 1 makes
    every crop grey, 3 makes three equal channels of grey. device: where crops are damaged and batches are.

    An epoch has a place for every picture, in an order of its own. Where all can be used, none is repeated before all
    have been shown. Where some cannot, each usable one is still shown at its own place in every epoch; at the places of
    the others one is shown that is drawn by (seed, position) from all usable ones, so an epoch repeats as many pictures
    as it has unusable ones, scattered over all.
    """

    pictures: PictureSet
    recipe: RestorerRecipe
    channels: int = 3
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if not len(self.pictures):
            raise nothing_usable(self.recipe.patch_px)

    def order(self, epoch: int) -> np.ndarray:
        """The order of the pictures in an epoch."""
        return epoch_order(self.recipe.seed, epoch, len(self.pictures))

    def usable(self, position: int, order: np.ndarray) -> np.ndarray:
        """The picture of this position, or the one in its place. Raises UsageError when none can be used."""
        for number in self._candidates(position, order):
            pixels = self.pictures[number]
            if pixels is not None:
                return pixels
        raise nothing_usable(self.recipe.patch_px)

    def _candidates(self, position: int, order: np.ndarray) -> Iterator[int]:
        """The number of the picture of this position, then of all in an order that is this position's own."""
        yield int(order[position % len(order)])
        dice = np.random.default_rng(stable_seed(self.recipe.seed, "instead", position))
        yield from map(int, dice.permutation(len(order)))

    def clean(self, position: int, order: np.ndarray) -> Tensor:
        """The undamaged crop, uint8 C x patch x patch: random place, turn and flip, grey at `grey_share`."""
        chance = random.Random(stable_seed(self.recipe.seed, "crop", position))
        pixels = self.usable(position, order)
        patch = self.recipe.patch_px
        top, left = (chance.randint(0, side - patch) for side in pixels.shape[:2])
        pixels = pixels[top : top + patch, left : left + patch]
        if self.recipe.turns:
            pixels = np.rot90(pixels, chance.randint(0, 3))
            pixels = pixels[:, ::-1] if chance.randint(0, 1) else pixels
        as_grey = chance.random() < self.recipe.grey_share or self.channels == 1
        if pixels.ndim == 2:
            return torch.from_numpy(pixels.copy())[None]
        if as_grey:
            # ITU-R BT.601, rounded to 8 bits as grey files are.
            grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
            return torch.from_numpy((grey + 0.5).astype(np.uint8))[None]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def batch(self, first: int, count: int) -> Batch:
        """Crops first..first+count-1 on `device`, damaged there; each by the seed of its own position."""
        crops: list[Tensor] = []
        epoch, order = -1, np.empty(0, int)
        for position in range(first, first + count):
            if position // len(self.pictures) != epoch:
                epoch = position // len(self.pictures)
                order = self.order(epoch)
            crops.append(self.clean(position, order))
        patch = self.recipe.patch_px
        clean = torch.empty(count, self.channels, patch, patch, device=self.device)
        damaged, mask = torch.empty_like(clean), torch.empty_like(clean[:, :1])
        for channels in {len(crop) for crop in crops}:
            rows = [row for row, crop in enumerate(crops) if len(crop) == channels]
            seeds = [stable_seed(self.recipe.seed, "damage", first + row) for row in rows]
            x_BCHW = torch.stack([crops[row] for row in rows]).to(self.device).float().div(255)
            lost = damage_at_random(x_BCHW, self.recipe.damage, seeds)
            # Grey crops of a colour model are three equal channels.
            clean[rows], damaged[rows], mask[rows] = x_BCHW, lost.image, lost.mask
        return Batch(clean, damaged, mask)


def nothing_usable(patch_px: int, about: str = "") -> UsageError:
    """The error for DATA without a picture to train on. about: what is known of those that it has, in words."""
    return UsageError(
        f"no picture to train on: the DATA holds none of {patch_px}x{patch_px} pixels or more that can be decoded{about}; "
        "give other DATA or a smaller patch_px"
    )


def prefetch(make: Callable[[int], T], first: int, depth: int = 4, threads: int = 1) -> Producer[T, None, None]:
    """Yields make(first), make(first + 1), ... in order, made ahead of time; its errors surface here."""
    with ThreadPoolExecutor(threads, thread_name_prefix="artgen-batches") as pool:
        ahead = deque(pool.submit(make, step) for step in range(first, first + depth))
        following = first + depth
        try:
            while True:
                item = ahead.popleft().result()
                ahead.append(pool.submit(make, following))
                following += 1
                yield item
        finally:
            for waiting in ahead:
                waiting.cancel()
