"""Which damage a training crop gets: kinds by weight, strengths over the whole range, masks known or not."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from artgen.errors import UsageError
from artgen.training.degrade import OPERATORS, Damaged, integer, uniform

# Shares of the crops; the default of the recipe key `damage`.
DEFAULT_WEIGHTS: dict[str, float] = {
    "noise": 40,
    "salt-pepper": 15,
    "missing": 12,
    "holes": 10,
    "jpeg": 13,
    "mixture": 8,
    "clean": 2,
}


def damage_at_random(x_1CHW: Tensor, weights: Mapping[str, float], generator: Generator) -> Damaged:
    """Damages one crop; the mask is what the restorer is told (without what was lost and nobody knows of).

    x: float in [0, 1], 1 or 3 channels. Raises UsageError for a kind that does not exist.
    """
    unknown = sorted(set(weights) - set(_KINDS))
    if unknown:
        raise UsageError(f"no training damage is called {unknown[0]!r}; choose from {', '.join(sorted(_KINDS))}")
    kinds = [kind for kind, weight in weights.items() if weight > 0]
    ends = list(accumulate(weights[kind] for kind in kinds))
    chosen = bisect(ends, uniform(generator, 0, ends[-1]))
    return _KINDS[kinds[min(chosen, len(kinds) - 1)]](x_1CHW, 1.0, generator)


def _chance(generator: Generator, share: float) -> bool:
    return uniform(generator, 0, 1) < share


def _noise(x: Tensor, scale: float, generator: Generator) -> Damaged:
    low, high = (0.0, 5.0) if _chance(generator, 0.08) else (5.0, 55.0)
    kind = "noise" if _chance(generator, 0.5) else "noise-in-file"
    return OPERATORS[kind](x, scale * uniform(generator, low, high), generator)


def _salt_pepper(x: Tensor, scale: float, generator: Generator) -> Damaged:
    kind = "salt-pepper" if x.shape[1] == 1 or _chance(generator, 0.6) else "salt-pepper-per-channel"
    return OPERATORS[kind](x, scale * uniform(generator, 0.02, 0.75), generator)


def _missing(x: Tensor, scale: float, generator: Generator) -> Damaged:
    damaged = OPERATORS["missing"](x, scale * uniform(generator, 0.05, 0.86), generator)
    return damaged if _chance(generator, 0.67) else _hide_mask(damaged, generator)


def _holes(x: Tensor, scale: float, generator: Generator) -> Damaged:
    kind = "holes" if _chance(generator, 0.65) else "scratches"
    most = 0.3 if kind == "holes" else 0.1
    damaged = OPERATORS[kind](x, scale * uniform(generator, 0.01, most), generator)
    return damaged if _chance(generator, 0.75) else _hide_mask(damaged, generator)


def _hide_mask(damaged: Damaged, generator: Generator) -> Damaged:
    """The lost pixels get black, white or one random colour, and nobody says where they are."""
    colour = torch.rand((1, damaged.image.shape[1], 1, 1), generator=generator)
    paint = (torch.zeros_like(colour), torch.ones_like(colour), colour)[integer(generator, 0, 2)]
    return Damaged(damaged.image + damaged.mask * paint, torch.zeros_like(damaged.mask))


def _jpeg(x: Tensor, scale: float, generator: Generator) -> Damaged:
    kind = "jpeg" if _chance(generator, 0.5) else "jpeg-full-colour"
    # Low qualities more often: that is where there is something to repair.
    quality = 8 + 87 * uniform(generator, 0, 1) ** 1.5
    # Half of the crops do not start on the grid of 8x8 blocks, like pictures that were cropped later.
    top, left = (integer(generator, 0, 7), integer(generator, 0, 7)) if _chance(generator, 0.5) else (0, 0)
    top, left = min(top, x.shape[2] - 1), min(left, x.shape[3] - 1)  # what can be mirrored
    image, _ = OPERATORS[kind](
        F.pad(x, (left, 0, top, 0), mode="reflect"), 100 - scale * (100 - quality), generator
    )
    image = image[:, :, top:, left:]
    return Damaged(image, torch.zeros_like(image[:, :1]))


def _clean(x: Tensor, scale: float, generator: Generator) -> Damaged:
    return Damaged(x, torch.zeros_like(x[:, :1]))


def _mixture(x: Tensor, scale: float, generator: Generator) -> Damaged:
    """Two or three kinds in random order, each at up to half its strength."""
    kinds = [_noise, _salt_pepper, _missing, _holes, _jpeg]
    mask = torch.zeros_like(x[:, :1])
    for _ in range(integer(generator, 2, 3)):
        apply = kinds.pop(integer(generator, 0, len(kinds) - 1))
        x, lost = apply(x, scale * uniform(generator, 0.1, 0.5), generator)
        mask = torch.maximum(mask, lost)
    return Damaged(x * (1 - mask), mask)


_KINDS: dict[str, Callable[[Tensor, float, Generator], Damaged]] = {
    "noise": _noise,
    "salt-pepper": _salt_pepper,
    "missing": _missing,
    "holes": _holes,
    "jpeg": _jpeg,
    "mixture": _mixture,
    "clean": _clean,
}
