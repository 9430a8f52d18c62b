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


def psnr(restored: Tensor, clean: Tensor) -> Tensor:
    """The gradient of PSNR, the mean over the batch as tables average it, with the value of `rmse`.

    A dB of light noise counts as much as one of heavy noise; with rmse, noise of sigma 50 has twice the say of sigma 15. The
    gradient is that of 0.014 log(mse + (2 / 255)^2): of rmse's scale at the error of noise of sigma 25, and it fades beyond
    42 dB. A logarithm hardly grows when weights break, so its value would hide that from the loop.
    """
    errors = (restored - clean).square().flatten(1).mean(1)
    pull = 0.014 * (errors + (2 / 255) ** 2).log().mean()
    return errors.detach().sqrt().mean() + (pull - pull.detach())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "l2": l2,
    "huber": huber,
    "rmse": rmse,
    "psnr": psnr,
}
