"""The peers of restore_throughput.py: what a person would write today with the same weights. Each is a script of its own.

python bench/peers.py torch-threads|ray-data|daft|model-only|decode-only|encode-only SOURCE OUT
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def load_model() -> Any:
    import torch

    from artgen.models.weights import load

    torch.set_num_threads(1)
    return load("default")


def as_tensor(pixels: np.ndarray) -> Any:
    """1 x 3 x H x W in 0..1, mirrored at the right and below to multiples of 8, channels last."""
    import torch

    h, w = pixels.shape[:2]
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(255)
    x = torch.nn.functional.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
    return x.to(memory_format=torch.channels_last)


def restored(model: Any, pixels: np.ndarray) -> np.ndarray:
    import torch

    h, w = pixels.shape[:2]
    with torch.inference_mode():
        y = model(as_tensor(pixels))[0, :, :h, :w]
    return (y.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).numpy()


def read(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def torch_threads(source: str, out: str) -> None:
    """A plain PyTorch script with a thread pool: one image a thread, Pillow at both ends."""
    from PIL import Image

    model = load_model()
    Path(out).mkdir()

    def one(path: Path) -> None:
        Image.fromarray(restored(model, read(path))).save(Path(out) / f"{path.stem}.png")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, sorted(Path(source).iterdir())))


def ray_data(source: str, out: str) -> None:
    """Ray Data as documented: read_images, map_batches with an actor class, write_images."""
    import ray

    workers = os.cpu_count() or 1
    # One core more than there is, on paper: with all of them held by actors the reading tasks would never start.
    ray.init(address="local", num_cpus=workers + 1, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    class Restore:
        def __init__(self) -> None:
            self.model = load_model()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            images = np.empty(len(batch["image"]), object)
            for number, pixels in enumerate(batch["image"]):
                images[number] = restored(self.model, pixels)
            return {"image": images}

    dataset = ray.data.read_images(source, mode="RGB")
    dataset = dataset.map_batches(Restore, batch_size=4, concurrency=workers, num_cpus=1)
    dataset.write_images(out, column="image", file_format="png")


def daft(source: str, out: str) -> None:
    """Daft: a column of paths, downloaded and decoded by Daft, restored by a class UDF, saved by Pillow."""
    import daft as df
    from PIL import Image

    Path(out).mkdir()

    @df.cls
    class Restore:
        def __init__(self) -> None:
            self.model = load_model()

        @df.method(return_dtype=df.DataType.string())
        def one(self, image: Any, path: str) -> str:
            target = Path(out) / f"{Path(path).stem}.png"
            Image.fromarray(restored(self.model, np.asarray(image))).save(target)
            return str(target)

    restore: Any = Restore()
    frame = df.from_glob_path(f"{source}/*")
    frame = frame.with_column("image", frame["path"].download().decode_image(mode="RGB"))
    frame.with_column("done", restore.one(frame["image"], frame["path"])).select("done").collect()


def model_only(source: str, out: str) -> None:
    model = load_model()
    _timed([as_tensor(read(path)) for path in sorted(Path(source).iterdir())], lambda x: _forward(model, x))


def decode_only(source: str, out: str) -> None:
    from artgen.codecs.decode import decode

    files = [path.read_bytes() for path in sorted(Path(source).iterdir())]
    _timed(files, lambda data: decode(data, max_pixels=10**9))


def encode_only(source: str, out: str) -> None:
    from artgen.codecs.png import encode_png

    _timed([read(path) for path in sorted(Path(source).iterdir())], encode_png)


def _forward(model: Any, x: Any) -> None:
    import torch

    with torch.inference_mode():
        model(x)


def _timed(items: list[Any], work: Any) -> None:
    """Prints the seconds by the clock and of the CPU for all items, one a thread, after one to warm up."""
    work(items[0])
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(work, items))
    print(time.perf_counter() - began, time.process_time() - cpu)


if __name__ == "__main__":
    PEERS = {
        "torch-threads": torch_threads,
        "ray-data": ray_data,
        "daft": daft,
        "model-only": model_only,
        "decode-only": decode_only,
        "encode-only": encode_only,
    }
    PEERS[sys.argv[1]](sys.argv[2], sys.argv[3])
