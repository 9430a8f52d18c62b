"""Whether a set of pictures covers another: improved precision and recall, and how many classes it has.

Shape letters: N pictures, F features, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from artgen.errors import UsageError

NEIGHBOURS = 3
_ROWS = 1000
# Of the largest squared length: what rounding makes of the distance of two features that are the same.
_ROUNDING = 1e-12


class Manifolds(NamedTuple):
    """precision: share of the fake pictures that could be real ones. recall: share of the real ones that could be made."""

    precision: float
    recall: float


def precision_recall(real_NF: Tensor, fake_NF: Tensor, neighbours: int = NEIGHBOURS) -> Manifolds:
    """Kynkaanniemi et al. 2019, equations 1 and 2: a picture could be of a set when it is at least as near to one of
    its pictures as that one's `neighbours`-th nearest in the set. Both depend on the numbers of pictures.

    Raises UsageError for a set that has no picture with so many neighbours.
    """
    least = min(len(real_NF), len(fake_NF))
    if least <= neighbours:
        raise UsageError(
            f"precision and recall with {neighbours} neighbours need {neighbours + 1} pictures on each side; "
            f"there are {least}"
        )
    real, fake = real_NF.double(), fake_NF.double()
    slack = _ROUNDING * float(torch.cat([real, fake]).square().sum(1).max())
    return Manifolds(
        _share_within(fake, real, _radii(real, neighbours) + slack),
        _share_within(real, fake, _radii(fake, neighbours) + slack),
    )


def _radii(rows_NF: Tensor, neighbours: int) -> Tensor:
    """Squared distance of each to its `neighbours`-th nearest; the nearest of all is itself."""
    return torch.cat([_squared(part, rows_NF).kthvalue(neighbours + 1).values for part in rows_NF.split(_ROWS)])


def _share_within(rows_NF: Tensor, others_NF: Tensor, radii_N: Tensor) -> float:
    inside = [(_squared(part, others_NF) <= radii_N).any(1) for part in rows_NF.split(_ROWS)]
    return float(torch.cat(inside).double().mean())


def _squared(a_NF: Tensor, b_NF: Tensor) -> Tensor:
    lengths = a_NF.square().sum(1)[:, None] + b_NF.square().sum(1)
    return (lengths - 2 * a_NF @ b_NF.T).clamp(min=0)


def histogram(labels_N: Tensor, classes: int) -> Tensor:
    """counts_K, int64."""
    return torch.bincount(labels_N, minlength=classes)


def modes(counts_K: Tensor) -> int:
    """Classes that there is a picture of."""
    return int((counts_K > 0).sum())


def divergence(counts_K: Tensor, real_K: Tensor | None = None) -> float:
    """Kullback-Leibler divergence, in nats, of a histogram from that of the real pictures, or from equal shares: 0 for
    the same shares, log K for one class of K, infinite where the real pictures have no such class.

    Even equal shares give more than 0 in a sample: about (K - 1) / 2 N.
    """
    shares = counts_K.double() / counts_K.sum()
    wanted = torch.ones_like(shares) if real_K is None else real_K.double()
    wanted = wanted / wanted.sum()
    there = shares > 0
    return float((shares[there] * (shares[there] / wanted[there]).log()).sum())
