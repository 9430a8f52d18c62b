"""Pixel losses: small functions that know no launcher and no logger."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error: sharper than l2 at equal PSNR and kinder to the rare large errors of impulses."""
    return F.l1_loss(restored, clean)


def l2(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean squared error, which is what PSNR measures."""
    return F.mse_loss(restored, clean)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "l2": l2}
