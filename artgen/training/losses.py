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


def relative_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute error of each picture over its own size, as the mean of PSNR counts it.

    With plain l1 the heavy damage (salt and pepper of 70 %) has many times the say of the light (scratches,
    JPEG). The gradient is that of 0.03 log(error + 0.002): of l1's scale at the error of noise of sigma 40.
    """
    errors = (restored - clean).abs().flatten(1).mean(1)
    return 0.03 * (errors / (errors.detach() + 0.002)).mean()


def huber(restored: Tensor, clean: Tensor) -> Tensor:
    """Squared below 0.02 (5 of 255 levels), absolute above.

    The pull of l1 is as strong for an error of a tenth of a level as for any other, so in a mixture of damages the
    many pixels that are already right outvote what is left to repair: after 12,000 steps with l1 the default
    did nothing to JPEG.
    """
    return F.smooth_l1_loss(restored, clean, beta=0.02)


def rmse(restored: Tensor, clean: Tensor) -> Tensor:
    """Root of the mean squared error of each picture, the mean over the batch.

    Every picture pulls equally hard whatever its damage, as with l1, but towards the mean of what is possible, which PSNR
    asks for, where l1 asks for the median. Below half a level of 255 the pull fades: such a picture is right.
    """
    errors = (restored - clean).square().flatten(1).mean(1)
    return (errors + (0.5 / 255) ** 2).sqrt().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "relative_l1": relative_l1,
    "huber": huber,
    "rmse": rmse,
}
