"""The PNG writer beside Pillow level 6 on the same photographs in the same run.

    python bench/png_encode.py [FOLDER]        images of FOLDER; by default ../shared's wallpapers, else scikit-image's

Prints CPU time per megapixel, speed and size as ratios to Pillow level 6, for the photographs as they are
(at most 6 megapixels of each) and at 768x512, in 8 bits, grey, with alpha and in 16 bits. Every output is decoded and
compared before it counts.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from artgen.codecs.png import encode_png

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "restore_train" / "wallpapers48"
LARGEST = (3000, 2000)


def photographs(folder: Path | None) -> list[Image.Image]:
    if folder is not None:
        paths = [
            path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        ]
        return [Image.open(path).convert("RGB") for path in paths]
    from skimage import data

    return [Image.fromarray(make()) for make in (data.astronaut, data.chelsea, data.coffee, data.rocket)]


def pillow(image: np.ndarray, level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=level)
    return out.getvalue()


def ours(image: np.ndarray) -> bytes:
    if image.ndim == 2:
        return encode_png(image[..., None])
    if image.shape[2] == 4:
        return encode_png(np.ascontiguousarray(image[..., :3]), np.ascontiguousarray(image[..., 3]))
    return encode_png(image)


def timed(encode: Callable[[], bytes], repeat: int) -> tuple[float, int]:
    """CPU seconds, the best of `repeat`, and bytes."""
    seconds, size = [], 0
    for _ in range(repeat):
        began = time.process_time()
        size = len(encode())
        seconds.append(time.process_time() - began)
    return min(seconds), size


def table(title: str, images: list[np.ndarray], repeat: int) -> None:
    print(f"\n{title}: {len(images)} images, {sum(i.shape[0] * i.shape[1] for i in images) / 1e6:.1f} megapixels")
    print(f"{'writer':<28}{'ms/megapixel':>14}{'speed':>8}{'size':>8}{'largest':>9}")
    deep = (
        images[0].dtype == np.uint16 and images[0].ndim == 3
    )  # Pillow writes no 16-bit colour; libpng level 6 stands in
    writers: dict[str, Callable[[np.ndarray], bytes]] = {
        "libpng level 6": lambda image: bytes(imagecodecs.png_encode(image, level=6)),
        "Pillow level 1": lambda image: pillow(image, 1),
        "Pillow level 6": lambda image: pillow(image, 6),
        "artgen": ours,
    }
    names = ["libpng level 6", "artgen"] if deep else ["Pillow level 6", "Pillow level 1", "artgen"]
    for image in images:
        if not np.array_equal(imagecodecs.png_decode(ours(image)), image):
            raise SystemExit("an image did not come back as it was")
    results = {name: [timed(lambda: writers[name](image), repeat) for image in images] for name in names}  # noqa: B023
    base = results[names[0]]
    megapixels = sum(image.shape[0] * image.shape[1] for image in images) / 1e6
    for name, rows in results.items():
        seconds, size = sum(row[0] for row in rows), sum(row[1] for row in rows)
        speed, ratio = sum(row[0] for row in base) / seconds, size / sum(row[1] for row in base)
        largest = max(row[1] / reference[1] for row, reference in zip(rows, base, strict=True))
        print(f"{name:<28}{seconds / megapixels * 1e3:>14.1f}{speed:>8.1f}{ratio:>8.3f}{largest:>9.2f}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT if DEFAULT.is_dir() else None
    whole = photographs(folder)
    for image in whole:
        image.thumbnail(LARGEST) if image.width * image.height > LARGEST[0] * LARGEST[1] else None
    small = [np.asarray(image.resize((768, 512), Image.Resampling.LANCZOS)) for image in whole]
    print(
        f"{len(whole)} photographs of {folder.name if folder else 'scikit-image'}; ratios to the first row of each table"
    )
    table("768x512 RGB", small, 3)
    table("as they are, RGB", [np.asarray(image) for image in whole[::4]], 1)
    table("768x512 grey", [np.asarray(Image.fromarray(image).convert("L")) for image in small], 3)
    table("768x512 RGB with alpha", [np.dstack([image, image[..., 1]]) for image in small[::4]], 2)
    noise = np.random.default_rng(0)
    deep = [
        image.astype(np.uint16) * 257 + noise.integers(-60, 60, image.shape).astype(np.uint16)
        for image in small[::4]
    ]
    table("768x512 RGB, 16 bits with sensor noise", deep, 1)


if __name__ == "__main__":
    main()
