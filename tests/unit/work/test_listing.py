from __future__ import annotations

import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from artgen.errors import StorageError
from artgen.records import Source
from artgen.sinks import manifest
from artgen.work.listing import Listing
from tests.outputs import row

UNIT = "0123abcd-000000"


def source(key: str, folder: str) -> Source:
    return Source(key, f"/{folder}/{key}", "file", 0, 10, "", f"v-{folder}-{key}")


def masks_of(keys: list[str], masks: list[str]) -> dict[str, str | None]:
    with Listing("/in", [source(key, "in") for key in keys], [source(key, "masks") for key in masks]) as listed:
        found = {entry.source.key: entry.mask and entry.mask.key for entry in listed.entries(".png")}
        assert listed.masked == sum(mask is not None for mask in found.values())
    return found


def test_accents_apart_from_their_letters_are_the_same_name() -> None:
    apart, together = unicodedata.normalize("NFD", "Café.jpg"), unicodedata.normalize("NFC", "Café.png")
    assert masks_of([apart], [together]) == {apart: together}


def test_a_mask_has_the_path_of_its_image_or_differs_in_the_extension_alone() -> None:
    assert masks_of(["a/b.jpg", "c.tif", "d.png"], ["a/b.png", "b.png", "c.tif"]) == {
        "a/b.jpg": "a/b.png",
        "c.tif": "c.tif",
        "d.png": None,
    }


def test_the_same_path_comes_before_another_extension() -> None:
    assert masks_of(["a.jpg", "a.png"], ["a.jpg", "a.png"]) == {"a.jpg": "a.jpg", "a.png": "a.png"}
    assert masks_of(["a.png"], ["a.jpg", "a.png"]) == {"a.png": "a.png"}


def test_what_follows_a_dot_need_not_be_an_extension() -> None:
    pages = ["page.001", "page.002", "page.003"]
    assert masks_of(pages, pages) == {page: page for page in pages}
    assert masks_of(pages, ["page.002.png"]) == {"page.001": None, "page.002": "page.002.png", "page.003": None}


def test_masks_that_match_no_image_are_counted() -> None:
    masks = [source(key, "masks") for key in ("a.jpg", "b.png", "d/a.png", "e.png")]
    with Listing("/in", [source(key, "in") for key in ("a.png", "b.png", "c.png")], masks) as listed:
        assert (listed.masked, listed.unmatched) == (2, 2)


def test_a_pair_of_files_belongs_together_whatever_their_names() -> None:
    found, masks = [source("photo.jpg", "in")], [source("drawn.png", "masks")]
    with Listing("/in/photo.jpg", found, masks, paired=True) as listed:
        assert (listed.masked, listed.unmatched) == (1, 0)
        [entry] = listed.entries(".png")
        assert entry.mask == masks[0]
    with Listing("/in/photo.jpg", found, masks) as listed:
        assert (listed.masked, listed.unmatched) == (0, 1)


def test_failed_rows_of_what_is_no_longer_listed(tmp_path: Path) -> None:
    """Of another INPUT they stay: nobody has looked there this time."""
    kept = [("old.png", "ok"), ("gone.png", "failed"), ("b.ta", "failed")]
    containers = [("b.tar", "failed"), ("in.tar", "failed")]
    failed = [row(key, unit=UNIT, status=status, source_uri="/x/in.tar") for key, status in kept + containers]
    elsewhere = row("z.png", unit=UNIT, status="failed", source_uri="/x/in.tar.d/z.png")
    manifest.write(str(tmp_path), UNIT, [*failed, elsewhere])
    with Listing("/x/in.tar", [source("a.png", "in"), source("b.tar/1.png", "in")]) as listed:
        listed.subtract_done(str(tmp_path), retry_failed=False)
        listed.drop_stale(str(tmp_path))
        assert keys_of(tmp_path) == ["b.ta", "gone.png", "old.png", "z.png"]
        assert listed.gone == 0
        listed.subtract_done(str(tmp_path), retry_failed=True)
        listed.drop_stale(str(tmp_path))
        assert keys_of(tmp_path) == ["old.png", "z.png"]
        assert (listed.gone, listed.first_gone) == (2, "gone.png")
        assert listed.count() == 2


def test_the_rest_of_a_torn_archive_of_masks_is_none_of_the_masks() -> None:
    torn = Source("masks.tar", "/masks.tar", "file", problem="the archive breaks off at byte 2048")
    with Listing("/in", [source("a.png", "in")], [source("a.png", "masks"), torn]) as listed:
        assert (listed.masked, listed.unmatched) == (1, 1)
        assert listed.unreadable == ("masks.tar", "the archive breaks off at byte 2048")
    with Listing("/in", [source("a.png", "in")], [source("a.png", "masks"), source("b.png", "masks")]) as listed:
        assert listed.unreadable is None


def keys_of(output: Path) -> list[str]:
    return sorted(key for batch in manifest.read(str(output), ["key"]) for key in batch.column(0).to_pylist())


def test_a_root_that_is_not_utf_8_has_a_digest() -> None:
    with Listing("/in\udce9", [source("a.png", "in")]) as listed:
        assert len(listed.digest()) == 64


def test_units_with_stale_rows_are_rewritten_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that wait for each other: one after the other they never meet."""
    for number in range(40):
        rows = [row(f"{number}-{name}.png", unit=unit_of(number), status=status) for name, status in STALE]
        manifest.write(str(tmp_path), unit_of(number), rows)
    both, drop = threading.Barrier(2, timeout=20), manifest.drop

    def meet(output: str, unit: str, *rest: Any) -> int:
        both.wait()
        return drop(output, unit, *rest)

    monkeypatch.setattr(manifest, "drop", meet)
    with Listing("/in", [source(f"{number}-bad.png", "in") for number in range(40)]) as listed:
        listed.subtract_done(str(tmp_path), retry_failed=True)
        listed.drop_stale(str(tmp_path))
        assert keys_of(tmp_path) == sorted(f"{number}-good.png" for number in range(40))
        assert [entry.attempts for entry in listed.entries(".png")] == [2] * 40


def test_a_unit_that_cannot_be_rewritten_ends_the_run_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        rows = [row(f"{number}-{name}.png", unit=unit_of(number), status=status) for name, status in STALE]
        manifest.write(str(tmp_path), unit_of(number), rows)
    drop = manifest.drop

    def fail(output: str, unit: str, *rest: Any) -> int:
        if unit == unit_of(1):
            raise StorageError("no space left")
        return drop(output, unit, *rest)

    with Listing("/in", [source(f"{number}-bad.png", "in") for number in range(3)]) as listed:
        listed.subtract_done(str(tmp_path), retry_failed=True)
        with monkeypatch.context() as broken:
            broken.setattr(manifest, "drop", fail)
            with pytest.raises(StorageError, match="no space left"):
                listed.drop_stale(str(tmp_path))
        assert "1-bad.png" in keys_of(tmp_path)
        listed.subtract_done(str(tmp_path), retry_failed=True)
        listed.drop_stale(str(tmp_path))
        assert keys_of(tmp_path) == [f"{number}-good.png" for number in range(3)]


STALE = (("good", "ok"), ("bad", "failed"))


def unit_of(number: int) -> str:
    return f"0123abcd-{number:06d}"
