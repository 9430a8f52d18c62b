"""Checkpoints of a GAN's run, local or in a store; complete when the last file is there, and the last two are kept.

RUN/checkpoints/step-00001200/{generator,discriminator,mean}.safetensors
                              {generator,discriminator}_optimizer.pt   read with weights_only: it cannot run code
                              position.json     step, seconds, augmentation; written last, so the checkpoint counts
RUN/model.safetensors                           the running mean of the generator with its facts: what gets used
"""

from __future__ import annotations

import io
import json
import logging
from pickle import UnpicklingError  # noqa: TID251 (the exception only; torch's weights-only reader raises it)
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from artgen.errors import RunError, StorageError, UsageError
from artgen.models.gans.spec import GanFacts
from artgen.models.gans.weights import to_bytes
from artgen.storage import atomic, uri
from artgen.training.loop_gan import GanState
from artgen.training.state import KEPT, checkpoints

_NETWORKS = ("generator", "discriminator", "mean")
_OPTIMIZERS = ("generator_optimizer", "discriminator_optimizer")
_POSITION = ("step", "seconds", "augment", "bad_in_a_row")
_COUNTS = "position.json"
log = logging.getLogger(__name__)


def save_gan(state: GanState, run: str, facts: GanFacts, options: uri.Options | None = None) -> None:
    """Writes the checkpoint beside the others and RUN/model.safetensors, then drops all but the last two.

    A step that is saved already is left alone. Raises StorageError; what was saved before is then intact.
    """
    folder = uri.join(run, "checkpoints")
    final = uri.join(folder, f"step-{state.step:08d}")
    try:
        if not uri.exists(uri.join(final, _COUNTS), options):
            for name, data in _files(state).items():
                atomic.write(uri.join(final, name), data, options, fsync=True)
        atomic.write(uri.join(run, "model.safetensors"), to_bytes(state.mean, facts), options, fsync=True)
    except StorageError as error:
        raise StorageError(f"cannot save the checkpoint {final}: {error}; the one before it is intact") from error
    complete = checkpoints(run, options)
    for name in uri.names(folder, options):
        # Beside older ones, what an interrupted save left half-written; never one of a later step.
        if name not in complete[-KEPT:] and name <= f"step-{state.step:08d}":
            uri.remove(uri.join(folder, name), options)


def load_gan(state: GanState, run: str, options: uri.Options | None = None) -> bool:
    """Fills the state from the newest checkpoint that can be read; False when the run has none.

    Raises UsageError when the checkpoint is of another architecture, RunError when none of them can be read.
    """
    found = checkpoints(run, options)
    for name in reversed(found):
        place = uri.join(run, "checkpoints", name)
        try:
            parts = {part: _read(place, part, options) for part in (*_NETWORKS, *_OPTIMIZERS, "position")}
            position = {key: parts["position"][key] for key in _POSITION}
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            log.warning("left out the checkpoint %s, which is damaged: %s", place, error)
            continue
        try:
            for part in (*_NETWORKS, *_OPTIMIZERS):
                getattr(state, part).load_state_dict(parts[part])
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"the checkpoint {place} is of another architecture; use another RUN or its own recipe: {error}"
            ) from error
        for key, value in position.items():
            setattr(state, key, value)
        return True
    if found:
        raise RunError(
            f"no checkpoint of {uri.shown(run)!r} can be read; use another RUN or remove its checkpoints"
        )
    return False


def _files(state: GanState) -> dict[str, bytes]:
    """All files of a checkpoint, position.json last."""
    files = {}
    for part in _NETWORKS:
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in getattr(state, part).state_dict().items()
        }
        files[f"{part}.safetensors"] = save(tensors)
    for part in _OPTIMIZERS:
        buffer = io.BytesIO()
        torch.save(getattr(state, part).state_dict(), buffer)
        files[f"{part}.pt"] = buffer.getvalue()
    files[_COUNTS] = json.dumps({key: getattr(state, key) for key in _POSITION}).encode()
    return files


def _read(place: str, part: str, options: uri.Options | None) -> dict[str, Any]:
    ending = "pt" if part in _OPTIMIZERS else "safetensors" if part in _NETWORKS else "json"
    data = uri.read_or_none(uri.join(place, f"{part}.{ending}"), options)
    if data is None:
        raise ValueError(f"{part}.{ending} is missing")
    if ending == "pt":
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return load(data) if ending == "safetensors" else json.loads(data)
