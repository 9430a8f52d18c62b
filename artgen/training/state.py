"""Checkpoints of a run: a folder appears whole or not at all, and the last two are kept.

RUN/checkpoints/step-00001200/network.safetensors   the weights in training
                              mean.safetensors      their running mean
                              optimizer.pt          read with weights_only, so it cannot run code
                              position.json         step and seconds
RUN/model.safetensors                               the running mean with its facts: what gets used
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from artgen.errors import StorageError, UsageError
from artgen.models.spec import Facts
from artgen.training.loop_restorer import TrainState

KEPT = 2


def save_checkpoint(state: TrainState, run: Path, facts: Facts) -> None:
    """Writes the checkpoint beside the others, then drops all but the last two. Raises StorageError."""
    folder = run / "checkpoints"
    final = folder / f"step-{state.step:08d}"
    partial = folder / f".partial-{state.step:08d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_tensors(state.network), partial / "network.safetensors")
        save_file(_tensors(state.mean), partial / "mean.safetensors")
        torch.save(state.optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "position.json").write_text(json.dumps({"step": state.step, "seconds": state.seconds}))
        for path in partial.iterdir():
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        save_weights(state.mean, facts, run / "model.safetensors")
    except OSError as error:
        raise StorageError(f"cannot save the checkpoint {final}: {error}; the one before it is intact") from error
    for old in _checkpoints(run)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(state: TrainState, run: Path) -> bool:
    """Fills the state from the newest checkpoint of the run; False when there is none.

    Raises UsageError when the checkpoint is of another architecture.
    """
    found = _checkpoints(run)
    if not found:
        return False
    newest = found[-1]
    try:
        state.network.load_state_dict(load_file(newest / "network.safetensors"))
        state.mean.load_state_dict(load_file(newest / "mean.safetensors"))
    except RuntimeError as error:
        raise UsageError(
            f"the checkpoint {newest} is of another architecture; use another RUN or its own recipe: {error}"
        ) from error
    state.optimizer.load_state_dict(torch.load(newest / "optimizer.pt", weights_only=True))
    position = json.loads((newest / "position.json").read_text())
    state.step, state.seconds = position["step"], position["seconds"]
    return True


def save_weights(network: nn.Module, facts: Facts, path: Path) -> None:
    """Weights as safetensors with the facts in the header, written beside the target and renamed onto it."""
    partial = path.with_name(f".{path.name}.partial")
    save_file(_tensors(network), partial, metadata={"artgen": facts.to_json()})
    _flush(partial)
    os.replace(partial, path)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The weights as safetensors takes them: on the CPU and contiguous (training uses channels-last)."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
