"""The facts of a model as data: what it takes, what it returns, what it was trained for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts of a restorer, kept as JSON under the key `artgen` in its safetensors header.

    channels: 1 (grey) or 3 (RGB) channels in and out.
    takes_mask: the forward pass takes a second tensor, 1 where a pixel is to be repaired.
    multiple: height and width of the input must be divisible by this.
    scale: output size over input size (1 for restorers, 2-4 for upscalers).
    overlap: default overlap of tiles in input pixels; of artgen's own models large enough for tiled = untiled within 1/255.
    seamless: whether tiles are known not to show; where not, a picture of several is told so in its notes.
    min_size: smallest height and width that the model takes.
    """

    name: str
    architecture: str
    params: dict[str, Any] = field(default_factory=dict)
    channels: int = 3
    takes_mask: bool = False
    multiple: int = 1
    scale: int = 1
    overlap: int = 32
    min_size: int = 1
    half: bool = True
    bfloat16: bool = True
    seamless: bool = True
    damage: tuple[str, ...] = ()
    licence: str = ""
    card: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for what no model can be: facts come out of files."""
        for name, least, most in (
            ("multiple", 1, 4096),
            ("scale", 1, 4),
            ("overlap", 0, 4096),
            ("min_size", 1, 4096),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from {least} to {most}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels!r}; it must be 1 or 3")
        for name, kind in (("name", str), ("architecture", str), ("params", dict), ("takes_mask", bool)):
            if not isinstance(value := getattr(self, name), kind):
                raise ValueError(f"{name} is {value!r}; it must be a {kind.__name__}")

    def to_json(self) -> str:
        """Keys are sorted: the same facts are the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> Facts:
        """Raises ValueError for no JSON object, TypeError for keys that this version does not know."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"they are a JSON {type(values).__name__}, not an object")
        values["damage"] = tuple(values.get("damage", ()))
        return Facts(**values)


class Restorer:
    """A module with its facts. Call: x_BCHW float in [0, 1] (C = facts.channels), and mask_B1HW float
    {0, 1} iff facts.takes_mask; returns float y_BCHW at facts.scale times the size, not clamped.
    """

    def __init__(self, module: nn.Module, facts: Facts, sha256: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.facts = facts
        self.sha256 = sha256

    def to(self, device: torch.device | str) -> Restorer:
        """Moves the module itself; returns self."""
        self.module.to(device)
        return self

    def __call__(self, x_BCHW: Tensor, mask_B1HW: Tensor | None = None) -> Tensor:
        if self.facts.takes_mask:
            if mask_B1HW is None:
                mask_B1HW = torch.zeros_like(x_BCHW[:, :1])
            return self.module(x_BCHW, mask_B1HW)
        return self.module(x_BCHW)
