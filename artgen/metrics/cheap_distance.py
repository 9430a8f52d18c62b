"""A distance of picture sets that costs a second and needs no trained network: for watching, not for tables.

Frechet distance of the features of a small convolutional network with fixed random weights, as percent of the real
pictures' variance. Features of random networks rank generators of all kinds of pictures soundly where those of
ImageNet are far from home (Naeem et al. 2020, section 5, "random embeddings").

Shape letters: N pictures, C channels, H height, W width, F features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from artgen.metrics.sets import Statistics, frechet

NAME = "fd_random"
FEATURES = 128
LARGEST_PX = 32
AT_ONCE = 256


class RandomFeatures:
    """128 features of a picture. The weights are a function of the number of channels alone, on every machine."""

    def __init__(self, channels: int) -> None:
        dice = Generator().manual_seed(20261123)
        first = torch.randn(48, channels, 5, 5, generator=dice)
        # Without their mean these look at edges; the last few keep it and see brightness and colour.
        first[:40] -= first[:40].mean((1, 2, 3), keepdim=True)
        self._first = F.normalize(first.flatten(1)).view_as(first)
        self._second = F.normalize(torch.randn(96, 48 * 9, generator=dice)).view(96, 48, 3, 3)
        self._last = torch.linalg.qr(torch.randn(96 * 16, FEATURES, generator=dice))[0]

    @torch.no_grad()
    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """pixels: uint8, at least 16 a side; larger than 32 they are averaged down. Returns features_NF, float64."""
        parts = []
        for pixels in pixels_NCHW.split(AT_ONCE):
            x = pixels.float() / 127.5 - 1
            x = F.adaptive_avg_pool2d(x, (min(x.shape[2], LARGEST_PX), min(x.shape[3], LARGEST_PX)))
            x = F.relu(F.conv2d(x, self._first, stride=2, padding=2))
            x = F.relu(F.conv2d(x, self._second, stride=2, padding=1))
            parts.append(F.adaptive_avg_pool2d(x, 4).flatten(1) @ self._last)
        return torch.cat(parts).double()


def distance(real: Statistics, fake: Statistics) -> float:
    """The Frechet distance as percent of the real features' variance: 0 for the same set, about 100 for one picture
    repeated. It depends on the number of pictures: compare at the same.
    """
    return 100 * frechet(real, fake) / max(float(real.covariance.trace()), 1e-12)
