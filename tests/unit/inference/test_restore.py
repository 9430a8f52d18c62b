from __future__ import annotations

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artgen.errors import ImageTimeout, OutOfMemory, RestoreFailed, UnsupportedImage, UsageError
from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, check_model_fits, restore
from tests.unit.inference.nets import Blur, Identity, Limited, Returns, ShowMask, restorer


def picture(height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    random = np.random.default_rng(height * 1000 + width)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


@settings(max_examples=120)
@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    tile=st.integers(16, 90),
    overlap=st.one_of(st.none(), st.integers(0, 45)),
    channels=st.sampled_from([1, 3]),
    model_channels=st.sampled_from([1, 3]),
    scale=st.sampled_from([1, 1, 2, 3, 4]),
    multiple=st.sampled_from([1, 2, 8, 16]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    ensemble=st.booleans(),
    batch=st.sampled_from([1, 3]),
)
def test_the_identity_model_reconstructs_every_image(
    size: tuple[int, int],
    tile: int,
    overlap: int | None,
    channels: int,
    model_channels: int,
    scale: int,
    multiple: int,
    dtype: type,
    ensemble: bool,
    batch: int,
) -> None:
    before = picture(*size, channels, dtype)
    before.flags.writeable = False  # as a decoder may hand it out
    model = restorer(Identity(scale), channels=model_channels, scale=scale, multiple=multiple)
    options = RestoreOptions(
        tile=tile, overlap=None if overlap is None else min(overlap, tile // 2), ensemble=ensemble
    )
    check_model_fits(model, options, masks=False)
    after = restore(before, None, Forward(model, batch=batch), options).pixels
    assert after.dtype == dtype
    assert np.array_equal(after, before.repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 9), (129, 257)])
def test_tiles_are_multiples_no_smaller_than_the_model_takes_and_hardly_larger_than_the_image(
    size: tuple[int, int],
) -> None:
    module = Identity()
    model = restorer(module, multiple=8, min_size=16)
    restore(picture(*size), None, Forward(model), RestoreOptions(tile=128))
    for shape, whole in zip(module.shapes[0][2:], size, strict=True):
        assert shape % 8 == 0
        assert 16 <= shape <= 128
        assert shape < max(whole, 16) + 8


@pytest.mark.parametrize("tile", [128, 192, 256, 512])
@pytest.mark.parametrize("size", [(300, 517), (512, 768)])
def test_tiled_is_untiled_where_the_halo_is_the_receptive_field(tile: int, size: tuple[int, int]) -> None:
    before = picture(*size)
    forward = Forward(restorer(Blur(), multiple=8, overlap=8))
    whole = restore(before, None, forward, RestoreOptions(tile=1024)).pixels
    tiled = restore(before, None, forward, RestoreOptions(tile=tile)).pixels
    # Float sums of the same numbers may differ in the last bit, and rounding then by one.
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    assert (whole != tiled).mean() < 1e-3


def test_strength_blends_with_the_input() -> None:
    before = picture(90, 70, dtype=np.uint16)
    forward = Forward(restorer(Limited(10**9)))
    full, half, none = (
        restore(before, None, forward, RestoreOptions(tile=64, strength=s)).pixels for s in (1.0, 0.5, 0.0)
    )
    assert np.array_equal(none, before)
    assert not np.array_equal(full, before)
    assert np.abs(half - (before / 2 + full / 2)).max() <= 1


def test_masked_pixels_are_what_the_model_says_and_their_values_never_matter() -> None:
    before = picture(70, 90)
    mask = np.random.default_rng(0).random((70, 90)) < 0.3
    forward = Forward(restorer(ShowMask(), takes_mask=True, multiple=8))
    after = restore(before, mask, forward, RestoreOptions(tile=32)).pixels
    assert (after[mask] == 255).all()
    assert np.array_equal(after[~mask], before[~mask])


@pytest.mark.parametrize(("seamless", "tile", "told"), [(True, 64, False), (False, 64, True), (False, 128, False)])
def test_a_model_that_is_not_made_for_tiles_says_so(seamless: bool, tile: int, told: bool) -> None:
    forward = Forward(restorer(Identity(), seamless=seamless))
    notes = restore(picture(90, 70), None, forward, RestoreOptions(tile=tile)).notes
    assert any("seams may show; raise --tile" in note for note in notes) == told


def test_nothing_of_what_is_masked_comes_back_with_less_strength() -> None:
    before = picture(70, 90)
    mask = np.random.default_rng(0).random((70, 90)) < 0.3
    forward = Forward(restorer(ShowMask(), takes_mask=True, multiple=8))
    after = restore(before, mask, forward, RestoreOptions(tile=32, strength=0.5)).pixels
    assert (after[mask] == 255).all()
    assert np.array_equal(after[~mask], before[~mask])


@pytest.mark.parametrize("ensemble", [False, True])
def test_keep_unmasked_keeps_them_bit_for_bit_and_skips_tiles_without_work(ensemble: bool) -> None:
    class Count(ShowMask):
        calls = 0

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(x, mask) * 0.5

    before = picture(256, 256)
    mask = np.zeros((256, 256), bool)
    mask[3:9, 3:9] = True
    module = Count()
    forward = Forward(restorer(module, takes_mask=True))
    options = RestoreOptions(tile=64, overlap=8, keep_unmasked=True, ensemble=ensemble)
    after = restore(before, mask, forward, options).pixels
    assert np.array_equal(after[~mask], before[~mask])
    assert (after[mask] == 128).all()
    assert module.calls == (8 if ensemble else 1)


@pytest.mark.parametrize("mask", [None, np.zeros((20, 30), bool)])
def test_keep_unmasked_without_anything_masked_keeps_the_picture(mask: np.ndarray | None) -> None:
    forward = Forward(restorer(Returns("nan"), takes_mask=True))
    restored = restore(picture(20, 30), mask, forward, RestoreOptions(keep_unmasked=True))
    assert np.array_equal(restored.pixels, picture(20, 30))
    assert "all pixels kept" in restored.notes[0]


def test_grey_through_a_colour_model_is_the_mean_of_its_channels() -> None:
    class Tint(Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.new_tensor([0.0, 0.3, 0.6])[:, None, None]

    before = np.full((10, 10, 1), 51, np.uint8)
    after = restore(before, None, Forward(restorer(Tint())), RestoreOptions())
    assert after.pixels.shape == (10, 10, 1)
    assert set(after.pixels.ravel().tolist()) <= {127, 128}
    assert after.notes == ()


def test_colour_through_a_grey_model_is_noted() -> None:
    before = picture(40, 30)
    restored = restore(before, None, Forward(restorer(Identity(), channels=1)), RestoreOptions())
    assert np.array_equal(restored.pixels, before)
    assert "channel by channel" in restored.notes[0]


def test_without_memory_tiles_get_smaller_the_image_is_redone_and_later_ones_start_small() -> None:
    before = picture(300, 400)
    options = RestoreOptions(tile=256, overlap=16)
    wanted = restore(before, None, Forward(restorer(Limited(10**9))), options)
    module = Limited(100 * 100)
    forward = Forward(restorer(module), batch=4)
    restored = restore(before, None, forward, options)
    assert np.array_equal(restored.pixels, wanted.pixels)
    assert wanted.notes == ()
    assert restored.notes == ("memory ran out: restored in tiles of 64 px, not 256",)
    assert (forward.tile_limit, forward.batch) == (64, 1)
    module.error = AssertionError("a tile larger than what fits was tried again")
    assert np.array_equal(restore(before, None, forward, options).pixels, wanted.pixels)


def test_without_memory_for_the_smallest_tile_the_run_ends() -> None:
    with pytest.raises(OutOfMemory, match="px on cpu; tiles below 64 px are not tried"):
        restore(picture(300, 400), None, Forward(restorer(Limited(500))), RestoreOptions(overlap=0))


def test_the_deadline_ends_the_image_between_tiles() -> None:
    options = RestoreOptions(tile=64, deadline=time.monotonic() + 0.2)

    class Slow(Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.05)
            return super().forward(x)

    module = Slow()
    with pytest.raises(ImageTimeout, match=r"after \d of \d+ tiles"):
        restore(picture(400, 400), None, Forward(restorer(module)), options)
    assert 1 <= len(module.shapes) <= 5


class Slow(Identity):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.1)
        return super().forward(x)


def test_the_deadline_counts_after_the_last_tile_too() -> None:
    options = RestoreOptions(deadline=time.monotonic() + 0.05)
    with pytest.raises(ImageTimeout, match="after 1 of 1 tiles"):
        restore(picture(40, 40), None, Forward(restorer(Slow())), options)


def test_the_deadline_ends_the_image_between_the_variants_of_one_tile() -> None:
    module = Slow()
    options = RestoreOptions(ensemble=True, deadline=time.monotonic() + 0.25)
    with pytest.raises(ImageTimeout, match="after 0 of 1 tiles"):
        restore(picture(40, 40), None, Forward(restorer(module)), options)
    assert 1 <= len(module.shapes) <= 3


def test_the_variants_of_a_tile_fill_batches() -> None:
    module = Identity()
    restore(picture(40, 60), None, Forward(restorer(module), batch=2), RestoreOptions(ensemble=True))
    assert sorted(module.shapes) == [(2, 3, 40, 60)] * 2 + [(2, 3, 60, 40)] * 2


@pytest.mark.parametrize(("answer", "message"), [("nan", "NaN"), ("small", "where"), ("tuple", "tuple")])
def test_an_answer_that_is_no_picture_fails_the_image(answer: str, message: str) -> None:
    with pytest.raises(RestoreFailed, match=message):
        restore(picture(40, 40), None, Forward(restorer(Returns(answer))), RestoreOptions())


def test_half_precision_is_named_where_it_may_be_the_cause() -> None:
    with pytest.raises(RestoreFailed, match="--precision fp32"):
        restore(picture(40, 40), None, Forward(restorer(Returns("nan")), precision="bf16"), RestoreOptions())


@pytest.mark.parametrize(
    ("pixels", "mask", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), None, r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), None, r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.float32), None, "float32"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), bool), r"the mask is \(5, 4\)"),
    ],
)
def test_other_input_than_pictures_is_refused(pixels: np.ndarray, mask: np.ndarray | None, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        restore(pixels, mask, Forward(restorer(Identity(), takes_mask=True)), RestoreOptions())


@pytest.mark.parametrize(
    ("options", "facts", "masks", "message"),
    [
        ({"tile": 8}, {"min_size": 9, "multiple": 8}, False, "--tile 8: test needs at least 16"),
        ({"overlap": 90, "tile": 100}, {}, False, "at most 75 with --tile 100"),
        ({}, {}, True, "test takes none"),
        ({"keep_unmasked": True}, {"takes_mask": True, "scale": 2}, True, "enlarges 2 times"),
        ({"strength": 0.5}, {"scale": 4}, False, "--strength 0.5: test enlarges 4 times"),
    ],
)
def test_options_that_the_model_cannot_follow_are_refused_early(
    options: dict[str, Any], facts: dict[str, Any], masks: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_model_fits(restorer(Identity(), **facts), RestoreOptions(**options), masks)


def test_a_mask_for_a_model_without_masks_is_refused() -> None:
    with pytest.raises(UsageError, match="takes none"):
        restore(picture(4, 4), np.ones((4, 4), bool), Forward(restorer(Identity())), RestoreOptions())


def test_memory_is_the_output_and_some_bands() -> None:
    before = np.zeros((4000, 6000, 3), np.uint8)
    forward = Forward(restorer(Identity(), multiple=8))
    options = RestoreOptions(tile=256)
    tracemalloc.start()
    restore(before, None, forward, options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    band = 256 * 6000 * 3 * 4
    assert peak < before.nbytes + 2 * band


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (61, 64), (131, 93)])
def test_beyond_its_edges_the_picture_is_mirrored(size: tuple[int, int]) -> None:
    class See(Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x.clone()
            return x

    module = See()
    before = picture(*size)
    restore(before, None, Forward(restorer(module, multiple=8, min_size=64)), RestoreOptions(tile=256))
    missing = [max(-(-length // 8) * 8, 64) - length for length in size]
    pads = [(pad // 16 * 8, pad - pad // 16 * 8) for pad in missing]  # tiles begin on the picture's grid of 8
    rows = np.pad(before, (pads[0], (0, 0), (0, 0)), mode="reflect" if size[0] > 1 else "edge")
    wanted = np.pad(rows, ((0, 0), pads[1], (0, 0)), mode="reflect" if size[1] > 1 else "edge")
    assert np.array_equal(np.round(module.seen[0].permute(1, 2, 0).numpy() * 255), wanted)
