"""What is kept of a set: the same however it comes, spread over it, and bounded."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from artgen.errors import StorageError, UsageError
from artgen.metrics import extractors
from artgen.records import Source
from artgen.storage import archive
from artgen.training.gan_data import listed
from artgen.work import picture_set, reference
from artgen.work.picture_set import Found, common_shape, content_hash, listing_hash, look_at, spread
from tests import pictures

PIXELS = torch.randint(0, 256, (60, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_batches_do_not_change_what_is_kept() -> None:
    extractor = extractors.random(1)
    whole = look_at([PIXELS], extractor, 60)
    parts = look_at(PIXELS.split(7), extractor, 60)
    assert whole.statistics.images == parts.statistics.images == 60
    assert torch.allclose(whole.statistics.products_FF, parts.statistics.products_FF, rtol=1e-5, atol=1e-3)
    assert torch.allclose(whole.rows_NF, parts.rows_NF, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("planned", [60, 120])
def test_features_kept_are_few_and_from_everywhere(planned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_set, "MOST_COMPARED", 12)
    extractor = extractors.random(1)
    seen = look_at(PIXELS.split(7), extractor, planned)
    assert seen.statistics.images == 60
    assert len(seen.rows_NF) == 12 * 60 // planned
    every = planned // 12
    wanted = extractor.look(PIXELS[every - 1 :: every]).float()
    assert torch.allclose(seen.rows_NF, wanted[: len(seen.rows_NF)], rtol=1e-4, atol=1e-4)


def test_pictures_are_chosen_from_all_of_a_listing() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 9) == [0, 1, 2]
    assert spread(0, 9) == []


def test_the_hash_of_a_listing_follows_names_contents_and_classes(tmp_path: Path) -> None:
    pictures.write_folder(tmp_path, {"a/1.png": b"one", "b/2.png": b"two"})

    def told(with_classes: bool = False) -> str:
        sources, labels, _ = listed(str(tmp_path), with_classes, None)
        return listing_hash(sources, labels)

    found = [told()]
    assert told() == found[0]
    found.append(told(with_classes=True))
    os.utime(tmp_path / "a" / "1.png", (1, 1))
    found.append(told())
    (tmp_path / "b" / "2.png").rename(tmp_path / "b" / "3.png")
    found.append(told())
    assert len(set(found)) == 4


def test_the_hash_of_contents_follows_bytes_names_and_classes_and_nothing_else(tmp_path: Path) -> None:
    def told(folder: str, with_classes: bool = False) -> str:
        sources, labels, _ = listed(str(tmp_path / folder), with_classes, None)
        return content_hash(sources, labels, threads=2)

    files = {"a/1.png": b"one", "b/2.png": b"two", "b/3.png": b""}  # an empty one cannot be read
    for folder in ("here", "there"):
        pictures.write_folder(tmp_path / folder, files)
    found = [told("here")]
    os.utime(tmp_path / "here" / "a" / "1.png", (1, 1))
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for name in ("a/1.png", "b/2.png"):
            packed.writestr(name, files[name])
    assert told("here") == told("there") == found[0]
    found.append(told("here", with_classes=True))
    path = tmp_path / "there" / "a" / "1.png"
    before = path.stat()
    path.write_bytes(b"ONE")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found.append(told("there"))
    (tmp_path / "here" / "b" / "3.png").unlink()
    found.append(told("here"))
    assert told("packed.zip") == found[-1]
    (tmp_path / "here" / "b" / "2.png").rename(tmp_path / "here" / "b" / "4.png")
    found.append(told("here"))
    assert len(set(found)) == 5


def test_in_a_store_a_listing_stands_for_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive.Reader, "read", lambda *_: pytest.fail("it was fetched"))
    source = Source("1.png", "s3://bucket/1.png", "file", size=3, version="etag-1")
    assert content_hash([source], [""]) == content_hash([source], [""])
    assert content_hash([source], [""]) != content_hash([replace(source, version="etag-2")], [""])


def test_a_reference_goes_through_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    seen = look_at([PIXELS], extractors.random(1), 60)
    kept = reference.Reference(seen, {"bad.png": "DecodeFailed: no"}, 3)
    place = reference.place_of(str(tmp_path), "reference", reference.key_of({"data": "x"}))
    assert reference.read(place) is None
    reference.write(place, reference.to_bytes(kept))
    content = reference.read(place)
    assert content is not None
    found = reference.from_bytes(content)
    assert (found.unusable, found.changed) == (kept.unusable, 3)
    assert found.seen.statistics.images == 60
    for name in ("total_F", "products_FF"):
        assert torch.equal(getattr(found.seen.statistics, name), getattr(seen.statistics, name))
    assert torch.equal(found.seen.rows_NF, seen.rows_NF)
    data = Path(place).read_bytes()
    for broken in (data[:-1], data[:40] + b"\xff" + data[41:], b""):
        Path(place).write_bytes(broken)
        with pytest.raises(StorageError, match="not what was written"):
            reference.read(place)
    for other in (b"", b"\x08" + bytes(40), extractors.__doc__.encode() if extractors.__doc__ else b"x"):
        with pytest.raises(StorageError):
            reference.from_bytes(other)


def test_what_decides_a_reference_is_in_its_key() -> None:
    facts = {"data": "x", "shape": (28, 28, 1), "images": 9, "extractor": "y", "device": "cpu"}
    keys = {reference.key_of({**facts, name: "other"}) for name in facts} | {reference.key_of(facts)}
    assert len(keys) == 6


def webp(alpha: int | None) -> bytes:
    picture, file = Image.new("RGB", (32, 28), (90, 60, 30)), io.BytesIO()
    if alpha is not None:
        picture.putalpha(alpha)
    picture.save(file, "WEBP", lossless=True)
    return file.getvalue()


def found_in(folder: Path) -> Found:
    sources = listed(str(folder), False, None)[0]
    return Found(sources, common_shape(sources, None, 2), fit=False)


def test_a_picture_whose_opaque_alpha_webp_has_dropped_is_one_of_a_set_with_alpha(tmp_path: Path) -> None:
    pictures.write_folder(
        tmp_path, {"0.webp": b"RIFF", "1.webp": webp(255), "2.webp": webp(None), "3.webp": webp(100)}
    )
    found = found_in(tmp_path)
    assert found.shape == (28, 32, 4)
    (pixels,) = found.batches()
    assert pixels[:, :, 0, 0].tolist() == [[90, 60, 30, 255]] * 2 + [[90, 60, 30, 100]]
    assert found.unusable.keys() == {"0.webp"}
    (tmp_path / "3.webp").unlink()
    assert found_in(tmp_path).shape == (28, 32, 3)


def test_pictures_that_differ_otherwise_are_refused(tmp_path: Path) -> None:
    pictures.write_folder(tmp_path, {"1.webp": webp(100), "2.png": pictures.png(Image.new("RGB", (32, 28)))})
    with pytest.raises(UsageError, match=r"'2.png' is 32x28 RGB, the first is 32x28 RGBA"):
        next(found_in(tmp_path).batches())
    with pytest.raises(UsageError, match="holds no picture that can be read"):
        common_shape([], None, 1)
