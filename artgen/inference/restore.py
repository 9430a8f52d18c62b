"""One picture through a restorer: cut, run, blend, row of tiles by row of tiles.

Legend: H, W, C height, width, channels of a picture or tile.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from artgen.config import most_overlap
from artgen.errors import ImageTimeout, OutOfMemory, RestoreFailed, RunError, UnsupportedImage, UsageError
from artgen.inference.forward import Forward, Tile, TileTooLarge
from artgen.inference.variants import expanded, merged
from artgen.models.spec import Facts, Restorer
from artgen.tiles.blend import BandBlender
from artgen.tiles.grid import Segment, reflected, segments

SMALLEST_TILE = 64  # px; where not even this fits the memory, the device is of no use


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """tile, overlap: input px (overlap None: the model's own). strength: 0 the input .. 1 the model's picture.

    ensemble: the average over 8 flips and turns, at 8 times the cost. keep_unmasked: pixels outside the mask stay
    bit for bit. deadline: in seconds of time.monotonic(). It and stop are looked at before each batch of tiles, also
    among the variants of one, and after the last; a batch under way cannot be interrupted.
    """

    tile: int = 512
    overlap: int | None = None
    strength: float = 1.0
    ensemble: bool = False
    keep_unmasked: bool = False
    deadline: float | None = None
    stop: threading.Event | None = None


class Restored(NamedTuple):
    """pixels: (H * scale, W * scale, C) of the input's dtype. notes: what a person should know about it."""

    pixels: np.ndarray
    notes: tuple[str, ...]


def check_model_fits(restorer: Restorer, options: RestoreOptions, masks: bool) -> None:
    """Raises UsageError, before anything starts, for options that are sound by themselves but that this model cannot follow.

    masks: whether the run has masks at all.
    """
    facts = restorer.facts
    least = _least_tile(facts)
    if options.tile < least:
        raise UsageError(f"--tile {options.tile}: {facts.name} needs at least {least}")
    most = most_overlap(options.tile, facts.multiple)
    if options.overlap is not None and options.overlap > most:
        raise UsageError(
            f"--overlap {options.overlap}: use at most {most} with --tile {options.tile}, or a larger --tile"
        )
    if masks:
        _check_masks(facts)
    if facts.scale > 1 and (options.keep_unmasked or options.strength < 1.0):
        flag = "--keep-unmasked" if options.keep_unmasked else f"--strength {options.strength}"
        raise UsageError(
            f"{flag}: {facts.name} enlarges {facts.scale} times, so no pixel of the input remains; drop it"
        )


def with_room(options: RestoreOptions, facts: Facts) -> RestoreOptions:
    """The options with larger tiles where the model's own overlap, without which tiles show, has no room in them.

    An overlap that was asked for stays as it is, and memory that ends makes tiles smaller all the same.
    """
    if options.overlap is not None or most_overlap(options.tile, facts.multiple) >= facts.overlap:
        return options
    return replace(options, tile=-(-facts.overlap * 3 // 2 // facts.multiple) * facts.multiple)


def restore(
    pixels_HWC: np.ndarray, mask_HW: np.ndarray | None, forward: Forward, options: RestoreOptions
) -> Restored:
    """Restores one picture.

    pixels_HWC: uint8 or uint16, C 1 or 3, any size from 1x1. mask_HW: bool, True where a pixel is to be repaired;
    its value there never reaches the model.
    Beside input and output, memory holds one row of tiles in float32 and the tiles of one batch.
    With `keep_unmasked`, a picture without a mask stays as it is.

    Raises UsageError for a mask that the model does not take, ImageTimeout at the deadline, RestoreFailed for what
    is no picture, UnsupportedImage for other input than said, OutOfMemory where not even the smallest tile fits, RunError
    once `stop` is set.
    """
    _check_input(pixels_HWC, mask_HW)
    if mask_HW is not None:
        _check_masks(forward.facts)
    if options.keep_unmasked and (mask_HW is None or not mask_HW.any()):
        return Restored(pixels_HWC.copy(), ("nothing is masked: all pixels kept",))
    options = with_room(options, forward.facts)
    while True:
        tile = min(options.tile, forward.tile_limit or options.tile)
        try:
            with forward.worker():
                restored = _restore(pixels_HWC, mask_HW, forward, options, tile)
        except TileTooLarge as error:
            forward.limit_tile(_smaller(tile, forward.facts, error))
            continue
        notes = []
        if pixels_HWC.shape[2] > forward.facts.channels:
            notes.append(f"colour restored channel by channel: {forward.facts.name} is a grey model")
        if not forward.facts.seamless and max(pixels_HWC.shape[:2]) > tile:
            notes.append(
                f"in tiles, which {forward.facts.architecture} is not made for: seams may show; raise --tile"
            )
        if tile < options.tile:
            notes.append(f"memory ran out: restored in tiles of {tile} px, not {options.tile}")
        return Restored(restored, tuple(notes))


def _restore(
    pixels_HWC: np.ndarray, mask_HW: np.ndarray | None, forward: Forward, options: RestoreOptions, tile: int
) -> np.ndarray:
    facts = forward.facts
    height, width, channels = pixels_HWC.shape
    rows, cols = _grid(height, width, tile, forward, options)
    blender = BandBlender(rows, cols, channels, scale=facts.scale, dtype=pixels_HWC.dtype)
    places = [(i, j) for i in range(len(rows)) for j in range(len(cols))]
    variants = (8 if options.ensemble else 1) * (channels if channels > facts.channels else 1)
    at_once = max(1, forward.batch // variants)
    for k in range(0, len(places), at_once):
        here = places[k : k + at_once]
        cuts = [_cut(pixels_HWC, mask_HW, rows[i], cols[j]) for i, j in here]
        outputs = _run(cuts, forward, options, f"{k} of {len(places)} tiles")
        for (i, j), output in zip(here, outputs, strict=True):
            _put(blender, i, j, output, forward)
    _go_on(options, f"{len(places)} of {len(places)} tiles")
    if options.keep_unmasked and mask_HW is not None:
        for row in rows:
            part = slice(row.begin, row.end)
            np.copyto(blender.pixels[part], pixels_HWC[part], where=~mask_HW[part, :, None])
    return blender.pixels


def _go_on(options: RestoreOptions, done: str) -> None:
    if options.deadline is not None and time.monotonic() > options.deadline:
        raise ImageTimeout(f"the time limit came after {done}; raise --image-timeout")
    if options.stop is not None and options.stop.is_set():
        raise RunError("the run is ending")


def _put(blender: BandBlender, i: int, j: int, output_HWC: np.ndarray, forward: Forward) -> None:
    try:
        blender.put(i, j, output_HWC)
    except RestoreFailed as error:
        if forward.precision == "fp32":
            raise
        raise RestoreFailed(f"{error}; {forward.precision} may have overflowed: try --precision fp32") from error


def _run(cuts: list[Tile], forward: Forward, options: RestoreOptions, done: str) -> list[np.ndarray]:
    """Outputs of cuts. A tile of which every pixel will be kept is not worth a pass. done: before these, for a message."""
    wanted = [not options.keep_unmasked or (cut.mask_HW is not None and bool(cut.mask_HW.any())) for cut in cuts]
    channels = forward.facts.channels
    jobs = [
        expanded(cut, channels, ensemble=options.ensemble) if want else []
        for cut, want in zip(cuts, wanted, strict=True)
    ]
    outputs = iter(_passes([tile for job in jobs for tile in job], forward, options, done))
    results = []
    for cut, job in zip(cuts, jobs, strict=True):
        if not job:
            results.append(_unit_range(cut.pixels_HWC))
            continue
        result = merged([next(outputs) for _ in job], cut.pixels_HWC.shape[2], ensemble=options.ensemble)
        if options.strength < 1.0:
            before = _unit_range(cut.pixels_HWC)
            blended = before + np.float32(options.strength) * (result - before)
            # What is masked is lost: nothing of it comes back.
            result = blended if cut.mask_HW is None else np.where(cut.mask_HW[..., None], result, blended)
        results.append(result)
    return results


def _passes(tiles: list[Tile], forward: Forward, options: RestoreOptions, done: str) -> list[np.ndarray]:
    # Every second variant stands upright where the others lie, and shares no batch with them: two batches of each at once
    # are full ones.
    at_once = 1 if forward.batch == 1 else 2 * forward.batch
    outputs = []
    for k in range(0, len(tiles), at_once):
        _go_on(options, done)
        outputs += forward.run(tiles[k : k + at_once])
    return outputs


def _grid(
    height: int, width: int, tile: int, forward: Forward, options: RestoreOptions
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """Rows and columns. A CPU takes the tiles that fit best; an accelerator takes square ones of few sizes."""
    facts = forward.facts
    least = _least_tile(facts)
    tile = tile // facts.multiple * facts.multiple
    if not forward.on_cpu:
        # A thumbnail must not cost a whole tile; halving keeps the shapes that the device sees few.
        while tile // 2 >= max(height, width, SMALLEST_TILE, least) and tile // 2 % facts.multiple == 0:
            tile //= 2
    overlap = min(facts.overlap if options.overlap is None else options.overlap, most_overlap(tile, facts.multiple))
    if tile <= facts.multiple:
        overlap = 0
    quantum = facts.multiple if forward.on_cpu else tile
    rows, cols = (
        segments(length, tile, overlap, quantum, align=facts.multiple, minimum=least) for length in (height, width)
    )
    return rows, cols


def _cut(pixels_HWC: np.ndarray, mask_HW: np.ndarray | None, row: Segment, col: Segment) -> Tile:
    return Tile(_window(pixels_HWC, row, col), None if mask_HW is None else _window(mask_HW, row, col))


def _window(values: np.ndarray, row: Segment, col: Segment) -> np.ndarray:
    """A view, or a mirrored copy where the tile reaches past an end."""
    height, width = values.shape[:2]
    top, bottom = max(row.start, 0), min(row.start + row.size, height)
    left, right = max(col.start, 0), min(col.start + col.size, width)
    inside = values[top:bottom, left:right]
    if inside.shape[:2] == (row.size, col.size):
        return inside
    rows = reflected(row.start, row.start + row.size, height)
    cols = reflected(col.start, col.start + col.size, width)
    window = np.empty((row.size, col.size, *values.shape[2:]), values.dtype)
    first, last = top - row.start, bottom - row.start
    window[first:last, left - col.start : right - col.start] = inside  # nearly all of it, at the speed of a copy
    window[first:last, : left - col.start] = values[top:bottom, cols[: left - col.start]]
    window[first:last, right - col.start :] = values[top:bottom, cols[right - col.start :]]
    window[:first] = values[np.ix_(rows[:first], cols)]
    window[last:] = values[np.ix_(rows[last:], cols)]
    return window


def _unit_range(pixels_HWC: np.ndarray) -> np.ndarray:
    values = pixels_HWC.astype(np.float32)
    values /= np.iinfo(pixels_HWC.dtype).max
    return values


def _least_tile(facts: Facts) -> int:
    return -(-facts.min_size // facts.multiple) * facts.multiple


def _smaller(tile: int, facts: Facts, error: TileTooLarge) -> int:
    least = max(SMALLEST_TILE, _least_tile(facts))
    half = tile // 2 // facts.multiple * facts.multiple
    if half < least:
        raise OutOfMemory(f"{error}; tiles below {least} px are not tried: use a smaller model or another device")
    return half


def _check_masks(facts: Facts) -> None:
    if not facts.takes_mask:
        raise UsageError(
            f"masks are given, but {facts.name} takes none; use a model that does (--model default) or no masks"
        )


def _check_input(pixels_HWC: np.ndarray, mask_HW: np.ndarray | None) -> None:
    shape, dtype = pixels_HWC.shape, pixels_HWC.dtype
    if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or dtype not in (np.uint8, np.uint16):
        raise UnsupportedImage(f"pixels of shape {shape} and type {dtype}; needs H x W x 1 or 3, uint8 or uint16")
    if mask_HW is not None and (mask_HW.shape != shape[:2] or mask_HW.dtype != np.bool_):
        raise UnsupportedImage(
            f"the mask is {mask_HW.shape} {mask_HW.dtype}; the picture needs {shape[:2]} bool, pixel for pixel"
        )
