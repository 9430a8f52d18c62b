"""A short film of a generator between its pictures: neighbouring latent numbers should give neighbouring pictures.

Shape letters: N pictures, L latent numbers, H height, W width, C channels.
"""

from __future__ import annotations

import io

from PIL import Image

from artgen.inference.sample import between, grid, labels_of, latents, paint
from artgen.models.gans.spec import Painter

CELLS, STOPS, FRAMES, FRAME_MS = 16, 4, 12, 80


def film(painter: Painter) -> bytes:
    """A GIF that loops: 16 cells, each on its way through the pictures of four seeds, cell + 0, 16, 32, 48, and back.

    A cell keeps the class of its first seed. Raises RunError when a picture is not finite.
    """
    labels_N = labels_of(painter, range(CELLS), None)
    stops = [latents(range(CELLS * stop, CELLS * (stop + 1)), painter.facts.latent) for stop in range(STOPS)]
    frames = []
    for stop in range(STOPS):
        for frame in range(FRAMES):
            z_NL = between(stops[stop], stops[(stop + 1) % STOPS], frame / FRAMES)
            pixels = paint(painter, z_NL, labels_N, [f"cell {cell}" for cell in range(CELLS)])
            frames.append(Image.open(io.BytesIO(grid(pixels, 4))).convert("RGB"))
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return file.getvalue()
