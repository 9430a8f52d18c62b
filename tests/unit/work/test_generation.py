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
from artgen.inference.sample import sample
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


def made(painter: Painter, entries: list[Entry], threads: int = 3, **settings: object) -> list[Made]:
    job = GenerateJob("m", painter.sha256, tuple(range(len(painter.facts.classes))), **settings)  # type: ignore[arg-type]
    maker = job.open(painter, threads)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(maker.make, entries))
    finally:
        maker.close()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_a_seed_is_the_same_picture_in_every_unit_pass_and_thread(painter: Painter) -> None:
    seeds = Seeds.parse("0-69")
    whole = {item.row.seed: item.data for item in made(painter, seed_entries(seeds, ".png", 32))}
    assert len(set(whole.values())) == 70
    for text, companions, threads in (("3-50", 7, 1), ("69", 1, 2), ("0,20,40", 3, 4)):
        for item in made(painter, seed_entries(Seeds.parse(text), ".png", companions), threads):
            assert item.data == whole[item.row.seed]
    assert np.array_equal(pixels(whole[69] or b""), sample(painter, [69])[0])


def test_the_row_and_the_file_tell_what_made_the_picture(painter: Painter) -> None:
    (item,) = made(painter, seed_entries(Seeds.parse("4711"), ".png", 32), truncation=0.5)
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
    (item,) = made(other, seed_entries(Seeds.parse("5"), f".{format}", 32), format=format)
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
        made(broken, seed_entries(Seeds.parse("3-4"), ".png", 32))


def test_a_stopped_maker_ends_soon(painter: Painter) -> None:
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter)
    maker.stop()
    with pytest.raises(RunError, match="ending"):
        maker.make(seed_entries(Seeds.parse("1"), ".png", 32)[0])
    maker.close()


def test_a_pass_that_failed_is_made_anew_for_whoever_asks_next(painter: Painter) -> None:
    maker = Generation(GenerateJob("models/mine", painter.sha256, (0, 1, 2)), painter)
    entries = seed_entries(Seeds.parse("1,2"), ".png", 32)
    errors: list[Exception] = [
        RuntimeError("CUDA error: unspecified launch failure"),
        torch.OutOfMemoryError("out of memory"),
    ]

    def fail(*_: object) -> None:
        if errors:
            raise errors.pop()

    hook = painter.module.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory, match=r"^models/mine: .* no memory on cpu"):
        maker.make(entries[0])
    with pytest.raises(RunError, match=r"^models/mine: .* failed on cpu: CUDA error"):
        maker.make(entries[1])
    assert not maker._passes
    assert maker.make(entries[0]).data == made(painter, entries)[0].data
    hook.remove()
    maker.close()


def test_passes_run_side_by_side_before_their_pictures_are_asked_for(painter: Painter) -> None:
    """Two passes that wait for each other: one after the other they would never end well."""
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter, threads=2)
    both = threading.Barrier(2, timeout=20)

    def meet(*_: object) -> None:
        both.wait()

    hook = painter.module.register_forward_pre_hook(meet)
    first, second = seed_entries(Seeds.parse("0-1"), ".png", 1)
    assert maker.ahead > 0
    for entry in (first, second):
        maker.begin(entry)
    assert maker.make(first).row.status == maker.make(second).row.status == "ok"
    hook.remove()
    maker.close()


def test_a_pass_goes_with_its_last_picture_and_is_made_anew_for_a_unit_that_is_done_again(painter: Painter) -> None:
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter)
    entries = seed_entries(Seeds.parse("0-9"), ".png", 5)
    first = [maker.make(entry).data for entry in entries[:7]]
    assert [len(kept.result().pictures) for kept in maker._passes.values()] == [3]
    assert [maker.make(entry).data for entry in entries] == [
        *first,
        *(maker.make(entry).data for entry in entries[7:]),
    ]
    maker.close()


def test_what_failed_units_leave_is_bounded(painter: Painter) -> None:
    maker = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter)
    for first in range(0, 400, 2):
        maker.make(seed_entries(Seeds.parse(f"{first}-{first + 1}"), ".png", 2)[0])
    assert 2 * (maker.ahead + 2) >= len(maker._passes) > 2
    maker.close()


def test_no_pass_that_was_begun_is_made_twice_however_small_the_units(painter: Painter) -> None:
    maker, passes = Generation(GenerateJob("m", painter.sha256, (0, 1, 2)), painter), []
    hook = painter.module.register_forward_pre_hook(lambda *_: passes.append(1))
    entries = seed_entries(Seeds.parse(f"0-{maker.ahead + 1}"), ".png", 1)
    for entry in entries:
        maker.begin(entry)
    for entry in entries:
        maker.make(entry)
    assert len(passes) == len(entries)
    hook.remove()
    maker.close()
