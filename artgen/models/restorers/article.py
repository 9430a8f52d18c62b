"""The article's restorer: an encoder-decoder of pooling and upsampling for 28x28 grey digits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artgen.models.restorers.params import check_channels, check_widths


class EncoderDecoder(nn.Module):
    """Convolution and pooling down to 1024 filters, upsampling and convolution back up, sigmoid output.

    The article feeds 28x28 pixels through four poolings (28, 14, 7, 3, 1) and cannot come back to 28. Here the
    picture is first continued at its lower and right edge (replicated) to a `multiple` (16), and the result is
    cut back, so any size goes in and comes out.

    Args:
        channels: 1 (grey) or 3 (RGB).
        widths: filters at each resolution, from full to lowest.
    Raises ValueError for what is out of range.
    """

    def __init__(self, channels: int = 1, widths: Sequence[int] = (64, 128, 256, 512, 1024)) -> None:
        super().__init__()
        check_channels(channels)
        check_widths(widths)
        self.multiple = 2 ** (len(widths) - 1)
        inward, outward = pairwise([channels, *widths]), pairwise(reversed(widths))
        self.encode = nn.ModuleList(nn.Conv2d(above, below, 3, padding=1) for above, below in inward)
        self.decode = nn.ModuleList(nn.Conv2d(below, above, 3, padding=1) for below, above in outward)
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """x in [0, 1]; returns values in (0, 1) at the same size."""
        height, width = x_BCHW.shape[-2:]
        hidden = F.pad(x_BCHW, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        for level, convolution in enumerate(self.encode):
            hidden = F.relu(convolution(F.max_pool2d(hidden, 2) if level else hidden))
        for convolution in self.decode:
            hidden = F.relu(convolution(F.interpolate(hidden, scale_factor=2.0)))
        return torch.sigmoid(self.last(hidden))[..., :height, :width]
