"""Makes artgen/demo: crops of scikit-image's free pictures, which `artgen demo` damages and restores.

Run once and commit the result: python scripts/make_demo.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

DEMO = Path(__file__).resolve().parents[1] / "artgen" / "demo"
SIDE_PX = 288

SOURCES = """# Pictures of the demo

Crops and reductions of pictures that come with scikit-image, made by scripts/make_demo.py. `artgen demo` damages them.

| file | picture | source, licence |
|---|---|---|
| portrait | Eileen Collins | NASA, public domain |
| camera | Cameraman | Lav Varshney, CC0 |
| cat, cat-mixture | Chelsea the cat | Stefan van der Walt, CC0 |
| coffee | A cup of coffee | Rachel Michetti (Pikolo Espresso Bar), public domain by the photographer |
| rocket | Falcon 9 launch | SpaceX, CC0 |
| broken | a JPEG cut short, to show a failed row | as coffee |
"""


def pictures() -> Iterator[tuple[str, np.ndarray]]:
    yield "portrait", data.astronaut()[0:400, 60:460]
    yield "camera", data.camera()[60:460, 100:500]
    yield "cat", data.chelsea()[0:300, 80:380]
    yield "coffee", data.coffee()[0:400, 100:500]
    yield "rocket", data.rocket()[0:427, 100:527]
    yield "cat-mixture", data.chelsea()[40:260, 100:400]


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    for name, pixels in pictures():
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        colour = {} if image.mode == "L" else {"subsampling": "4:4:4"}
        image.save(DEMO / f"{name}.jpg", quality=95, **colour)
    (DEMO / "broken.jpg").write_bytes((DEMO / "coffee.jpg").read_bytes()[:6000])
    (DEMO / "SOURCES.md").write_text(SOURCES)
    sys.stdout.write(f"{DEMO}: {sum(file.stat().st_size for file in DEMO.iterdir())} bytes\n")


if __name__ == "__main__":
    main()
