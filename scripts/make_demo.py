"""Makes artgen/demo: a small archive of damaged pictures and the masks of what is lost, from scikit-image's free pictures.

Run once and commit the result: python scripts/make_demo.py
"""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from artgen.training import degrade
from artgen.training.dice import Dice

DEMO = Path(__file__).resolve().parents[1] / "artgen" / "demo"
SIDE_PX = 288

SOURCES = """# Pictures of the demo

Crops and reductions of pictures that come with scikit-image, damaged by scripts/make_demo.py.

| file | picture | source, licence |
|---|---|---|
| portrait-noise | Eileen Collins | NASA, public domain |
| cat-salt-pepper | Chelsea the cat | Stefan van der Walt, CC0 |
| coffee-jpeg | A cup of coffee | Rachel Michetti (Pikolo Espresso Bar), public domain by the photographer |
| rocket-scratches | Falcon 9 launch | SpaceX, CC0 |
| camera-grey-noise | Cameraman | Lav Varshney, CC0 |
| cat-mixture | Chelsea the cat | Stefan van der Walt, CC0 |
| broken | a JPEG cut short, to show a failed row | as coffee-jpeg |
"""

Damage = Callable[[torch.Tensor, Dice], degrade.Damaged]


def pictures() -> Iterator[tuple[str, np.ndarray, Damage]]:
    yield "portrait-noise", data.astronaut()[0:400, 60:460], lambda x, g: degrade.noise_in_file(x, 35, g)
    yield "cat-salt-pepper", data.chelsea()[0:300, 80:380], lambda x, g: degrade.salt_pepper(x, 0.4, g)
    yield "coffee-jpeg", data.coffee()[0:400, 100:500], lambda x, g: degrade.Damaged(x, x[:, :1] * 0)
    yield "rocket-scratches", data.rocket()[0:427, 100:527], lambda x, g: degrade.scratches(x, 0.08, g)
    yield "camera-grey-noise", data.camera()[60:460, 100:500], lambda x, g: degrade.noise_in_file(x, 25, g)
    yield "cat-mixture", data.chelsea()[40:260, 100:400], mixture


def mixture(x_BCHW: torch.Tensor, dice: Dice) -> degrade.Damaged:
    noisy = degrade.noise_in_file(x_BCHW, 20, dice).image
    speckled = degrade.salt_pepper(noisy, 0.05, dice).image
    return degrade.jpeg(speckled, 40, dice)


def main() -> None:
    dice = Dice(7)
    DEMO.mkdir(exist_ok=True)
    with tarfile.open(DEMO / "damaged.tar", "w") as damaged, tarfile.open(DEMO / "masks.tar", "w") as masks:
        for name, pixels, damage in pictures():
            image = Image.fromarray(pixels)
            image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
            x_BCHW = torch.from_numpy(np.atleast_3d(np.asarray(image)).copy()).permute(2, 0, 1)[None] / 255
            y_BCHW, mask_B1HW = damage(x_BCHW, dice)
            if name == "coffee-jpeg":
                picture = jpeg_file(to_image(y_BCHW), 9)
                add(damaged, f"{name}.jpg", picture)
                add(damaged, "broken.jpg", jpeg_file(to_image(y_BCHW), 60)[:6000])
                continue
            add(damaged, f"{name}.png", png_file(to_image(y_BCHW)))
            if mask_B1HW.any():
                add(masks, f"{name}.png", png_file(to_image(mask_B1HW)))
    (DEMO / "SOURCES.md").write_text(SOURCES)
    sys.stdout.write(f"{DEMO / 'damaged.tar'}: {(DEMO / 'damaged.tar').stat().st_size} bytes\n")


def to_image(x_BCHW: torch.Tensor) -> Image.Image:
    pixels = degrade.round_to_file(x_BCHW)[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def png_file(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg_file(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
