"""Scores on pictures that training never sees: the same crops and the same damage at every visit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from artgen.metrics.pairs import SSIM_WINDOW, psnr, ssim
from artgen.models.spec import Restorer
from artgen.storage import atomic, uri
from artgen.training.data import stable_seed
from artgen.training.degrade import OPERATORS
from artgen.training.dice import Dice
from artgen.training.holdout import HELD_PX


class Task(NamedTuple):
    """What is scored: an operator at a strength on colour or grey pictures. kind: of training damage that it belongs to."""

    kind: str
    operator: str
    strength: float
    colours: str

    @property
    def name(self) -> str:
        """What the log calls its score."""
        return f"{self.operator}-{self.strength:g}-{self.colours}"


TASKS = (
    Task("noise", "noise", 15.0, "colour"),
    Task("noise", "noise", 25.0, "colour"),
    Task("noise", "noise", 50.0, "colour"),
    Task("noise", "noise", 25.0, "grey"),
    Task("salt-pepper", "salt-pepper", 0.5, "grey"),
    Task("missing", "missing", 0.8, "grey"),
    Task("holes", "holes", 0.15, "colour"),
    Task("holes", "scratches", 0.05, "colour"),
    Task("jpeg", "jpeg", 10.0, "grey"),
)


def tasks_of(damage: Iterable[str], channels: int) -> list[Task]:
    """Those of the kinds of training damage that a model has seen; all for a mixture, and where no kind is known.

    channels: of the model; one of grey pictures sees the colour ones in grey.
    """
    kinds = {"noise" if kind == "float-noise" else kind for kind in damage} - {"clean"}
    seen = [task for task in TASKS if task.kind in kinds or "mixture" in kinds or not kinds]
    if channels == 1:
        seen = [task._replace(colours="grey") for task in seen]
    return list(dict.fromkeys(seen))


@torch.no_grad()
def validate(
    restorer: Restorer,
    pictures: Sequence[np.ndarray],
    panel: str | None,
    dtype: torch.dtype | None = None,
    options: uri.Options | None = None,
) -> dict[str, float]:
    """Mean PSNR and SSIM over the centre crops (up to 192 px) of the pictures for every task of the damage that the restorer
    was trained on: "noise-25-grey" in dB and "noise-25-grey-ssim" (where no picture is smaller than its window).

    pictures: uint8, H x W or H x W x 3, at least one. Writes a PNG with one row of input, output and target for each task to
    the path or URL `panel`. Raises StorageError.
    """
    scores, rows = {}, []
    # A model that takes less than its multiple continues its input by itself, and is trained so.
    multiple = restorer.facts.multiple if restorer.facts.min_size >= restorer.facts.multiple else 1
    for task in tasks_of(restorer.facts.damage, restorer.facts.channels):
        name, triples = task.name, []
        for index, pixels in enumerate(pictures):
            clean = _centre(pixels, multiple, grey=task.colours == "grey")
            dice = Dice(stable_seed("validate", task.operator, str(task.strength), index))
            image, mask = OPERATORS[task.operator](clean, task.strength, dice)
            triples.append((image, _restore(restorer, image, mask, dtype), clean))
        scores[name] = sum(psnr(y, x) for _, y, x in triples) / len(triples)
        if min(min(x.shape[-2:]) for *_, x in triples) >= SSIM_WINDOW:
            scores[f"{name}-ssim"] = sum(ssim(y, x) for _, y, x in triples) / len(triples)
        rows.append(torch.cat([t.expand(-1, 3, -1, -1) for t in triples[len(rows) % len(triples)]], dim=3))
    if panel is not None:
        atomic.write(panel, _sheet(rows), options)
    return scores


def _restore(restorer: Restorer, image: Tensor, mask: Tensor, dtype: torch.dtype | None) -> Tensor:
    device = next(restorer.module.parameters()).device
    given = image.expand(-1, restorer.facts.channels, -1, -1).to(device)
    with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        restored = restorer(given, mask.to(device)).float().cpu()
    # A grey picture that went in as three equal channels comes out as their mean.
    return restored if image.shape[1] == restored.shape[1] else restored.mean(1, keepdim=True)


def _centre(pixels: np.ndarray, multiple: int, *, grey: bool) -> Tensor:
    height, width = (max(min(side, HELD_PX) // multiple * multiple, 1) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    crop = Image.fromarray(pixels[top : top + height, left : left + width])
    values = np.array(crop.convert("L" if grey else "RGB"))
    return torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1)[None].float().div(255)


def _sheet(rows: Sequence[Tensor]) -> bytes:
    height, width = max(row.shape[2] for row in rows), max(row.shape[3] for row in rows)
    sheet = np.full((height * len(rows), width, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        pixels = row[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        sheet[number * height : number * height + pixels.shape[0], : pixels.shape[1]] = pixels
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()
