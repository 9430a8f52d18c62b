"""A whole training run in one process: pictures in, a run folder out. The same call resumes it."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from artgen.errors import UsageError
from artgen.models import registry
from artgen.models.spec import Restorer
from artgen.training.data import Crops
from artgen.training.loop_restorer import TrainState, progress_of, train
from artgen.training.recipe import RestorerRecipe
from artgen.training.state import load_checkpoint, save_checkpoint
from artgen.training.validate import validate

log = logging.getLogger(__name__)

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


def train_restorer(
    data: str,
    run: str,
    recipe: RestorerRecipe,
    *,
    device: str = "auto",
    report: Callable[[Mapping[str, float]], None] | None = None,
) -> Path:
    """Trains on the pictures below `data` (folders, separated by commas) into the folder `run`.

    Writes RUN/recipe.json, log.jsonl, checkpoints, panels and model.safetensors, whose path it returns.
    Raises UsageError (no usable picture, another architecture in RUN), StorageError, RunError.
    """
    where = torch.device(pick_device(device))
    folder = Path(run)
    pictures, skipped = read_pictures(data, recipe.patch_px)
    held = pictures[:: recipe.holdout] if recipe.holdout else []
    kept = [p for i, p in enumerate(pictures) if not recipe.holdout or i % recipe.holdout]

    torch.manual_seed(recipe.seed)
    network, facts = registry.build(recipe.model, recipe.params)
    crops = Crops(kept or held, recipe, facts.channels)
    facts = dataclasses.replace(facts, damage=tuple(recipe.damage), licence=recipe.licence)
    network = network.to(where).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    mean = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    state = TrainState(network, mean, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    resumed = load_checkpoint(state, folder)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=1, sort_keys=True))

    dtype = pick_dtype(recipe.precision, where)
    write = JsonLines(folder / "log.jsonl")
    start = {"pictures": len(kept), "held_out": len(held), "skipped_pictures": len(skipped)}
    write({**start, "resumed_at": state.step if resumed else -1, "threads": torch.get_num_threads()})
    for path, reason in skipped:
        log.warning("left out %s: %s", path, reason)

    def on_report(numbers: Mapping[str, float]) -> None:
        if held and (state.step % recipe.validate_steps < recipe.report_steps):
            panel = folder / "panels" / f"step-{state.step:08d}.png"
            numbers = {**numbers, **validate(Restorer(state.mean, facts, ""), held, panel, dtype)}
        progress = progress_of(state, recipe)
        left_s = state.seconds * (1 / progress - 1) if progress else 0.0
        write({**numbers, "progress": progress, "left_s": left_s})
        (report or _log_line)(numbers)

    train(
        state,
        crops.batch,
        recipe,
        forward=network if facts.takes_mask else lambda x, mask: network(x),
        report=on_report,
        save=lambda s: save_checkpoint(s, folder, facts),
        dtype=dtype,
    )
    if held:
        write(
            {"step": state.step, **validate(Restorer(state.mean, facts, ""), held, folder / "panels" / "final.png")}
        )
    return folder / "model.safetensors"


def read_pictures(data: str, smallest_px: int) -> tuple[list[np.ndarray], list[tuple[str, str]]]:
    """Every picture below the folders as uint8 (grey H x W, else H x W x 3), and what was left out and why.

    In sorted order of the paths. Raises UsageError when nothing is left.
    """
    pictures, skipped = [], []
    for root in data.split(","):
        if not Path(root).is_dir():
            raise UsageError(f"DATA {root!r} is no folder; give folders of pictures, separated by commas")
        for path in sorted(p for p in Path(root).rglob("*") if p.suffix.lower() in _SUFFIXES):
            try:
                with Image.open(path) as opened:
                    pixels = np.array(opened if opened.mode == "L" else opened.convert("RGB"))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                skipped.append((str(path), f"cannot be decoded: {error}"))
                continue
            if min(pixels.shape[:2]) < smallest_px:
                skipped.append((str(path), f"{pixels.shape[1]}x{pixels.shape[0]} is under {smallest_px} pixels"))
                continue
            pictures.append(pixels)
    if not pictures:
        raise UsageError(f"DATA {data!r} has no picture of {smallest_px}x{smallest_px} pixels or more")
    return pictures, skipped


def pick_device(name: str) -> str:
    """`auto` is the first of cuda, mps, cpu that works here."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of the forward pass, None for fp32; auto: bf16 where the hardware multiplies it fast."""
    kinds = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in kinds:
        return kinds[precision]
    if precision != "auto":
        raise UsageError(f"precision is {precision!r}; choose auto, fp32, bf16 or fp16")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else None


class JsonLines:
    """Appends one JSON object a line, with the time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, values: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 1), **values}) + "\n")


def _log_line(numbers: Mapping[str, float]) -> None:
    log.info("%s", "  ".join(f"{key} {value:.4g}" for key, value in numbers.items()))
