from __future__ import annotations

from artgen.records import Source
from artgen.work.listing import Listing


def source(key: str, folder: str) -> Source:
    return Source(key, f"/{folder}/{key}", "file", 0, 10, "", f"v-{folder}-{key}")


def masks_of(keys: list[str], masks: list[str]) -> dict[str, str | None]:
    with Listing("/in", [source(key, "in") for key in keys], [source(key, "masks") for key in masks]) as listed:
        found = {entry.source.key: entry.mask and entry.mask.key for entry in listed.entries(".png")}
        assert listed.masked == sum(mask is not None for mask in found.values())
    return found


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


def test_a_root_that_is_not_utf_8_has_a_digest() -> None:
    with Listing("/in\udce9", [source("a.png", "in")]) as listed:
        assert len(listed.digest()) == 64
