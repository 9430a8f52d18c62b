"""Adversarial losses of logits: small functions that know no network and no launcher.

real_B, fake_B: the discriminator's logits for real and generated pictures, paired by position; means over them are
returned. softplus(x) = log(1 + e^x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


def bce_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(fake)), s the sigmoid: Goodfellow et al. 2014, equation 1, negated."""
    return F.softplus(-real_B).mean() + F.softplus(fake_B).mean()


def bce_generator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """-log s(fake), which does not saturate: Goodfellow et al. 2014, end of section 3. real_B does not matter."""
    return F.softplus(-fake_B).mean()


def hinge_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """max(0, 1 - real) + max(0, 1 + fake): Miyato et al. 2018 (spectral normalisation), equation 16."""
    return F.relu(1 - real_B).mean() + F.relu(1 + fake_B).mean()


def hinge_generator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """-fake: Miyato et al. 2018, equation 17. real_B does not matter."""
    return -fake_B.mean()


def relativistic_discriminator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """softplus(fake - real), of pairs: Jolicoeur-Martineau 2019, and Huang et al. 2024 (R3GAN), equation 2."""
    return F.softplus(fake_B - real_B).mean()


def relativistic_generator(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """softplus(real - fake): the same game, seen from the other side (R3GAN, equation 2)."""
    return F.softplus(real_B - fake_B).mean()


class Game(NamedTuple):
    """Both sides' losses. relative: only differences of logits mean something, not their signs."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relative: bool = False


GAMES: dict[str, Game] = {
    "bce": Game(bce_discriminator, bce_generator),
    "hinge": Game(hinge_discriminator, hinge_generator),
    "relativistic": Game(relativistic_discriminator, relativistic_generator, relative=True),
}
