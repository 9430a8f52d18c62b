"""Renders pages of text and line art, in black and white and in colours: training pictures beside photographs.

    python bench/pages.py FOLDER --count 32

Photographs hold no pure black strokes on pure white, so a restorer trained on them alone takes thin strokes for impulses.
The shipped weights saw such pages (model card). Same seed, fonts and Pillow: same pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 512
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"), help="folder of .ttf files")
    args = parser.parse_args()
    fonts = sorted(args.fonts.rglob("*.ttf"))
    if not fonts:
        parser.error(f"no .ttf file under {args.fonts}: install fonts, or name their folder with --fonts")
    args.folder.mkdir(parents=True, exist_ok=True)
    for number in range(args.count):
        page(np.random.default_rng((args.seed, number)), fonts).save(args.folder / f"page-{number:03d}.png")


def page(rng: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """One page: text from top to bottom, with drawings in some of its blocks."""
    paper, ink = colours(rng)
    image = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1" if rng.random() < 0.25 else "L"
    top = int(rng.integers(0, 12))
    while top < SIDE:
        if rng.random() < 0.3:
            top += drawing(draw, rng, top, ink)
        else:
            top += paragraph(draw, rng, top, ink, fonts)
    return image


def colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Paper and ink: pure black on white for half the pages, else white on black, or tints."""
    kind = rng.choice(["plain", "inverse", "tinted"], p=[0.5, 0.1, 0.4])
    if kind == "plain":
        return (255, 255, 255), (0, 0, 0)
    if kind == "inverse":
        return (0, 0, 0), (255, 255, 255)
    return tuple(rng.integers(190, 256, 3).tolist()), tuple(rng.integers(0, 110, 3).tolist())


def paragraph(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, top: int, ink: tuple[int, ...], fonts: list[Path]
) -> int:
    """Draws a few lines of made-up words in one font and returns their height."""
    size = int(np.exp(rng.uniform(np.log(8), np.log(44))))
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), size)
    lines = int(rng.integers(1, 1 + max(1, 120 // size)))
    left = int(rng.integers(0, 40))
    for line in range(lines):
        words = ["".join(rng.choice(list(ALPHABET), rng.integers(1, 11))) for _ in range(900 // (size * 3) + 3)]
        words = [str(rng.integers(10**6)) if rng.random() < 0.1 else word for word in words]
        words = [word.capitalize() if rng.random() < 0.2 else word for word in words]
        draw.text((left, top + line * int(size * 1.25)), " ".join(words), font=font, fill=ink)
    return lines * int(size * 1.25) + int(rng.integers(2, 20))


def drawing(draw: ImageDraw.ImageDraw, rng: np.random.Generator, top: int, ink: tuple[int, ...]) -> int:
    """Draws a table, a chart or curves and returns their height."""
    height = int(rng.integers(40, 160))
    left, right = sorted(rng.integers(0, SIDE, 2).tolist())
    right = max(right, left + 60)
    width = int(rng.integers(1, 4))
    kind = rng.choice(["table", "bars", "curves", "hatch"])
    if kind == "table":
        for y in np.linspace(top, top + height, int(rng.integers(3, 8))):
            draw.line((left, y, right, y), ink, width)
        for x in np.linspace(left, right, int(rng.integers(3, 8))):
            draw.line((x, top, x, top + height), ink, width)
    elif kind == "bars":
        for x in range(left, right, 14):
            draw.rectangle((x, top + int(rng.integers(height)), x + 8, top + height), fill=ink, outline=ink)
    elif kind == "curves":
        for _ in range(int(rng.integers(1, 4))):
            x = np.linspace(left, right, 60)
            wave = np.sin(x / rng.uniform(8, 60) + rng.uniform(0, 6)) * height / 2.2 + top + height / 2
            draw.line([(float(a), float(b)) for a, b in zip(x, wave, strict=True)], ink, width)
        draw.ellipse((left, top, left + height, top + height), outline=ink, width=width)
    else:
        for x in range(left, right, int(rng.integers(4, 12))):
            draw.line((x, top, x + height // 2, top + height), ink, width)
    return height + int(rng.integers(2, 20))


if __name__ == "__main__":
    main()
