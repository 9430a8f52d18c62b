from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artgen.codecs.decode import decode
from artgen.errors import OutOfMemory, RunError
from artgen.inference.sample import FORWARD_IMAGES, sample
from artgen.models.gans.spec import Painter
from artgen.models.gans.weights import load_painter
from artgen.records import Entry
from artgen.work.generation import GenerateJob, Generation
from artgen.work.seeds import Seeds, seed_entries
from artgen.work.unit import Made
from tests.generators import CLASSES, write_run


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    return load_painter(str(write_run(tmp_path_factory.mktemp("run"))))


def made(
    painter: Painter, entries: list[Entry], threads: int = 3, at_once: int = FORWARD_IMAGES, **settings: object
) -> list[Made]:
    job = GenerateJob("m", painter.sha256, tuple(range(len(painter.facts.classes))), **settings)  # type: ignore[arg-type]
    maker = job.open(painter, threads)
    try:
        with ThreadPoolExecutor(threads) as pool:
            calls = [entries[start : start + at_once] for start in range(0, len(entries), at_once)]
            return [item for found in pool.map(maker.make, calls) for item in found]
    finally:
        maker.close()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_a_seed_is_the_same_picture_in_every_unit_pass_and_thread(painter: Painter) -> None:
    seeds = Seeds.parse("0-69")
    whole = {item.row.seed: item.data for item in made(painter, seed_entries(seeds, ".png"))}
    assert len(set(whole.values())) == 70
    for text, companions, threads in (("3-50", 7, 1), ("69", 1, 2), ("0,20,40", 3, 4)):
        for item in made(painter, seed_entries(Seeds.parse(text), ".png"), threads, companions):
            assert item.data == whole[item.row.seed]
    assert np.array_equal(pixels(whole[69] or b""), sample(painter, [69])[0])


def test_the_row_and_the_file_tell_what_made_the_picture(painter: Painter) -> None:
    (item,) = made(painter, seed_entries(Seeds.parse("4711"), ".png"), truncation=0.5)
    row = item.row
    assert (row.key, row.seed, row.class_name) == ("seed-000004711", 4711, CLASSES[4711 % 3])
    assert (row.source_uri, row.status, row.mode, row.width, row.height) == ("seed:4711", "ok", "RGB", 36, 28)
    assert row.model_sha256 == painter.sha256
    assert item.data is not None
    told = (decode(item.data).metadata.xmp or b"").decode()
    assert "digitalsourcetype/trainedAlgorithmicMedia" in told
    assert "artgen r3 generator" in told
    assert f"sha256:{painter.sha256}" in told
    assert f"seed 4711, class {CLASSES[4711 % 3]}, truncation 0.5" in told


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_grey_and_transparent_pictures_in_every_format(tmp_path: Path, channels: int, format: str) -> None:
    other = load_painter(str(write_run(tmp_path, (), channels)))
    (item,) = made(other, seed_entries(Seeds.parse("5"), f".{format}"), format=format)
    assert item.row.class_name is None
    shown, expected = pixels(item.data or b""), sample(other, [5])[0]
    if format == "png":
        assert np.array_equal(shown.reshape(28, 36, channels), expected)
    else:
        assert shown.shape[:2] == (28, 36)
    assert ("left out: alpha" in item.row.notes) == (channels == 4 and format == "jpeg")


def test_a_broken_model_ends_the_run(tmp_path: Path) -> None:
    broken = load_painter(str(write_run(tmp_path)))
    broken.module.get_parameter("project.weight")[0, 0] = float("nan")
    with pytest.raises(RunError, match="seed 3 is not finite"):
        made(broken, seed_entries(Seeds.parse("3-4"), ".png"))


def test_a_stopped_maker_ends_soon(painter: Painter) -> None:
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter)
    maker.stop()
    with pytest.raises(RunError, match="ending"):
        maker.make(seed_entries(Seeds.parse("1"), ".png"))
    maker.close()


def test_a_maker_that_is_stopped_within_a_pass_encodes_no_more(painter: Painter) -> None:
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter)
    hook = painter.module.register_forward_hook(lambda *_: maker.stop())
    with pytest.raises(RunError, match="ending"):
        maker.make(seed_entries(Seeds.parse("0-9"), ".png"))
    hook.remove()


def test_a_model_that_fails_is_named_and_asked_again_next_time(painter: Painter) -> None:
    maker = Generation(GenerateJob("models/mine", painter.sha256, (0, 1, 2)), painter)
    entries = seed_entries(Seeds.parse("1,2"), ".png")
    errors: list[Exception] = [
        RuntimeError("CUDA error: unspecified launch failure"),
        torch.OutOfMemoryError("out of memory"),
    ]

    def fail(*_: object) -> None:
        if errors:
            raise errors.pop()

    hook = painter.module.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory, match=r"^models/mine: .* no memory on cpu"):
        maker.make(entries)
    with pytest.raises(RunError, match=r"^models/mine: .* failed on cpu: CUDA error"):
        maker.make(entries)
    assert [item.data for item in maker.make(entries)] == [item.data for item in made(painter, entries)]
    hook.remove()


def test_passes_run_side_by_side_on_a_cpu_and_one_by_one_on_an_accelerator(painter: Painter) -> None:
    """Two passes that wait for each other: one after the other they never meet."""
    calls = [seed_entries(Seeds.parse(text), ".png") for text in ("0", "1")]
    for device, seconds in (("cpu", 20.0), ("cuda", 0.3)):
        maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2), device=device), painter, threads=2)
        both = threading.Barrier(2, timeout=seconds)

        def meet(*_: object, both: threading.Barrier = both) -> None:
            both.wait()

        hook = painter.module.register_forward_pre_hook(meet)
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(maker.make, entries) for entries in calls]
            met = [future.exception() is None for future in futures]
        assert met == [device == "cpu"] * 2
        hook.remove()
