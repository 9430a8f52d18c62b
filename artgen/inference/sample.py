"""Pictures from a generator: each a pure function of (weights, seed, class, truncation).

On CPUs bit for bit. The tolerance on CUDA in fp32: no value of a picture is more than 2 of 255 from the CPU's. It is what
tests/gpu/test_generate.py tests, and has not been measured on a GPU yet.

Shape letters: N pictures, L latent numbers, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor

from artgen.codecs.encode import encode
from artgen.codecs.marking import Mark
from artgen.codecs.metadata import Metadata
from artgen.errors import OutOfMemory, RunError, UsageError
from artgen.inference.forward import no_memory
from artgen.inference.precision import dtype_of
from artgen.models.gans.spec import GanFacts, Painter

FORWARD_IMAGES = 32
"""Pictures of every forward pass, filled up where there are fewer: on CPUs the bits of a picture depend on the size
of its batch (2-4 grey levels in 64 pictures), but not on the others in a batch of one size."""
ONE_SIZE = {"cpu"}
"""Kinds of devices on which no pass has another size, though memory end: the same seed would make another picture."""


class NotFinite(RunError):
    """The generator returned what is no picture."""


def latents(seeds: Sequence[int], latent: int) -> Tensor:
    """z_NL from N(0, 1), each row from a generator of its own seed, 0 to 2**63 - 1: row 0 of a larger draw is another one."""
    return torch.stack([_latent(seed, latent) for seed in seeds])


def _latent(seed: int, latent: int) -> Tensor:
    if seed < 2**32:
        return torch.randn(latent, generator=Generator().manual_seed(seed))
    # torch's generator would keep the low 32 bits; numpy's spreads all of them over its state, and RandomState's stream is
    # the one that numpy promises not to change (NEP 19).
    return torch.from_numpy(np.random.RandomState(np.random.MT19937(seed)).standard_normal(latent)).float()


def labels_of(painter: Painter, seeds: Sequence[int], classes: Sequence[int] | None) -> Tensor | None:
    """labels_N, given or seed modulo the number of classes; None for a generator without. Raises UsageError."""
    count = len(painter.facts.classes)
    if not count:
        if classes is not None:
            raise UsageError(f"classes {list(classes)[:8]} are given, but this model has none; leave them out")
        return None
    numbers = [seed % count for seed in seeds] if classes is None else list(classes)
    if len(numbers) != len(seeds):
        raise UsageError(f"{len(numbers)} classes are given for {len(seeds)} seeds; give one for each")
    if wrong := [number for number in numbers if not 0 <= number < count]:
        raise UsageError(f"class {wrong[0]} is out of range: this model has classes 0 to {count - 1}")
    return torch.tensor(numbers, dtype=torch.int64)


def sample(
    painter: Painter,
    seeds: Sequence[int],
    classes: Sequence[int] | None = None,
    truncation: float = 1.0,
    precision: str = "fp32",
) -> np.ndarray:
    """Pictures of the seeds, uint8 N x H x W x C, on a CPU bit for bit the same whatever is sampled beside them.

    classes: one for each seed; None: seed modulo the number of classes. truncation: 0..1, factor of the latent
    numbers: less is nearer to the mean picture, less varied (Karras et al. 2019, appendix B, with z for w).
    Raises UsageError for values out of range; else as `paint`.
    """
    if not 0.0 <= truncation <= 1.0:
        raise UsageError(f"truncation is {truncation}; use 0 (the mean picture) to 1 (all variety)")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**63]:
        raise UsageError(f"seed {wrong[0]} is out of range; use 0 to {2**63 - 1}")
    facts = painter.facts
    if not len(seeds):
        return np.empty((0, facts.height, facts.width, facts.channels), np.uint8)
    z_NL, labels_N = latents(seeds, facts.latent) * truncation, labels_of(painter, seeds, classes)
    return paint(painter, z_NL, labels_N, [f"seed {seed}" for seed in seeds], precision)


@torch.no_grad()
def paint(
    painter: Painter, z_NL: Tensor, labels_N: Tensor | None, names: Sequence[str], precision: str = "fp32"
) -> np.ndarray:
    """Pictures of latent numbers, uint8 N x H x W x C, in passes of FORWARD_IMAGES on the painter's device; of half as many,
    and so on, where the memory of an accelerator ends.

    precision: bf16 and fp16 run under autocast. Raises UsageError for another, NotFinite (with its name) for a picture that
    is not finite, OutOfMemory, RunError for whatever else the model fails with.
    """
    dtype, size, start, parts = dtype_of(precision), painter.most_at_once or FORWARD_IMAGES, 0, []
    while start < len(z_NL):
        rows = slice(start, start + size)
        x_NCHW = _pass(painter, z_NL[rows], None if labels_N is None else labels_N[rows], size, dtype)
        if x_NCHW is None:
            size //= 2
            painter.most_at_once = size
            continue
        values_NV = x_NCHW.flatten(1)
        # Both are NaN where one value is, and together a tenth of the time of `isfinite` for each.
        finite_N = values_NV.amax(1).isfinite() & values_NV.amin(1).isfinite()
        if not finite_N.all():
            bad = names[start + int(finite_N.int().argmin())]
            raise NotFinite(f"the picture of {bad} is not finite; the model {painter.sha256[:12]} is broken")
        parts.append(to_bytes(x_NCHW))
        start += size
    return np.concatenate(parts)


def _pass(painter: Painter, z_BL: Tensor, labels_B: Tensor | None, size: int, dtype: torch.dtype) -> Tensor | None:
    """x_BCHW of one pass of `size` pictures, filled up; None where half as many may fit the memory.

    A function of its own, so that the traceback's tensors are gone on return.
    """
    device, facts = next(painter.module.parameters()).device, painter.facts
    try:
        z, labels = _filled(z_BL, size).to(device), None if labels_B is None else _filled(labels_B, size).to(device)
        with _one_thread(device), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return painter(z, labels)[: len(z_BL)].float().cpu()
    except (RuntimeError, MemoryError) as error:
        name = f"the model {painter.sha256[:12]} ({facts.architecture})"
        if not no_memory(error):
            raise RunError(f"{name} failed on {device}: {error}") from error
        if device.type in ONE_SIZE or size == 1:
            raise OutOfMemory(
                f"{name}: no memory on {device} for {size} pictures of {facts.width}x{facts.height} at once; free some, or use "
                "another machine or --device"
            ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One torch thread for a pass on a CPU: the last bits of a product of matrices, and of a transposed convolution of some
    sizes, depend on their number (`dcgan` at 64 px: 1 and 5 threads). What makes many pictures runs many passes at once.
    """
    if device.type != "cpu":
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def between(first_NL: Tensor, last_NL: Tensor, share: float) -> Tensor:
    """Latent numbers on the great circle from the first to the last (Shoemake 1985), their lengths linear: a straight
    line would pass through shorter vectors than a generator has seen (White 2016). share: 0..1; both ends are exact.
    Where a vector has length 0, and so no direction, the way is still finite.
    """
    if share in (0.0, 1.0):
        return last_NL if share else first_NL
    first, last = first_NL.double(), last_NL.double()
    lengths = [z.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) for z in (first, last)]
    one, other = first / lengths[0], last / lengths[1]
    angle = (one * other).sum(1, keepdim=True).clamp(-1, 1).acos().clamp(1e-6, math.pi - 1e-6)
    on_circle = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
    return (on_circle * ((1 - share) * lengths[0] + share * lengths[1])).to(first_NL.dtype)


def _filled(rows: Tensor, size: int) -> Tensor:
    """Zero rows after the last, up to `size`."""
    filled = rows.new_zeros(size, *rows.shape[1:])
    filled[: len(rows)] = rows
    return filled


def to_bytes(x_NCHW: Tensor) -> np.ndarray:
    """Finite values, -1..1, clamped, to uint8 N x H x W x C; 0 becomes 128 as in training."""
    values_NCHW = (x_NCHW * 127.5).add_(128).clamp_(0, 255).byte()
    pixels_NHWC = values_NCHW.new_empty([values_NCHW.shape[i] for i in (0, 2, 3, 1)])
    for channel in range(values_NCHW.shape[1]):  # one by one, as copying all at once takes twice as long
        pixels_NHWC[..., channel] = values_NCHW[:, channel]
    return pixels_NHWC.numpy()


def from_bytes(pixels_NCHW: Tensor) -> Tensor:
    """uint8 to the values that `to_bytes` turns into the same bytes: (p - 127.5) / 127.5, in -1..1."""
    return pixels_NCHW.float() / 127.5 - 1


def sheet(pictures: np.ndarray, columns: int | None = None) -> np.ndarray:
    """The pictures (uint8 N x H x W x C, at least one) as one, row by row, in a square or `columns` wide."""
    count, height, width, channels = pictures.shape
    columns = columns or int(np.ceil(count**0.5))
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = pictures
    joined = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return joined.reshape(rows * height, columns * width, channels)


def grid(pictures: np.ndarray, columns: int | None = None, mark: Mark | None = None) -> bytes:
    """A PNG of `sheet`, which says what `mark` says."""
    pixels = sheet(pictures, columns)
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return encode(pixels[..., :3], alpha, Metadata(), format="png", mark=mark).data


def mark_of(facts: GanFacts, version: str, prompt: str) -> Mark:
    """What a generated picture says of itself: nothing that depends on where the model lay or when it ran."""
    return Mark("trainedAlgorithmicMedia", f"artgen {facts.architecture} generator", version, prompt)
