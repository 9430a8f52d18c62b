"""Numbers that change over a run, as functions of its progress."""

from __future__ import annotations

import math


def cosine(progress: float, step: int, warmup_steps: int) -> float:
    """Factor of the learning rate: linear over `warmup_steps`, then half a cosine to 0 at progress 1.

    Loshchilov and Hutter 2017 (SGDR), one cycle. progress and the result are in [0, 1].
    """
    warm = min((step + 1) / max(warmup_steps, 1), 1.0)
    return warm * 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def ema_decay(batch_images: int, seen_images: int, halflife_images: int) -> float:
    """Weight of the old mean when one step of `batch_images` is added.

    The half-life grows with the run (at most 5 % of the images seen), so that the mean forgets the start.
    Karras et al. 2022 (EDM), the ramp-up of appendix F.2.
    """
    halflife = min(float(halflife_images), 0.05 * seen_images)
    return 0.5 ** (batch_images / max(halflife, 1e-8))
