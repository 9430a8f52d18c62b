"""Scores on pictures that training never sees: the same crops and the same damage at every visit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from artgen.metrics.pairs import psnr
from artgen.training.data import stable_seed
from artgen.training.degrade import OPERATORS

# Kind and strength, on colour and on grey pictures.
TASKS = (
    ("noise", 15.0, "colour"),
    ("noise", 25.0, "colour"),
    ("noise", 50.0, "colour"),
    ("noise", 25.0, "grey"),
    ("salt-pepper", 0.5, "grey"),
    ("missing", 0.8, "grey"),
    ("holes", 0.15, "colour"),
    ("jpeg", 10.0, "grey"),
)


@torch.no_grad()
def validate(
    network: nn.Module, pictures: Sequence[np.ndarray], panel: Path | None, dtype: torch.dtype | None = None
) -> dict[str, float]:
    """Mean PSNR over the centre crops (up to 192 px) of the pictures for every task, keyed "noise-25-grey".

    pictures: uint8 H x W x 3, sides at least 8. Writes a PNG of input, output and target of every task when
    `panel` is given.
    """
    device = next(network.parameters()).device
    scores, rows = {}, []
    for kind, strength, colours in TASKS:
        values = []
        for index, pixels in enumerate(pictures):
            clean = _centre(pixels, colours == "grey")
            generator = Generator().manual_seed(stable_seed("validate", kind, strength, index))
            image, mask = OPERATORS[kind](clean, strength, generator)
            given = image.expand(-1, 3, -1, -1).to(device)
            with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
                restored = network(given, mask.to(device)).float().cpu()
            if colours == "grey":
                restored = restored.mean(1, keepdim=True)
            values.append(psnr(restored, clean))
            if index == len(rows) % len(pictures) and len(values) == index + 1:
                row = torch.cat([image, restored, clean], dim=3).expand(-1, 3, -1, -1)
        rows.append(row)
        scores[f"{kind}-{strength:g}-{colours}"] = sum(values) / len(values)
    if panel is not None:
        _write_panel(rows, panel)
    return scores


def _centre(pixels: np.ndarray, grey: bool) -> Tensor:
    height, width = (min(side, 192) // 8 * 8 for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    crop = Image.fromarray(pixels[top : top + height, left : left + width])
    values = np.asarray(crop.convert("L"))[:, :, None] if grey else np.asarray(crop)
    return torch.from_numpy(values.copy()).permute(2, 0, 1)[None].float().div(255)


def _write_panel(rows: Sequence[Tensor], path: Path) -> None:
    height, width = max(row.shape[2] for row in rows), max(row.shape[3] for row in rows)
    sheet = np.full((height * len(rows), width, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        pixels = row[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        sheet[number * height : number * height + pixels.shape[0], : pixels.shape[1]] = pixels
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
