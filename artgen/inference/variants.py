"""One tile as the model wants it, and back: channels that do not match, and the eight flips and turns.

Legend: H, W, C height, width, channels.
"""

from __future__ import annotations

import numpy as np

from artgen.inference.forward import Tile


def expanded(tile: Tile, channels: int, *, ensemble: bool) -> list[Tile]:
    """The tiles to run for one tile of a picture, for a model of `channels` channels.

    Grey for an RGB model is repeated; RGB for a grey model goes channel by channel.
    """
    pixels_HWC = tile.pixels_HWC
    if pixels_HWC.shape[2] == channels:
        parts = [pixels_HWC]
    elif pixels_HWC.shape[2] == 1:
        parts = [np.broadcast_to(pixels_HWC, (*pixels_HWC.shape[:2], channels))]
    else:
        parts = [pixels_HWC[:, :, c : c + 1] for c in range(pixels_HWC.shape[2])]
    tiles = [Tile(part, tile.mask_HW) for part in parts]
    return [_turned(each, turn) for each in tiles for turn in range(8)] if ensemble else tiles


def merged(outputs: list[np.ndarray], channels: int, *, ensemble: bool) -> np.ndarray:
    """What `expanded` took apart: one float32 output of `channels` channels (may be a view of an output)."""
    if ensemble:
        outputs = [_average(outputs[k : k + 8]) for k in range(0, len(outputs), 8)]
    if len(outputs) > 1:
        return np.concatenate(outputs, axis=2)
    if outputs[0].shape[2] != channels:
        return outputs[0].mean(axis=2, keepdims=True, dtype=np.float32)
    return outputs[0]


def _turned(tile: Tile, turn: int) -> Tile:
    """Quarter turns 0-3, and 4-7 the same after a left-right flip."""
    return Tile(_turn(tile.pixels_HWC, turn), None if tile.mask_HW is None else _turn(tile.mask_HW, turn))


def _turn(values: np.ndarray, turn: int) -> np.ndarray:
    return np.rot90(values[:, ::-1] if turn >= 4 else values, turn % 4)


def _turned_back(values: np.ndarray, turn: int) -> np.ndarray:
    upright = np.rot90(values, -(turn % 4))
    return upright[:, ::-1] if turn >= 4 else upright


def _average(outputs: list[np.ndarray]) -> np.ndarray:
    total = outputs[0].copy()
    for turn, output in enumerate(outputs[1:], start=1):
        total += _turned_back(output, turn)
    total /= len(outputs)
    return total
