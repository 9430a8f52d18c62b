"""DnCNN, the residual denoiser of the published tables."""

from __future__ import annotations

from torch import Tensor, nn

from artgen.models.restorers.params import check_channels, check_number


class DnCNN(nn.Module):
    """Predicts the noise and takes it away (Zhang et al. 2017, "Beyond a Gaussian denoiser").

    Parameter names and the constants of the batch norm are those that spandrel reads, so what is trained here
    opens in every tool built on spandrel.

    Args:
        channels: 1 (grey) or 3 (RGB).
        width: filters of the hidden layers.
        depth: number of convolutions; 17 for one noise level, 20 for blind denoising.
        batch_norm: normalise the hidden layers, as in the paper.
    Raises ValueError for what is out of range.
    """

    def __init__(self, channels: int = 1, width: int = 64, depth: int = 17, batch_norm: bool = True) -> None:
        super().__init__()
        check_channels(channels)
        check_number("width", width, 1)
        check_number("depth", depth, 2)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width, eps=1e-4))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """x in about [0, 1]; returns the denoised picture, not clamped."""
        return x_BCHW - self.model(x_BCHW)
