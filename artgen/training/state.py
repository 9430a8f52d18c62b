"""Checkpoints of a run, local or in a store: one counts when its last file is there, and the last two are kept.

RUN/checkpoints/step-00001200/network.safetensors   the weights in training
                              mean.safetensors      their running mean
                              optimizer.pt          read with weights_only, so it cannot run code
                              position.json         step and seconds; written last, so it makes the checkpoint count
RUN/model.safetensors                               the running mean with its facts: what gets used
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (the exception only; torch's weights-only reader raises it)
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from artgen.errors import RunError, StorageError, UsageError
from artgen.models.spec import Facts
from artgen.storage import atomic, uri
from artgen.training.loop_restorer import TrainState

KEPT = 2
_COUNTS = "position.json"
log = logging.getLogger(__name__)


def save_checkpoint(state: TrainState, run: str | Path, facts: Facts, options: uri.Options | None = None) -> None:
    """Writes the checkpoint beside the others and RUN/model.safetensors, then drops all but the last two.

    A step that is saved already is left alone. Raises StorageError; what was saved before is then intact.
    """
    folder = uri.join(str(run), "checkpoints")
    final = uri.join(folder, f"step-{state.step:08d}")
    position = {"step": state.step, "seconds": state.seconds}
    try:
        if not uri.exists(uri.join(final, _COUNTS), options):
            optimizer = io.BytesIO()
            torch.save(state.optimizer.state_dict(), optimizer)
            _write(final, "network.safetensors", save(_tensors(state.network)), options)
            _write(final, "mean.safetensors", save(_tensors(state.mean)), options)
            _write(final, "optimizer.pt", optimizer.getvalue(), options)
            _write(final, _COUNTS, json.dumps(position).encode(), options)
        save_weights(state.mean, facts, uri.join(str(run), "model.safetensors"), options)
    except StorageError as error:
        raise StorageError(f"cannot save the checkpoint {final}: {error}; the one before it is intact") from error
    complete = checkpoints(run, options)
    for name in uri.names(folder, options):
        # Beside older ones, what an interrupted save left half-written; never one of a later step.
        if name not in complete[-KEPT:] and name <= f"step-{state.step:08d}":
            uri.remove(uri.join(folder, name), options)


def load_checkpoint(state: TrainState, run: str | Path, options: uri.Options | None = None) -> bool:
    """Fills the state from the newest checkpoint that can be read; False when the run has none.

    Raises UsageError when the checkpoint is of another architecture, RunError when none of them can be read.
    """
    found = checkpoints(run, options)
    for name in reversed(found):
        place = uri.join(str(run), "checkpoints", name)
        try:
            saved = _read(place, options)
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            log.warning("left out the checkpoint %s, which is damaged: %s", place, error)
            continue
        _fill(state, saved, place)
        return True
    if found:
        raise RunError(
            f"no checkpoint of {uri.shown(str(run))!r} can be read; use another RUN or remove its checkpoints"
        )
    return False


def checkpoints(run: str | Path, options: uri.Options | None = None) -> list[str]:
    """Names of the complete checkpoints, oldest first."""
    folder = uri.join(str(run), "checkpoints")
    names = (name for name in uri.names(folder, options) if name.startswith("step-"))
    return [name for name in names if uri.exists(uri.join(folder, name, _COUNTS), options)]


def last_step(run: str | Path, options: uri.Options | None = None) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    found = checkpoints(run, options)
    return int(found[-1].removeprefix("step-")) if found else 0


def save_weights(network: nn.Module, facts: Facts, path: str | Path, options: uri.Options | None = None) -> None:
    """Weights as safetensors with the facts in the header; the file appears whole or not at all."""
    atomic.write(str(path), save(_tensors(network), {"artgen": facts.to_json()}), options, fsync=True)


class _Saved(NamedTuple):
    network: dict[str, Tensor]
    mean: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    seconds: float


def _read(place: str, options: uri.Options | None) -> _Saved:
    files = {}
    for name in ("network.safetensors", "mean.safetensors", "optimizer.pt", _COUNTS):
        data = uri.read_or_none(uri.join(place, name), options)
        if data is None:
            raise ValueError(f"{name} is missing")
        files[name] = data
    position = json.loads(files[_COUNTS])
    optimizer = torch.load(io.BytesIO(files["optimizer.pt"]), map_location="cpu", weights_only=True)
    return _Saved(
        load(files["network.safetensors"]), load(files["mean.safetensors"]), optimizer,
        int(position["step"]), float(position["seconds"]),
    )  # fmt: skip


def _fill(state: TrainState, saved: _Saved, place: str) -> None:
    try:
        state.network.load_state_dict(saved.network)
        state.mean.load_state_dict(saved.mean)
        state.optimizer.load_state_dict(saved.optimizer)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the checkpoint {place} is of another architecture; use another RUN or its own recipe: {error}"
        ) from error
    state.step, state.seconds = saved.step, saved.seconds


def _write(folder: str, name: str, data: bytes, options: uri.Options | None) -> None:
    atomic.write(uri.join(folder, name), data, options, fsync=True)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors takes them: on the CPU and contiguous (training uses channels-last)."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
