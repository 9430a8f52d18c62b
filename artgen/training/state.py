"""Checkpoints of a run, local or in a store: one counts when its last file is there, and the last two are kept.

RUN/checkpoints/step-00001200/network.safetensors   weights: in training and their running mean (of a GAN, of each
                              mean.safetensors      of its networks)
                              optimizer.pt          read with weights_only, so it cannot run code
                              position.json         step and seconds; written last, so it makes the checkpoint count
RUN/model.safetensors                               the running mean with its facts: what gets used
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (the exception only; torch's weights-only reader raises it)
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from artgen.errors import RunError, StorageError, UsageError
from artgen.models.header import metadata_of
from artgen.models.spec import Facts
from artgen.storage import atomic, uri
from artgen.training.loop_restorer import TrainState

KEPT = 2
MOST_SHOWN = 80
_COUNTS = "position.json"
Part = nn.Module | torch.optim.Optimizer
log = logging.getLogger(__name__)


def save_checkpoint(state: TrainState, run: str | Path, facts: Facts, options: uri.Options | None = None) -> None:
    """Writes the checkpoint beside the others and RUN/model.safetensors, then drops all but the last two.

    Raises StorageError; what was saved before is then intact.
    """
    save_state(state, save(_tensors(state.mean), {"artgen": facts.to_json()}), str(run), options)


def load_checkpoint(state: TrainState, run: str | Path, options: uri.Options | None = None) -> bool:
    """Fills the state from the newest checkpoint that can be read; False when the run has none. Raises as load_state."""
    return load_state(state, str(run), options)


def save_state(
    state: Any, model: bytes, run: str, options: uri.Options | None = None, *, kept: Sequence[int] = ()
) -> None:
    """Writes a dataclass of networks, optimisers and numbers as the checkpoint of its `step`, and RUN/model.safetensors.

    Then drops older checkpoints, but the last two and those of the steps `kept`. Of a step that is saved already only
    the numbers are written again. Raises StorageError; what was saved before is then intact.
    """
    folder, newest = uri.join(run, "checkpoints"), _name(state.step)
    final = uri.join(folder, newest)
    try:
        if not uri.exists(uri.join(final, _COUNTS), options):
            for name, part in _parts(state).items():
                atomic.write(uri.join(final, _file(name, part)), _bytes(part), options, fsync=True)
        save_numbers(state, run, options)
        save_model(model, run, options)
    except StorageError as error:
        raise StorageError(
            f"cannot save the checkpoint {uri.shown(final)}: {error}; the one before it is intact"
        ) from error
    stay = {*checkpoints(run, options)[-KEPT:], *map(_name, kept)}
    for name in uri.names(folder, options):
        # Beside older ones, what an interrupted save left half-written; never one of a later step.
        if name not in stay and name <= newest:
            uri.remove(uri.join(folder, name), options)


def save_model(model: bytes, run: str, options: uri.Options | None = None) -> None:
    """Writes RUN/model.safetensors. Raises StorageError."""
    atomic.write(uri.join(run, "model.safetensors"), model, options, fsync=True)


def save_numbers(state: Any, run: str, options: uri.Options | None = None) -> None:
    """Writes position.json of the checkpoint of state.step, which makes it count."""
    place = uri.join(run, "checkpoints", _name(state.step), _COUNTS)
    atomic.write(place, json.dumps(_numbers(state)).encode(), options, fsync=True)


def load_state(
    state: Any, run: str, options: uri.Options | None = None, *, steps: Collection[int] | None = None
) -> bool:
    """Fills the dataclass from the newest checkpoint that can be read, of those of `steps` where they are given.

    Numbers that a checkpoint of an earlier version does not know stay as they are. False when the run has no
    checkpoint, or none of those. Raises UsageError when the checkpoint is of another architecture or optimizer, RunError
    when none of them can be read.
    """
    found = checkpoints(run, options)
    if steps is not None:
        found = [name for name in found if name in map(_name, steps)]
    parts = _parts(state)
    for name in reversed(found):
        place = uri.join(run, "checkpoints", name)
        try:
            saved = {part: _read(uri.join(place, _file(part, target)), options) for part, target in parts.items()}
            numbers = {"step": None, "seconds": None, **_read(uri.join(place, _COUNTS), options)}
            if numbers["step"] is None or numbers["seconds"] is None:
                raise ValueError(f"{_COUNTS} has no step or no seconds")
        except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            log.warning("left out the checkpoint %s, which is damaged: %s", uri.shown(place), error)
            continue
        for part, target in parts.items():
            try:
                target.load_state_dict(saved[part])
            except (RuntimeError, ValueError) as error:
                other, reason = "optimizer", str(error)
                if isinstance(target, nn.Module):
                    other, reason = "architecture", difference(target.state_dict(), saved[part])
                raise UsageError(
                    f"the checkpoint {uri.shown(place)} is of another {other}; use another RUN or its own recipe ({reason})"
                ) from error
        for key in _numbers(state):
            setattr(state, key, numbers.get(key, getattr(state, key)))
        return True
    if found:
        raise RunError(
            f"no checkpoint of {uri.shown(run)!r} can be read; use another RUN or remove its checkpoints"
        )
    return False


def check_same(run: str, header: str, facts: Mapping[str, Any], options: uri.Options | None = None) -> None:
    """A run with checkpoints goes on only with the `facts` (as JSON has them) that the header of RUN/model.safetensors names.

    Shapes alone do not tell: networks of other picture sizes or other classes may have the same. A file that is missing or
    damaged tells nothing, and the checkpoints count. Raises UsageError with what differs.
    """
    if not checkpoints(run, options):
        return
    data = uri.read_or_none(uri.join(run, "model.safetensors"), options)
    if data is None:
        return
    try:
        load(data)
        before = dict(json.loads(metadata_of(data)[header]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        log.warning("the facts in the model.safetensors of %s cannot be read: %s", uri.shown(run), error)
        return
    differ = [
        f"{name}: {_change(before[name], now)}"
        for name, now in facts.items()
        if name in before and before[name] != now
    ]
    if differ:
        raise UsageError(
            f"RUN {uri.shown(run)} was begun with other settings or DATA ({'; '.join(differ)}): use another RUN, or the "
            "recipe and DATA that it was begun with (nothing was changed)"
        )


def _change(before: Any, now: Any) -> str:
    """In words; of two lists what follows their common beginning, and of long values the beginning."""
    where = ""
    if isinstance(before, list) and isinstance(now, list):
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False)))
        before, now, where = before[same:], now[same:], f"from number {same} on " if same else ""
    texts = (json.dumps(value, ensure_ascii=False) for value in (before, now))
    was, becomes = (text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..." for text in texts)
    return f"{where}was {was}, now {becomes}"


def difference(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The first weights of a network that `given` ones do not fit, in words."""
    for name, weights in wanted.items():
        if name not in given:
            return f"it has no weights {name!r}"
        if given[name].shape != weights.shape:
            was, now = ("x".join(map(str, of.shape)) for of in (given[name], weights))
            return f"its weights {name!r} are {was}, not {now}"
    more = next((name for name in given if name not in wanted), None)
    return f"it has more weights, such as {more!r}" if more else "its weights are of another type"


def checkpoints(run: str | Path, options: uri.Options | None = None) -> list[str]:
    """Names of the complete checkpoints, oldest first."""
    folder = uri.join(str(run), "checkpoints")
    names = (name for name in uri.names(folder, options) if name.startswith("step-"))
    return [name for name in names if uri.exists(uri.join(folder, name, _COUNTS), options)]


def forget_after(step: int, run: str, options: uri.Options | None = None) -> None:
    """Removes the checkpoints of later steps, the newest first, so that at any moment the rest is a run's history."""
    folder = uri.join(run, "checkpoints")
    for name in reversed(uri.names(folder, options)):
        if name > _name(step):
            uri.remove(uri.join(folder, name), options)


def last_step(run: str | Path, options: uri.Options | None = None) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    found = checkpoints(run, options)
    return int(found[-1].removeprefix("step-")) if found else 0


def _parts(state: Any) -> dict[str, Part]:
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if isinstance(value, Part)}


def _numbers(state: Any) -> dict[str, float | str]:
    values = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in values.items() if isinstance(value, int | float | str)}


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _file(name: str, part: Part) -> str:
    return f"{name}.safetensors" if isinstance(part, nn.Module) else f"{name}.pt"


def _bytes(part: Part) -> bytes:
    if isinstance(part, nn.Module):
        return save(_tensors(part))
    buffer = io.BytesIO()
    torch.save(part.state_dict(), buffer)
    return buffer.getvalue()


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors takes them: on the CPU and contiguous (training uses channels-last)."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _read(place: str, options: uri.Options | None) -> dict[str, Any]:
    data = uri.read_or_none(place, options)
    if data is None:
        raise ValueError(f"{place.rpartition('/')[2]} is missing")
    if place.endswith(".pt"):
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return load(data) if place.endswith(".safetensors") else json.loads(data)
