"""Training crops as a function of (seed, position) alone: same order, crops and damage for any workers.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Sequence
from collections.abc import Generator as Producer
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

from artgen.errors import UsageError
from artgen.training.degrade import integer, uniform
from artgen.training.mixtures import damage_at_random
from artgen.training.recipe import RestorerRecipe

T = TypeVar("T")


class Batch(NamedTuple):
    """clean and damaged: float, N x channels x patch x patch, clean in [0, 1]; mask: N x 1 x patch x patch, 1 = lost."""

    clean: Tensor
    damaged: Tensor
    mask: Tensor


def stable_seed(*parts: int | str) -> int:
    """63 bits that depend on the parts alone, on every machine and Python (unlike `hash`)."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Crops:
    """Crop number `position` of an endless training set made of pictures in memory.

    pictures: uint8, H x W x 3 or H x W, each at least patch_px on both sides. Every epoch shows each picture
    once, in its own order. channels: of the model; 1 makes every crop grey, 3 makes three equal channels of grey.
    """

    pictures: Sequence[np.ndarray]
    recipe: RestorerRecipe
    channels: int = 3

    def __post_init__(self) -> None:
        if not self.pictures:
            raise UsageError(
                "no picture to train on: the DATA holds none of at least patch_px pixels on both sides"
            )

    def order(self, epoch: int) -> np.ndarray:
        """The order of the pictures in an epoch."""
        return np.random.default_rng(stable_seed(self.recipe.seed, "epoch", epoch)).permutation(len(self.pictures))

    def clean(self, position: int, order: np.ndarray, generator: Generator) -> Tensor:
        """The undamaged crop, uint8 C x patch x patch: random place, turn and flip, grey at `grey_share`."""
        pixels = self.pictures[order[position % len(order)]]
        patch = self.recipe.patch_px
        top = integer(generator, 0, pixels.shape[0] - patch)
        left = integer(generator, 0, pixels.shape[1] - patch)
        pixels = pixels[top : top + patch, left : left + patch]
        if self.recipe.turns:
            pixels = np.rot90(pixels, integer(generator, 0, 3))
            pixels = pixels[:, ::-1] if integer(generator, 0, 1) else pixels
        as_grey = uniform(generator, 0, 1) < self.recipe.grey_share or self.channels == 1
        if pixels.ndim == 2:
            return torch.from_numpy(pixels.copy())[None]
        if as_grey:
            # ITU-R BT.601, rounded to 8 bits as grey files are.
            grey = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
            return torch.from_numpy((grey + 0.5).astype(np.uint8))[None]
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def batch(self, first: int, count: int) -> Batch:
        """Crops first..first+count-1, damaged; each by a generator of its own position."""
        clean, damaged, masks = [], [], []
        epoch, order = -1, np.empty(0, int)
        for position in range(first, first + count):
            if position // len(self.pictures) != epoch:
                epoch = position // len(self.pictures)
                order = self.order(epoch)
            generator = Generator().manual_seed(stable_seed(self.recipe.seed, "crop", position))
            x_1CHW = self.clean(position, order, generator)[None].float().div(255)
            image, mask = damage_at_random(x_1CHW, self.recipe.damage, generator)
            clean.append(x_1CHW.expand(-1, self.channels, -1, -1))
            damaged.append(image.expand(-1, self.channels, -1, -1))
            masks.append(mask)
        return Batch(torch.cat(clean), torch.cat(damaged), torch.cat(masks))


def prefetch(make: Callable[[int], T], first: int, depth: int = 4) -> Producer[T, None, None]:
    """Yields make(first), make(first + 1), ... made ahead of time in one thread; its errors surface here."""
    ready: queue.Queue[T | BaseException] = queue.Queue(depth)
    stop = threading.Event()

    def work() -> None:
        step = first
        while not stop.is_set():
            try:
                item = make(step)
            except BaseException as error:  # noqa: BLE001 (raised again in the consumer)
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
            step += 1

    thread = threading.Thread(target=work, name="artgen-batches", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
