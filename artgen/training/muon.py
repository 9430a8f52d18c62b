"""Muon for the convolutions, AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MATRIX_RATE = 4.0
"""Learning rate of the matrices over that of the rest; after 400 steps 4 was better than 1, and 10 broke down."""
_MOMENTUM = 0.95
# Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks": steps x -> ax + bx^3 + cx^5 on singular values
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """Moves a convolution along the orthogonal matrix that is nearest to its momentum (Jordan et al. 2024).

    A weight of out x in x kh x kw is the matrix out x (in kh kw). All directions of such a matrix move at one rate, the
    faint ones too: a picture's brightness is many times as loud as JPEG blocks, and AdamW learns the loud first. Its step has
    0.2 of root mean square, as AdamW's about has (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4).
    Every step is as long as the last whatever the gradient, so the rate must fall for the scores to settle: a run that kept
    it high did not catch up (model card, "What was tried").
    First and last layers (the network's `ends`, where it has more than two) and all vectors go by AdamW (Loshchilov and
    Hutter 2019), betas 0.9 and 0.999.

    dtype: of the orthogonalisation; bfloat16 is enough, where the hardware multiplies it fast. lr: of AdamW's part.
    """

    def __init__(
        self, network: nn.Module, lr: float, weight_decay: float = 0.0, dtype: torch.dtype | None = None
    ) -> None:
        weights = [p for p in network.parameters() if p.requires_grad]
        kernels = [p for p in weights if p.ndim == 4]
        ends = {id(p) for p in getattr(network, "ends", (*kernels[:1], *kernels[-1:]))}
        matrices = [p for p in kernels if id(p) not in ends]
        inner = {id(p) for p in matrices}
        groups = [
            {"params": matrices, "matrices": True},
            {"params": [p for p in weights if id(p) not in inner], "matrices": False},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype or torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step along the gradients that are there."""
        for group in self.param_groups:
            move = self._matrix if group["matrices"] else self._vector
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    move(weight, weight.grad, group["lr"])

    def _matrix(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(state["momentum"], _MOMENTUM)  # Nesterov
        rows, columns = len(weight), weight[0].numel()
        turned = orthogonal(ahead.reshape(rows, columns).to(self._dtype)).to(weight.dtype).view(weight.shape)
        weight.add_(turned, alpha=-MATRIX_RATE * lr * 0.2 * math.sqrt(max(rows, columns)))

    def _vector(self, weight: Tensor, gradient: Tensor, lr: float) -> None:
        state: dict[str, Any] = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        state["mean"].lerp_(gradient, 0.1)
        state["square"].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        mean, square = 1 - 0.9 ** state["step"], 1 - 0.999 ** state["step"]
        weight.addcdiv_(state["mean"], (state["square"] / square).sqrt_().add_(1e-8), value=-lr / mean)


def orthogonal(x_RC: Tensor) -> Tensor:
    """The matrix with the singular vectors of x and singular values near 1 (0.7 to 1.2), by five Newton-Schulz steps."""
    turned = x_RC.shape[0] > x_RC.shape[1]
    x = x_RC.T if turned else x_RC
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.T if turned else x
