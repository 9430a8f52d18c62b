"""Tiles through the model: fixed batches, one batch at a time on an accelerator, smaller ones when memory ends.

Legend: B, C, H, W batch, channels, height, width of a tile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from artgen.errors import RestoreFailed, RunError, UsageError
from artgen.inference.packing import Packer
from artgen.inference.precision import dtype_of
from artgen.models.spec import Restorer

# torch runs a convolution of one small input (up to 20480 elements) by another algorithm than a batch of two, with
# other bits, and those depend on the thread count too. Two tiles in every pass on a CPU keep it to one algorithm.
_SMALL = 128 * 128


class Tile(NamedTuple):
    """pixels_HWC: uint8 or uint16 (the full range is 0..1) with the model's channels. mask_HW: True = repair."""

    pixels_HWC: np.ndarray
    mask_HW: np.ndarray | None = None


class TileTooLarge(RunError):
    """Not even one tile of this size fits the memory; `restore` then takes smaller ones."""


class Forward:
    """A restorer on a device, shared by the threads of a process.

    batch: tiles per pass. Batches are filled with tiles of any images (`packing`), and a partial one is filled up
    with copies, so that the device only sees one batch size. With batch 1 on a CPU every thread runs its own tile
    in itself; the engine sets torch's threads.
    precision: bf16 and fp16 run under autocast; results are float32 always.
    tile_limit: the tile (px) that memory allows, None as long as it never ran out; `restore` lowers it.

    Raises UsageError for a precision that the model does not stand.
    """

    def __init__(
        self,
        restorer: Restorer,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        *,
        batch: int = 1,
        channels_last: bool = True,
    ) -> None:
        facts = restorer.facts
        self._dtype = dtype_of(precision)
        if (precision == "fp16" and not facts.half) or (precision == "bf16" and not facts.bfloat16):
            raise UsageError(f"--precision {precision}: {facts.name} does not stand it; use --precision fp32")
        if batch < 1:
            raise UsageError(f"--batch {batch}: must be at least 1")
        self.device = torch.device(device)
        self.facts = facts
        self.precision = precision
        self.batch = batch
        self.tile_limit: int | None = None
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._restorer = restorer.to(self.device)
        lay_out(self._restorer.module, self._layout)
        # What runs picture by picture gains nothing from full batches.
        self._fills = not getattr(restorer.module, "one_by_one", False)
        # CPUs are shared by all threads; an accelerator takes one batch at a time.
        self._turn: AbstractContextManager = nullcontext() if self.on_cpu else threading.Lock()
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._state = threading.Lock()
        self._packer: Packer[Tile, np.ndarray] = Packer(self._execute, _shape, lambda: self.batch)

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def worker(self) -> AbstractContextManager[None]:
        """Held by a thread that will call `run` again: the others wait for its tiles before a batch goes partial.

        `restore` holds it. Meanwhile a thread must not wait for another one (a queue, a semaphore): that other
        may be waiting for its tiles.
        """
        return self._packer.worker()

    def run(self, tiles: Sequence[Tile]) -> list[np.ndarray]:
        """float32 outputs (scale * H, scale * W, C) of `tiles`, in order, not clipped, maybe not finite.

        Raises RestoreFailed where the model raises or returns another shape, TileTooLarge without memory.
        """
        if not (self.on_cpu and self.batch == 1):
            return self._packer.run(tiles)
        outputs = []
        for outcome in self._execute(list(tiles)):
            if isinstance(outcome, Exception):
                raise outcome
            outputs.append(outcome)
        return outputs

    def limit_tile(self, tile: int) -> None:
        """From now on `restore` takes tiles of at most this many px."""
        with self._state:
            self.tile_limit = min(tile, self.tile_limit or tile)

    def _execute(self, tiles: list[Tile]) -> list[np.ndarray | Exception]:
        """One group of tiles of one shape. Where memory ends: half the batch for good, and the same tiles again."""
        results: list[np.ndarray | Exception] = []
        while len(results) < len(tiles):
            batch = self.batch
            part = tiles[len(results) : len(results) + batch]
            outcome = self._attempt(part, batch)
            if outcome is not None:
                results += outcome
            elif batch > 1:
                with self._state:
                    self.batch = min(self.batch, batch // 2)
            else:
                height, width = part[0].pixels_HWC.shape[:2]
                results.append(TileTooLarge(f"no memory for one tile of {width}x{height} px on {self.device}"))
        return results

    def _attempt(self, tiles: list[Tile], batch: int) -> list[np.ndarray | Exception] | None:
        """None where memory ended. A function of its own, so that the traceback's tensors are gone on return."""
        try:
            return list(self._pass(tiles, batch))
        except RestoreFailed as error:
            return [*[error] * len(tiles)]
        except Exception as error:
            if not no_memory(error):
                if isinstance(error, getattr(torch, "AcceleratorError", ())):
                    raise RunError(f"{self.device} failed: {error}") from error
                failed = RestoreFailed(f"{self.facts.name} raised {type(error).__name__}: {error}")
                return [*[failed] * len(tiles)]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _pass(self, tiles: list[Tile], batch: int) -> list[np.ndarray]:
        height, width = tiles[0].pixels_HWC.shape[:2]
        if not self._fills:
            batch = len(tiles)
        elif self.on_cpu and height * width < _SMALL:
            batch = max(batch, 2)
        full = [*tiles, *[tiles[-1]] * (batch - len(tiles))]
        pixels_BHWC = self._staged(_stacked([tile.pixels_HWC for tile in full]))
        mask_BHW = self._staged(_masks(full)) if self.facts.takes_mask else None
        with self._turn:
            y_BCHW = self._model(pixels_BHWC, mask_BHW)
            self._check(y_BCHW, pixels_BHWC)
            y_BHWC = y_BCHW.permute(0, 2, 3, 1)[: len(tiles)].float()
            host_BHWC, copied = self._to_host(y_BHWC)
        if copied is not None:
            copied.synchronize()  # outside the turn: the next batch starts while this one is copied out
        return list(host_BHWC.numpy())

    def _model(self, pixels_BHWC: Tensor, mask_BHW: Tensor | None) -> Tensor:
        pixels_BHWC = pixels_BHWC.to(self.device, non_blocking=True)
        top = float(torch.iinfo(pixels_BHWC.dtype).max) if not pixels_BHWC.is_floating_point() else 1.0
        x_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32).contiguous(memory_format=self._layout)
        if top != 1.0:
            x_BCHW = x_BCHW.div_(top)
        mask_B1HW = None
        if mask_BHW is not None:
            repair_B1HW = mask_BHW.to(self.device, non_blocking=True)[:, None]
            x_BCHW = x_BCHW.masked_fill_(repair_B1HW, 0.0)
            mask_B1HW = repair_B1HW.to(torch.float32)
        if self.precision == "fp32":
            return self._restorer(x_BCHW, mask_B1HW)
        with torch.autocast(self.device.type, self._dtype):
            return self._restorer(x_BCHW, mask_B1HW)

    def _check(self, y_BCHW: Tensor, pixels_BHWC: Tensor) -> None:
        batch, height, width, channels = pixels_BHWC.shape
        scale = self.facts.scale
        wanted = (batch, channels, height * scale, width * scale)
        found = tuple(y_BCHW.shape) if isinstance(y_BCHW, Tensor) else type(y_BCHW).__name__
        if found != wanted:
            raise RestoreFailed(f"{self.facts.name} returned {found} where {wanted} was due")

    def _staged(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self._copies is not None else tensor

    def _to_host(self, y_BHWC: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        if self._copies is None:
            return y_BHWC.contiguous().cpu(), None
        y_BHWC = y_BHWC.contiguous()
        host_BHWC = torch.empty(y_BHWC.shape, dtype=y_BHWC.dtype, pin_memory=True)
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            host_BHWC.copy_(y_BHWC, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        y_BHWC.record_stream(self._copies)
        return host_BHWC, copied


def _shape(tile: Tile) -> tuple[tuple[int, ...], str]:
    """Tiles of one shape and dtype may share a batch."""
    return tile.pixels_HWC.shape, tile.pixels_HWC.dtype.str


def _stacked(pixels: list[np.ndarray]) -> np.ndarray:
    """BHWC. uint8 stays so (a quarter of the bytes to the device); torch's uint16 can do little, so float32."""
    if pixels[0].dtype == np.uint8:
        return np.stack(pixels)
    values = np.stack(pixels).astype(np.float32)
    if pixels[0].dtype == np.uint16:
        values /= 65535.0
    return values


def _masks(tiles: list[Tile]) -> np.ndarray:
    clear = np.zeros(tiles[0].pixels_HWC.shape[:2], dtype=bool)
    return np.stack([clear if tile.mask_HW is None else tile.mask_HW for tile in tiles])


def no_memory(error: Exception) -> bool:
    """Whether an error of torch says that the device's memory ended."""
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "alloc_failed")  # CUDA and MPS, the CPU, cuDNN and cuBLAS
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in text for sign in signs)


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Weights of four dimensions in a memory format; a model may have others, which have none."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=layout)
