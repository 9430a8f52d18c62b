"""The facts of a generator as data, and a generator that is ready to use.

Shape letters: B batch, L latent numbers, C channels, H height, W width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from artgen.errors import UsageError

SMALLEST_PX, LARGEST_PX = 28, 256
MOST_LATENT = 1 << 16
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Of a generator's pictures, by channels, in Pillow's words."""


@dataclass(frozen=True, slots=True)
class GanFacts:
    """Facts of a generator, kept as JSON under the key `artgen_generator` in its safetensors header.

    height, width: of its pictures in pixels, 28..256. channels: 1 (grey), 3 (RGB) or 4 (RGBA).
    latent: normal numbers that a picture is made of, 1..65536. classes: names by class number; empty without classes.
    Raises UsageError for sizes and channels that no architecture makes.
    """

    architecture: str
    height: int
    width: int
    channels: int
    latent: int
    classes: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    card: str = ""

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if not SMALLEST_PX <= side <= LARGEST_PX:
                raise UsageError(f"{name} is {side}; generators make {SMALLEST_PX} to {LARGEST_PX} pixels a side")
        if self.channels not in MODES:
            raise UsageError(f"channels is {self.channels}; use 1 (grey), 3 (RGB) or 4 (RGBA)")
        if not 1 <= self.latent <= MOST_LATENT:
            raise UsageError(f"latent is {self.latent}; use 1 to {MOST_LATENT}")

    def to_json(self) -> str:
        """Keys are sorted: the same facts are the same text."""
        return json.dumps(asdict(self), sort_keys=True)

    def deciding(self) -> dict[str, Any]:
        """What decides the pictures of given weights, as JSON has it."""
        return {key: value for key, value in json.loads(self.to_json()).items() if key not in ("licence", "card")}

    @staticmethod
    def from_json(text: str) -> GanFacts:
        """Raises ValueError for no JSON object and values of another type, TypeError for keys that this version does not
        know, UsageError as the facts themselves."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"they are a JSON {type(values).__name__}, not an object")
        for key, kind in _KINDS.items():
            value = values.get(key, kind())
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{key} is {value!r}, not a JSON {_IN_JSON[kind]}")
        for name in values.get("classes", ()):
            if not isinstance(name, str) or not is_text(name):
                raise ValueError(f"a class is called {name!r}, which is no text")
        values["classes"] = tuple(values.get("classes", ()))
        return GanFacts(**values)


_KINDS: dict[str, type] = {
    "architecture": str, "height": int, "width": int, "channels": int, "latent": int, "classes": list, "params": dict,
    "licence": str, "card": str,
}  # fmt: skip
_IN_JSON = {int: "integer", list: "array", dict: "object", str: "string"}


def is_text(name: str) -> bool:
    """Whether the name of a class can be written as UTF-8, as manifests want it: half of a surrogate pair cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class Painter:
    """A generator with its facts. Call: z_BL float and labels_B int64 (None iff facts.classes is empty);
    returns float x_BCHW, about -1..1, not clamped. most_at_once: pictures of a pass that memory has room for, None as long as
    it never ran out.
    """

    def __init__(self, module: nn.Module, facts: GanFacts, sha256: str) -> None:
        self.module = module.eval().requires_grad_(False)
        self.facts = facts
        self.sha256 = sha256
        self.most_at_once: int | None = None

    def to(self, device: torch.device | str) -> Painter:
        """Moves the module itself; returns self."""
        self.module.to(device)
        return self

    def __call__(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        return self.module(z_BL, labels_B)
