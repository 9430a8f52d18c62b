"""What a run says while it goes: RUN/log.jsonl, and RUN/tensorboard where tensorboard is installed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from artgen.storage import atomic, scratch, uri

LOG = "log.jsonl"


class Journal:
    """Appends lines to the log and numbers to TensorBoard; one writer (rank 0). Raises StorageError.

    Stores cannot append, so on one the log is written anew with each line and TensorBoard's file is uploaded.
    step: of the checkpoint that the run goes on from; what TensorBoard knows beyond it is taken back.
    """

    def __init__(self, run: str, step: int, options: uri.Options | None = None) -> None:
        self._options = options
        self._log, self._curves = uri.join(run, LOG), uri.join(run, "tensorboard")
        with atomic.explained(self._log):
            self._text = _to_follow(self._log) if uri.is_local(run) else _text_of(self._log, options)
        with atomic.explained(self._curves):
            self._spool = None if uri.is_local(run) else TemporaryDirectory(dir=scratch.folder())
            folder = self._spool.name if self._spool else uri.local_path(self._curves)
            self._board = _board(folder, step)

    def line(self, values: Mapping[str, Any]) -> None:
        """One JSON object with the time."""
        self._text += json.dumps({"time": round(time.time(), 1), **values}) + "\n"
        if self._spool is not None:
            atomic.write(self._log, self._text.encode(), self._options)
            return
        with atomic.explained(self._log), open(uri.local_path(self._log), "a", encoding="utf-8") as file:
            file.write(self._text)
        self._text = ""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """The same as curves: a line of the log and scalars of TensorBoard."""
        self.line({"step": step, **values})
        if self._board is None:
            return
        with atomic.explained(self._curves):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        if self._spool is not None:
            for path in Path(self._spool.name).iterdir():
                atomic.write(uri.join(self._curves, path.name), path.read_bytes(), self._options)

    def close(self) -> None:
        if self._board is not None:
            with atomic.explained(self._curves):
                self._board.close()
        if self._spool is not None:
            self._spool.cleanup()


def _to_follow(log: str) -> str:
    """What ends the line that a killed process left half-written in a local log: the next one would be lost on it."""
    path = Path(uri.local_path(log))
    if not path.exists() or not path.stat().st_size:
        return ""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return "" if file.read() == b"\n" else "\n"


def _text_of(log: str, options: uri.Options | None) -> str:
    return (uri.read_or_none(log, options) or b"").decode()


def _board(folder: str, step: int) -> Any:
    """TensorBoard is an extra (artgen[train]); without it the log has all the numbers."""
    with suppress(ImportError):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(folder, purge_step=step or None)
    return None


def read_log(run: str, options: uri.Options | None = None) -> list[dict[str, Any]]:
    """The lines of a run's log so far; one that a killed process left half-written is left out."""
    lines = []
    for text in (uri.read_or_none(uri.join(run, LOG), options) or b"").decode(errors="replace").splitlines():
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines
