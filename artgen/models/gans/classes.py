"""Where classes enter: beside the latent numbers of a generator, and in the verdict of a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentInput(nn.Module):
    """The latent numbers as they are, or with a learnt vector of the class behind them.

    Args:
        latent: numbers in z. classes: 0 for none.
    """

    def __init__(self, latent: int, classes: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, latent) if classes else None
        self.width = 2 * latent if classes else latent

    def forward(self, z_BL: Tensor, labels_B: Tensor | None) -> Tensor:
        """Returns B x `width`."""
        if self.embedding is None:
            return z_BL
        return torch.cat([z_BL, self.embedding(labels_B).to(z_BL.dtype)], dim=1)


class Verdict(nn.Module):
    """One logit from features: linear, and with classes the projection of Miyato and Koyama 2018, equation 4."""

    def __init__(self, width: int, classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self.embedding = nn.Embedding(classes, width) if classes else None
        if self.embedding is not None:
            # So that the class term starts as large as the linear one.
            nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, features_BF: Tensor, labels_B: Tensor | None) -> Tensor:
        """Returns logits_B; positive means real."""
        logits_B = self.linear(features_BF)[:, 0]
        if self.embedding is None:
            return logits_B
        return logits_B + (self.embedding(labels_B) * features_BF).sum(1)
