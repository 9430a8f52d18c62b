"""A short film of a generator between its pictures: neighbouring latent numbers should give neighbouring pictures.

Shape letters: N pictures, L latent numbers, H height, W width, C channels.
"""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

from artgen.inference.sample import grid, labels_of, latents, to_bytes
from artgen.models.gans.spec import Painter

CELLS, STOPS, FRAMES, FRAME_MS = 16, 4, 12, 80


@torch.no_grad()
def film(painter: Painter) -> bytes:
    """A GIF that loops: 16 cells, each on its way through the pictures of four seeds, cell + 0, 16, 32, 48, and back.

    A cell keeps the class of its first seed.
    """
    labels_N = labels_of(painter, range(CELLS), None)
    device = next(painter.module.parameters()).device
    labels_N = None if labels_N is None else labels_N.to(device)
    stops = [latents(range(CELLS * stop, CELLS * (stop + 1)), painter.facts.latent) for stop in range(STOPS)]
    frames = []
    for stop in range(STOPS):
        for frame in range(FRAMES):
            z_NL = between(stops[stop], stops[(stop + 1) % STOPS], frame / FRAMES)
            pixels = to_bytes(painter(z_NL.to(device), labels_N).float().cpu())
            frames.append(Image.open(io.BytesIO(grid(pixels, 4))).convert("RGB"))
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return file.getvalue()


def between(first_NL: Tensor, last_NL: Tensor, share: float) -> Tensor:
    """Along the great circle from the first to the last (Shoemake 1985), lengths linear: a straight line would pass
    through shorter vectors than a generator has seen (White 2016). share: 0..1.
    """
    lengths = [z.norm(dim=1, keepdim=True) for z in (first_NL, last_NL)]
    one, other = first_NL / lengths[0], last_NL / lengths[1]
    angle = (one * other).sum(1, keepdim=True).clamp(-0.9999, 0.9999).acos()
    on_circle = (((1 - share) * angle).sin() * one + (share * angle).sin() * other) / angle.sin()
    return on_circle * ((1 - share) * lengths[0] + share * lengths[1])
