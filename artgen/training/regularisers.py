"""Zero-centred gradient penalties, which keep a discriminator's slope small at real and generated pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_slope(logits_B: Tensor, x_BCHW: Tensor) -> Tensor:
    """Mean over the pictures of the squared norm (summed over channels and pixels) of d logit / d picture.

    gamma / 2 times this is R1 at real pictures (Mescheder et al. 2018, equation 9) and R2 at generated ones (their
    equation 10); R3GAN uses both at every step. logits_B must come from x_BCHW, which must require a gradient, and
    the logit of a picture depend on that picture alone (no batch norm). Computed in float32: half a float
    underflows to 0. The result can be differentiated again.
    """
    (slope_BCHW,) = torch.autograd.grad(logits_B.float().sum(), x_BCHW, create_graph=True)
    return slope_BCHW.float().square().sum((1, 2, 3)).mean()
