"""A short film of a generator between its pictures: neighbouring latent numbers should give neighbouring pictures.

Shape letters: N pictures, L latent numbers, H height, W width, C channels.
"""

from __future__ import annotations

import io

from PIL import Image

from artgen.codecs import marking
from artgen.codecs.marking import Mark
from artgen.inference.sample import between, labels_of, latents, paint, sheet
from artgen.models.gans.spec import Painter

CELLS, STOPS, FRAMES, FRAME_MS = 16, 4, 12, 80


def film(painter: Painter, mark: Mark) -> bytes:
    """A GIF that loops: 16 cells, each on its way through the pictures of four seeds, cell + 0, 16, 32, 48, and back.

    mark: what the file says of itself. A cell keeps the class of its first seed. Raises RunError when a picture is not finite.
    """
    labels_N = labels_of(painter, range(CELLS), None)
    stops = [latents(range(CELLS * stop, CELLS * (stop + 1)), painter.facts.latent) for stop in range(STOPS)]
    frames = []
    for stop in range(STOPS):
        for frame in range(FRAMES):
            z_NL = between(stops[stop], stops[(stop + 1) % STOPS], frame / FRAMES)
            pixels = paint(painter, z_NL, labels_N, [f"cell {cell}" for cell in range(CELLS)])
            cells = sheet(pixels, 4)
            frames.append(Image.fromarray(cells[..., 0] if cells.shape[2] == 1 else cells).convert("RGB"))
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    return marking.in_gif(file.getvalue(), mark)
