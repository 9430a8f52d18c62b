"""Which damage a training crop gets: kinds by weight, strengths over the whole range, masks known or not."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from artgen.errors import UsageError
from artgen.training.degrade import OPERATORS, Damaged, Operator, Strength
from artgen.training.dice import Dice

# Shares of the crops; the default of the recipe key `damage`.
DEFAULT_WEIGHTS: dict[str, float] = {
    "noise": 40,
    "salt-pepper": 11,
    "missing": 11,
    "holes": 10,
    "jpeg": 20,
    "mixture": 6,
    "clean": 2,
}


class Step(NamedTuple):
    """One operator of a crop's damage. hides: nobody is told where it was lost, which is painted over."""

    operator: str
    strength: float
    hides: bool = False


def damage_at_random(x_BCHW: Tensor, weights: Mapping[str, float], seeds: Sequence[int]) -> Damaged:
    """Damages every crop by its own seed; the mask is what the restorer is told (without what was lost and nobody knows of).

    x: float in [0, 1], 1 or 3 channels, on any device. The crops of a batch that come to the same operator pass it together.
    Raises UsageError for a kind that does not exist.
    """
    check_weights(weights)
    plans = [plan(weights, seed, x_BCHW.shape[1]) for seed in seeds]
    image, mask = x_BCHW.clone(), torch.zeros_like(x_BCHW[:, :1])
    for layer in range(max(map(len, plans), default=0)):
        together: dict[tuple[str, bool], list[int]] = {}
        for row, steps in enumerate(plans):
            if layer < len(steps):
                together.setdefault((steps[layer].operator, steps[layer].hides), []).append(row)
        for (name, hides), rows in together.items():
            # Every layer of a crop has dice of its own, so who else is in the batch does not matter.
            dice = Dice([(seeds[row] + layer + 1) % 2**63 for row in rows], x_BCHW.device)
            strength = torch.tensor([plans[row][layer].strength for row in rows], device=x_BCHW.device)
            damaged = _operator(name)(image[rows], strength, dice)
            damaged = _hide_mask(damaged, dice) if hides else damaged
            image[rows], mask[rows] = damaged.image, torch.maximum(mask[rows], damaged.mask)
    return Damaged(image * (1 - mask), mask)


def check_weights(weights: Mapping[str, Any]) -> None:
    """Raises UsageError for a kind that does not exist, and for weights that nothing can be drawn by."""
    known = {*_KINDS, *_KINDS_ALONE, "mixture", "clean"}
    if unknown := sorted(set(weights) - known):
        raise UsageError(f"no training damage is called {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    values = weights.values()
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or min(values, default=0) < 0 or not 0 < sum(values) < math.inf:
        raise UsageError(
            f"damage is {dict(weights)!r}; give each kind a number of 0 or more, and at least one kind a weight above 0"
        )


def plan(weights: Mapping[str, float], seed: int, channels: int) -> list[Step]:
    """The operators of a crop with this seed, in order; empty for a clean one."""
    chance = random.Random(seed)
    kinds = [kind for kind, weight in weights.items() if weight > 0]
    kind = chance.choices(kinds, [weights[kind] for kind in kinds])[0]
    if kind == "clean":
        return []
    if kind != "mixture":
        return [(_KINDS | _KINDS_ALONE)[kind](chance, channels, 1.0)]
    # Two or three kinds in random order, each at up to half its strength.
    mixed = chance.sample(list(_KINDS), chance.randint(2, 3))
    return [_KINDS[name](chance, channels, chance.uniform(0.1, 0.5)) for name in mixed]


def _noise(chance: random.Random, channels: int, scale: float) -> Step:
    low, high = (0.0, 5.0) if chance.random() < 0.08 else (5.0, 55.0)
    return Step(chance.choice(("noise", "noise-in-file")), scale * chance.uniform(low, high))


def _float_noise(chance: random.Random, channels: int, scale: float) -> Step:
    return Step("noise", scale * chance.uniform(0.0, 55.0))


def _salt_pepper(chance: random.Random, channels: int, scale: float) -> Step:
    whole = channels == 1 or chance.random() < 0.6
    return Step("salt-pepper" if whole else "salt-pepper-per-channel", scale * chance.uniform(0.02, 0.75))


def _missing(chance: random.Random, channels: int, scale: float) -> Step:
    # Hidden pixels of a random colour cannot be told from the picture: 1.7 % of the crops were such and made two thirds of
    # the variance of the gradient (bench/gradients.py). Black or white ones that nobody tells of are what salt and pepper are.
    return Step("missing", scale * chance.uniform(0.05, 0.86))


def _holes(chance: random.Random, channels: int, scale: float) -> Step:
    name, most = ("holes", 0.3) if chance.random() < 0.65 else ("scratches", 0.1)
    return Step(name, scale * chance.uniform(0.01, most), hides=chance.random() > 0.88)


def _jpeg(chance: random.Random, channels: int, scale: float) -> Step:
    # Low qualities more often: that is where there is something to repair.
    quality = 8 + 87 * chance.random() ** 1.5
    return Step(chance.choice(("jpeg", "jpeg-full-colour")), 100 - scale * (100 - quality))


_KINDS: dict[str, Callable[[random.Random, int, float], Step]] = {
    "noise": _noise,
    "salt-pepper": _salt_pepper,
    "missing": _missing,
    "holes": _holes,
    "jpeg": _jpeg,
}


# The protocol of published tables (Zhang et al. 2017): no part of mixtures.
_KINDS_ALONE = {"float-noise": _float_noise}


def _operator(name: str) -> Operator:
    return _off_grid(OPERATORS[name]) if name.startswith("jpeg") else OPERATORS[name]


def _off_grid(jpeg: Operator) -> Operator:
    """Some crops do not start on the grid of 8x8 blocks, like pictures that were cropped after they were saved."""

    def shifted(x_BCHW: Tensor, quality: Strength, dice: Dice) -> Damaged:
        height, width = x_BCHW.shape[-2:]
        room_y, room_x = min(7, height - 1), min(7, width - 1)  # what can be mirrored
        stays = dice.between(0, 1) < 0.85
        tops = torch.where(stays, 0, dice.integers(0, room_y)).tolist()
        lefts = torch.where(stays, 0, dice.integers(0, room_x)).tolist()
        padded = F.pad(x_BCHW, (room_x, room_x, room_y, room_y), mode="reflect")
        # The picture begins `top` rows into a frame that is coded whole; what lies around it is mirrored.
        framed = [
            p[:, room_y - top : 2 * room_y - top + height, room_x - left : 2 * room_x - left + width]
            for p, top, left in zip(padded, tops, lefts, strict=True)
        ]
        coded = jpeg(torch.stack(framed), quality, dice).image
        cut = [
            p[:, top : top + height, left : left + width] for p, top, left in zip(coded, tops, lefts, strict=True)
        ]
        return Damaged(torch.stack(cut), torch.zeros_like(x_BCHW[:, :1]))

    return shifted


def _hide_mask(damaged: Damaged, dice: Dice) -> Damaged:
    """The lost pixels get black, white or one random colour, and nobody says where they are."""
    colour = dice.uniform(damaged.image.shape[1], 1, 1)
    kind = dice.integers(0, 2).view(-1, 1, 1, 1)
    paint = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, colour))
    return Damaged(damaged.image + damaged.mask * paint, torch.zeros_like(damaged.mask))
