"""Small generators for tests: random weights, written as `artgen train gan` writes them."""

from __future__ import annotations

from pathlib import Path

import torch

from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts
from artgen.models.gans.weights import to_bytes

CLASSES = ("cat", "dog", "eel")


def write_run(folder: Path, classes: tuple[str, ...] = CLASSES, channels: int = 3, seed: int = 0) -> Path:
    """A run folder with a generator of 36 x 28 pixels; its path."""
    torch.manual_seed(seed)
    facts = GanFacts("r3", 28, 36, channels, 16, classes, {"base": 16, "most": 32, "group": 8})
    generator = build_generator(facts)
    for weights in generator.parameters():  # blocks start as the identity; here they must take part
        torch.nn.init.normal_(weights, std=0.2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(to_bytes(generator, facts))
    return folder
