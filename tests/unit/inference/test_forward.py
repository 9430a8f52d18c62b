from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from artgen.errors import RestoreFailed, UsageError
from artgen.inference.forward import Forward, Tile, TileTooLarge
from tests.unit.inference.nets import Identity, Limited, Raises, Returns, ShowMask, fresh_default, restorer


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiles(count: int, height: int = 64, width: int = 48, dtype: type = np.uint8, channels: int = 3) -> list[Tile]:
    random = np.random.default_rng(count)
    shape = (height, width, channels)
    return [Tile(random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)) for _ in range(count)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_full_range_of_the_type_is_zero_to_one(dtype: type, batch: int) -> None:
    given = tiles(4, dtype=dtype)
    for tile, output in zip(given, Forward(restorer(Identity()), batch=batch).run(given), strict=True):
        assert output.dtype == np.float32
        assert np.abs(output - tile.pixels_HWC / np.float64(np.iinfo(dtype).max)).max() < 1e-7


def test_the_device_sees_one_batch_size_and_copies_are_dropped() -> None:
    module = Identity()
    outputs = Forward(restorer(module), batch=4).run([*tiles(5), *tiles(2, 32, 32)])
    assert len(outputs) == 7
    assert {shape[0] for shape in module.shapes} == {4}
    assert len(module.shapes) == 3


def test_masked_pixels_reach_the_model_as_zero_and_the_mask_as_one() -> None:
    (tile,) = tiles(1)
    mask = np.zeros((64, 48), bool)
    mask[10:20, 5:7] = True
    masked, plain = Forward(restorer(ShowMask(), takes_mask=True), batch=2).run([Tile(tile.pixels_HWC, mask), tile])
    assert (masked[mask] == 1).all()
    assert np.array_equal(masked[~mask], plain[~mask])


@pytest.mark.parametrize("size", [80, 136])
def test_bits_depend_on_no_neighbour_batch_or_thread_count(threads: None, size: int) -> None:
    mask = np.random.default_rng(0).random((size, 64)) < 0.1
    given = [Tile(tile.pixels_HWC, mask) for tile in tiles(2, size, 64)]
    default, wanted = fresh_default(), None
    for count in (1, 2):
        torch.set_num_threads(count)
        for batch in (1, 2, 3):
            outputs = Forward(default, batch=batch).run(given)
            wanted = outputs if wanted is None else wanted
            assert all(np.array_equal(a, b) for a, b in zip(outputs, wanted, strict=True)), (count, batch)
    assert wanted is not None
    assert np.abs(wanted[0] - given[0].pixels_HWC / 255).max() > 0.01, "the random network does something"


@pytest.mark.parametrize("batch", [1, 4])
def test_bits_depend_on_no_other_thread(batch: int) -> None:
    given = tiles(8)
    forward = Forward(fresh_default(), batch=batch)
    wanted = forward.run(given)

    def work(k: int) -> list[np.ndarray]:
        with forward.worker():
            return [forward.run([tile])[0] for tile in given[k::4]]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    for k, outputs in enumerate(results):
        assert all(np.array_equal(a, b) for a, b in zip(outputs, wanted[k::4], strict=True))


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_without_memory_the_batch_is_halved_for_good_and_redone(error: Exception | None) -> None:
    given = tiles(11)
    wanted = Forward(restorer(Limited(10**9)), batch=8).run(given)
    module = Limited(3 * 64 * 48, error)
    forward = Forward(restorer(module), batch=8)
    outputs = forward.run(given)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, wanted, strict=True))
    assert forward.batch == 2
    assert set(module.batches) == {2}, "8 and 4 are too many; 3 would fit, and 2 is what halving finds"
    forward.run(given)
    assert set(module.batches) == {2}


def test_without_memory_for_one_tile_it_says_which() -> None:
    with pytest.raises(TileTooLarge, match="48x64 px on cpu"):
        Forward(restorer(Limited(100)), batch=4).run(tiles(1))


def test_tiles_that_fit_are_done_beside_one_that_does_not() -> None:
    forward = Forward(restorer(Limited(2 * 64 * 64)), batch=2)
    with ThreadPoolExecutor(2) as pool:
        fits = pool.submit(forward.run, tiles(3))
        large = pool.submit(forward.run, tiles(2, 128, 160))
    assert len(fits.result()) == 3
    assert isinstance(large.exception(), TileTooLarge)


def test_a_model_that_runs_picture_by_picture_is_given_no_copies() -> None:
    module = Limited(10**9)
    module.one_by_one = True  # type: ignore[assignment]
    forward = Forward(restorer(module), batch=8)
    forward.run(tiles(3))
    forward.run(tiles(1, 8, 8))
    assert module.batches == [3, 1]


def test_weights_of_five_dimensions_have_no_layout() -> None:
    module = Identity()
    module.register_parameter("volume", nn.Parameter(torch.zeros(1, 2, 3, 4, 5)))
    module.register_parameter("kernel", nn.Parameter(torch.zeros(2, 3, 4, 5)))
    assert len(Forward(restorer(module)).run(tiles(1))) == 1
    assert module.get_parameter("kernel").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Returns("small"), r"returned \(2, 3, 63, 48\) where \(2, 3, 64, 48\) was due"),
        (Returns("grey"), r"returned \(2, 1, 64, 48\)"),
        (Returns("tuple"), "returned tuple"),
        (Raises(RuntimeError("size mismatch")), "RuntimeError: size mismatch"),
        (Raises(ValueError("odd size")), "ValueError: odd size"),
        (Raises(AssertionError("16 divides it")), "AssertionError: 16 divides it"),
        (Raises(KeyError("relu")), "KeyError: 'relu'"),
        (Identity(2), r"returned \(2, 3, 128, 96\)"),
    ],
)
def test_what_is_no_picture_fails_the_image(module: nn.Module, message: str) -> None:
    with pytest.raises(RestoreFailed, match=message):
        Forward(restorer(module)).run(tiles(1))


def test_autocast_returns_float32_near_the_exact_picture() -> None:
    given = tiles(2)
    exact = Forward(fresh_default()).run(given)
    rough = Forward(fresh_default(), precision="bf16").run(given)
    assert rough[0].dtype == np.float32
    assert 0 < np.abs(rough[0] - exact[0]).max() < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "--precision fp8"),
        ({"precision": "fp16"}, "test does not stand it"),
        ({"batch": 0}, "--batch 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Forward(restorer(Identity(), half=False), **settings)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_gpu_agrees_with_the_cpu(dtype: type) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    given = tiles(20, dtype=dtype)
    exact = Forward(fresh_default()).run(given)
    forward = Forward(fresh_default(), "cuda", batch=8)
    with ThreadPoolExecutor(4) as pool:
        outputs = [pool.submit(forward.run, [tile]) for tile in given]
    for future, wanted in zip(outputs, exact, strict=True):
        assert np.abs(future.result()[0] - wanted).max() < 2 / 255
