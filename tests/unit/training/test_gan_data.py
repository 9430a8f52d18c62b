from __future__ import annotations

import shutil
import tarfile
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artgen.codecs.decode import decode
from artgen.codecs.metadata import Metadata
from artgen.codecs.picture import Picture
from artgen.codecs.pool import GuardPool
from artgen.errors import DecoderCrashed, ImageTimeout, UsageError
from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts
from artgen.training import gan_data
from artgen.training.data import epoch_order, stable_seed
from artgen.training.gan_data import RealPictures, fitted, load_real
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_size import sides, size_rule


def recipe(**changes) -> GanRecipe:
    return GanRecipe(**{"batch_images": 2, "shards": 1, **changes})


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    dice = np.random.default_rng(0)
    for name in ("cats/1", "cats/2", "dogs/1", "dogs/2"):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (28, 36, 3), np.uint8)).save(path)
    return folder


def test_a_picture_with_values_that_are_no_numbers_is_left_out(data):
    spoilt = np.full((28, 36), 0.5, np.float32)
    spoilt[3, 4] = np.nan
    Image.fromarray(spoilt).save(data / "nan.tif")
    real = load_real(str(data), recipe())
    assert len(real.pixels_NCHW) == 4
    assert list(real.unusable) == ["nan.tif"]
    assert "not numbers" in real.unusable["nan.tif"]


def test_pictures_of_the_right_size_are_untouched_from_any_input(data, tmp_path):
    with tarfile.open(tmp_path / "data.tar", "w") as tar, zipfile.ZipFile(tmp_path / "data.zip", "w") as zipped:
        for path in sorted(data.rglob("*.png")):
            tar.add(path, str(path.relative_to(data)))
            zipped.write(path, str(path.relative_to(data)))
    loaded = [
        load_real(str(place), recipe(classes=True))
        for place in (data, tmp_path / "data.tar", tmp_path / "data.zip")
    ]
    first = np.array(Image.open(data / "cats" / "1.png"))
    for real in loaded:
        assert real.pixels_NCHW.dtype == torch.uint8
        assert np.array_equal(real.pixels_NCHW[0].permute(1, 2, 0).numpy(), first)
        assert torch.equal(real.pixels_NCHW, loaded[0].pixels_NCHW)
        assert real.classes == ("cats", "dogs")
        assert real.labels_N is not None
        assert real.labels_N.tolist() == [0, 0, 1, 1]
        assert not real.changed
        assert not real.unusable


def test_what_does_not_fit_is_changed_or_left_out_and_listed(data):
    Image.new("RGB", (100, 56), "red").save(data / "wide.png")
    Image.new("L", (36, 28), 77).save(data / "grey.png")
    Image.new("RGBA", (36, 28), (0, 0, 0, 0)).save(data / "clear.png")
    Image.fromarray(np.full((28, 36), 257 * 9, np.uint16)).save(data / "deep.png")
    (data / "broken.png").write_bytes(b"\x89PNG nothing")
    real = load_real(str(data), recipe(height=28, width=36), threads=2)
    assert real.pixels_NCHW.shape == (8, 3, 28, 36)
    assert real.changed == {
        "clear.png": "laid on white",
        "deep.png": "16 bits to 8, L to RGB",
        "grey.png": "L to RGB",
        "wide.png": "cropped, resized from 100x56",
    }
    assert list(real.unusable) == ["broken.png"]
    assert real.unusable["broken.png"].startswith("DecodeFailed")
    by_value = {tuple(pixels[:, 0, 0].tolist()) for pixels in real.pixels_NCHW}
    assert {(255, 0, 0), (77, 77, 77), (255, 255, 255), (9, 9, 9)} <= by_value


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_become_the_channels_of_the_model(channels, mode, tmp_path):
    for source in ("L", "RGB", "RGBA", "LA"):
        image = Image.new("RGBA", (40, 30), (200, 100, 50, 128)).convert(source)
        image.save(tmp_path / f"{source}.png")
        picture = decode((tmp_path / f"{source}.png").read_bytes())
        assert fitted(picture, 28, 30, channels).pixels.shape == (28, 30, channels)
    kept = fitted(decode((tmp_path / "RGBA.png").read_bytes()), 30, 40, channels).pixels[0, 0].tolist()
    white = [round(v * 128 / 255 + 127) for v in (200, 100, 50)]
    grey = Image.new("RGB", (1, 1), tuple(white)).convert("L").getpixel((0, 0))
    assert kept == pytest.approx({1: [grey], 3: white, 4: [200, 100, 50, 128]}[channels], abs=1)


def test_the_middle_is_what_stays():
    pixels = np.zeros((40, 100, 1), np.uint8)
    pixels[:, 30:70] = 200
    picture = Picture(pixels, None, Metadata(), "L", 8, "PNG", ())
    assert (fitted(picture, 40, 40, 1).pixels == 200).all()
    assert (fitted(picture, 28, 28, 1).pixels == 200).all()


def numbered(count: int = 7) -> RealPictures:
    values = (torch.arange(count) % 256).to(torch.uint8)
    ramp = torch.arange(28, dtype=torch.uint8) * 8
    return RealPictures(values[:, None, None, None] + ramp.expand(count, 1, 28, 28), values.long(), (), {}, {})


def test_a_batch_depends_on_its_position_alone_and_an_epoch_shows_every_picture_once():
    real, settings = numbered(), recipe(mirror=True)
    whole = real.batch(settings, 0, 21)
    for first, count in ((0, 5), (5, 9), (14, 7)):
        part = real.batch(settings, first, count)
        assert torch.equal(part.pixels, whole.pixels[first : first + count])
        assert part.labels is not None
        assert whole.labels is not None
        assert torch.equal(part.labels, whole.labels[first : first + count])
    assert whole.labels is not None
    epochs = whole.labels.view(3, 7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    turned = whole.pixels[:, 0, 0, 0] > whole.pixels[:, 0, 0, -1]
    assert 0 < turned.sum() < 21
    assert not (real.batch(recipe(), 0, 21).pixels[:, 0, 0, 0] > 100).any()


def test_the_order_of_an_epoch_is_drawn_once():
    epoch_order.cache_clear()
    real, settings = numbered(1000), recipe(seed=5)
    batches = [real.batch(settings, first, 8) for first in range(0, 2000, 8)]
    assert epoch_order.cache_info().misses == 2
    drawn = [np.random.default_rng(stable_seed(5, "epoch", epoch)).permutation(1000) for epoch in (0, 1)]
    shown = torch.cat([batch.labels for batch in batches if batch.labels is not None])
    assert shown.tolist() == (np.concatenate(drawn) % 256).tolist()


def test_data_that_cannot_be_trained_on_is_a_usage_error(data, tmp_path):
    with pytest.raises(UsageError, match="holds 4 usable pictures, fewer than batch_images 8"):
        load_real(str(data), recipe(batch_images=8))
    one_class = tmp_path / "one"
    shutil.copytree(data / "cats", one_class / "cats")
    with pytest.raises(UsageError, match="all pictures have one, 'cats'"):
        load_real(str(one_class), recipe(classes=True))
    large = tmp_path / "large"
    large.mkdir()
    for number in range(2):
        Image.new("RGB", (300, 200)).save(large / f"{number}.png")
    for changes, message in (({"height": 300}, r"height is 300; use 28 to 256"), ({"width": 20}, "width is 20")):
        with pytest.raises(UsageError, match=message):
            load_real(str(large), recipe(**changes))
    assert load_real(str(large), recipe(height=28, width=42)).pixels_NCHW.shape == (2, 3, 28, 42)


@pytest.mark.parametrize(
    ("model", "size", "changes", "made"),
    [
        ("dcgan", (200, 300), {}, (168, 256)),
        ("r3", (200, 300), {}, (170, 256)),
        ("dcgan", (45, 30), {}, (44, 28)),
        ("mlp", (45, 30), {}, (45, 30)),
        ("dcgan", (10, 4000), {}, (28, 256)),
        ("dcgan", (1, 1), {}, (28, 28)),
        ("r3", (3000, 3001), {}, (255, 256)),
        ("dcgan", (500, 301), {"height": 64}, (64, 256)),
        ("dcgan", (99, 301), {"width": 64}, (96, 64)),
        ("dcgan", (256, 28), {}, (256, 28)),
    ],
)
def test_a_size_that_nobody_set_is_made_one_that_the_architecture_takes(model, size, changes, made):
    settings = recipe(model=model, **changes)
    assert sides(settings, size) == made
    told = size_rule(settings, size, "a.png")
    kept = made == (changes.get("height", size[0]), changes.get("width", size[1]))
    assert (told == "") == kept
    if told:
        assert (
            f"become {made[1]}x{made[0]} pixels, as 'a.png', the first usable one, has {size[1]}x{size[0]}" in told
        )
        assert ("multiples of 4" in told) == (model == "dcgan")
    facts = GanFacts(model, *made, 3, 8)
    with torch.device("meta"):
        build_generator(facts)


def test_pictures_of_many_sizes_are_fitted_to_the_first(tmp_path):
    for number, size in enumerate([(301, 203), (40, 40), (1000, 90)]):
        Image.new("RGB", size, "red").save(tmp_path / f"{number}.png")
    real = load_real(str(tmp_path), recipe(model="dcgan"))
    assert real.pixels_NCHW.shape == (3, 3, 172, 256)
    assert "become 256x172 pixels, as '0.png'" in real.size_rule
    assert real.changed["1.png"] == "cropped, resized from 40x40"
    assert load_real(str(tmp_path), recipe(model="dcgan", height=32, width=32)).size_rule == ""


def test_what_the_first_picture_decides_for_others_is_told_before_the_first_step(tmp_path):
    Image.new("L", (40, 32), 9).save(tmp_path / "0.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    said = "1 of 2 pictures are fitted to the 40x32 pixels and L of '0.png', the first usable one"
    assert load_real(str(tmp_path), recipe(model="dcgan")).size_rule.startswith(said)
    assert "are fitted" in load_real(str(tmp_path), recipe(model="dcgan", height=32, width=32)).size_rule
    assert load_real(str(tmp_path), recipe(model="dcgan", height=32, width=32, channels=1)).size_rule == ""


def test_one_picture_is_too_few(tmp_path):
    Image.new("L", (28, 28), 9).save(tmp_path / "0.png")
    with pytest.raises(UsageError, match="holds 1 usable picture; give at least 2"):
        load_real(str(tmp_path), recipe(batch_images=1))


def test_data_that_memory_cannot_hold_is_refused_once_its_size_is_known(data, monkeypatch):
    decoded = []
    decode = GuardPool.decode
    monkeypatch.setattr(GuardPool, "decode", lambda self, content: decoded.append(content) or decode(self, content))
    (data / "a-broken.png").write_bytes(b"\x89PNG nothing")
    monkeypatch.setattr(gan_data, "available_bytes", lambda: 15_000)
    with pytest.raises(
        UsageError, match=r"5 pictures of DATA take 1\.51e-05 GB .* 36x28 with 3 channels, and 1\.5e-05 GB"
    ):
        load_real(str(data), recipe())
    assert len(decoded) == 2  # the one that is broken, and the first that tells the size
    for left in (15_120, None):
        monkeypatch.setattr(gan_data, "available_bytes", lambda left=left: left)
        assert load_real(str(data), recipe()).pixels_NCHW.shape == (4, 3, 28, 36)


@pytest.mark.parametrize("error", [DecoderCrashed, ImageTimeout])
@pytest.mark.parametrize("which", ["cats/1.png", "dogs/1.png"])  # before the size is known, and among others
def test_a_decoder_that_failed_is_asked_once_more_and_alone(error, which, data, monkeypatch):
    decode, lock, bad = GuardPool.decode, threading.Lock(), (data / which).read_bytes()
    asked, under_way, alone = 0, 0, []

    def failing(self, content):
        nonlocal asked, under_way
        with lock:
            under_way += 1
            asked += content == bad
            alone.append(under_way == 1) if content == bad else None
        try:
            if content == bad and asked <= failures:
                raise error("no memory, say")
            time.sleep(0.02)
            return decode(self, content)
        finally:
            with lock:
                under_way -= 1

    monkeypatch.setattr(GuardPool, "decode", failing)
    failures = 0
    whole = load_real(str(data), recipe(), threads=3)
    asked, alone, failures = 0, [], 1
    again = load_real(str(data), recipe(), threads=3)
    assert (asked, alone[-1]) == (2, True)
    assert torch.equal(again.pixels_NCHW, whole.pixels_NCHW)
    assert (again.listing, again.unusable) == (whole.listing, {})
    asked, failures = 0, 9
    fewer = load_real(str(data), recipe(), threads=3)
    assert (asked, list(fewer.unusable)) == (2, [which])
    assert fewer.listing != whole.listing, "of what was kept"


def test_pictures_are_held_once(tmp_path):
    for number in range(48):
        Image.new("RGB", (256, 256), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    tracemalloc.start()
    real = load_real(str(tmp_path), recipe())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert real.pixels_NCHW.is_contiguous()
    assert real.pixels_NCHW[:, 0, 5, 5].tolist() == list(range(48))
    assert peak < 1.5 * real.pixels_NCHW.nbytes
