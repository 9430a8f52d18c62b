"""Random numbers for a batch in which every picture has its own: the same in any batch, in any order, on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, as a signed number
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685


class Dice:
    """Row b of every draw follows from seeds[b] and from how many numbers this object drew before, alone.

    The numbers are SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", fig. 17) at
    the state seed + draw, in whole-number arithmetic: uniform ones have the same bits on CPUs and accelerators, normal ones
    differ by what the device's logarithm and cosine do. A torch.Generator gives neither a row of its own to each picture
    nor the same numbers on two devices.

    seeds: 0 to 2^63 - 1, one for each picture of the batch, or one number for a batch of one.
    """

    def __init__(self, seeds: int | Sequence[int], device: torch.device | str = "cpu") -> None:
        listed = [seeds] if isinstance(seeds, int) else list(seeds)
        self._keys_B1 = _mixed(torch.tensor(listed, dtype=torch.int64, device=device))[:, None]
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._keys_B1)

    @property
    def device(self) -> torch.device:
        return self._keys_B1.device

    def uniform(self, *shape: int) -> Tensor:
        """Float32 in [0, 1), B x shape, in steps of 2^-24."""
        return (_high(self._bits(math.prod(shape)), 24) * 2.0**-24).view(len(self), *shape)

    def between(self, low: float, high: float) -> Tensor:
        """One number in [low, high) for each picture: B."""
        return low + (high - low) * self.uniform()

    def integers(self, low: int, high: int) -> Tensor:
        """One whole number in [low, high] for each picture: int64, B."""
        return low + (_high(self._bits(1)[:, 0], 31, torch.int64) * (high - low + 1) >> 31)

    def normal(self, *shape: int) -> Tensor:
        """Float32 from N(0, 1), B x shape; Box and Muller 1958, both numbers of each pair used."""
        count = math.prod(shape)
        bits = self._bits(-(-count // 2))
        radius = torch.sqrt(-2 * torch.log((_high(bits, 24) + 1) * 2.0**-24))
        angle = _high(bits << 32, 24) * (2 * math.pi * 2.0**-24)
        pairs = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return pairs[:, :count].reshape(len(self), *shape)

    def seeds(self) -> list[int]:
        """A seed for each picture, for what must be drawn by other means."""
        return _high(self._bits(1)[:, 0], 63, torch.int64).tolist()

    def _bits(self, count: int) -> Tensor:
        """64 random bits, B x count."""
        positions = torch.arange(self._drawn, self._drawn + count, dtype=torch.int64, device=self.device)
        self._drawn += count
        return _mixed(self._keys_B1 + positions * _GOLDEN)


def _mixed(state: Tensor) -> Tensor:
    z = state + _GOLDEN
    z = (z ^ _right(z, 30)) * _FIRST
    z = (z ^ _right(z, 27)) * _SECOND
    return z ^ _right(z, 31)


def _right(bits: Tensor, by: int) -> Tensor:
    """Shift of the unsigned number: int64 shifts its sign in."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _high(bits: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return _right(bits, 64 - count).to(dtype)
