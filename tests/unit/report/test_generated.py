from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artgen.codecs.decode import Picture, decode
from artgen.errors import ArtgenError, DecodeFailed, StorageError, UsageError
from artgen.report import generated
from tests.outputs import Output, encoded
from tests.unit.report.test_page import HOSTILE, Outline

Listed = Iterator[tuple[str, Callable[[], Picture]]]
RUN: dict[str, Any] = {
    "config": {"model": "run", "output": "out", "seeds": "0-9", "classes": ["cat", "dog"], "truncation": 0.7, "grid": 0},
    "settings": {"command": "generate", "truncation": 0.7},
    "model": {"name": "run", "sha256": "12" * 32, "facts": {"architecture": "r3", "classes": ["cat", "dog"]}},
    "runs": [{"seconds": 4.0, "pixels": 10_000, "engine": "local", "ended": "done"}],
}  # fmt: skip


def colour(seed: int) -> np.ndarray:
    """Flat pictures 20 grey levels apart, with a corner of their own."""
    pixels = np.full((28, 28, 3), 20 * seed, np.uint8)
    pixels[:4, :4] = np.random.default_rng(seed).integers(0, 256, (4, 4, 3))
    return pixels


def filled(output: Output, count: int, **facts: object) -> Output:
    for seed in range(count):
        output.picture(f"seed-{seed:09d}", colour(seed), colour(seed), seed=seed, **{"class_name": "cat", **facts})
    return output.commit(RUN)


def page(output: Output, **settings: Any) -> Outline:
    return Outline(Path(generated.write(output.uri, **settings)).read_text())


def test_a_page_shows_every_picture_its_seed_and_what_made_it(output: Output) -> None:
    found = page(filled(output, 9))
    assert "9 pictures generated." in found.text
    assert [image["alt"] for image in found.all("img")] == [f"Generated from seed {seed}" for seed in range(9)]
    for words in (
        "8, cat",
        "12" * 32,
        "r3",
        "Mean distance of two",
        "--classes cat,dog",
        "--truncation 0.7",
        "Megapixels",
    ):
        assert words in found.text, words
    assert "Nearest training" not in found.text
    assert not [tag for tag, facts in found.tags if "src" in facts and not str(facts["src"]).startswith("data:")]


def test_of_many_some_are_drawn(output: Output) -> None:
    found = page(filled(output, 9), sample=4)
    assert len(found.all("img")) == 4
    assert "4 pictures drawn at random from all." in found.text


def test_the_nearest_training_pictures_are_found(output: Output) -> None:
    def training() -> Listed:
        for seed in (7, 3):
            yield (
                f"train/{seed}.png",
                lambda seed=seed: decode(encoded(np.kron(colour(seed), np.ones((2, 2, 1), np.uint8)))),
            )

    found = page(filled(output, 4), training=training)
    assert "2 training pictures" in found.text
    pairs = [image["alt"] for image in found.all("img")][4:]
    assert pairs[:2] == ["Generated from seed 3", "Training picture train/3.png"]
    assert "seed 3 · train/3.png · distance 0." in found.text
    assert len(pairs) == 8


def test_mirrored_copies_are_found(output: Output) -> None:
    def training() -> Listed:
        yield "turned.png", lambda: decode(encoded(colour(2)[:, ::-1].copy()))

    found = page(filled(output, 4), training=training)
    assert "seed 2 · turned.png mirrored · distance 0." in found.text


def test_of_a_large_training_set_those_looked_at_are_from_all_over_it(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "MOST_TRAINING", 4)
    asked: list[int] = []

    def decoded(number: int) -> Picture:
        asked.append(number)
        if number == 4:
            raise DecodeFailed("no picture")
        return decode(encoded(colour(number)))

    def training() -> Listed:
        for number in range(10):
            yield f"{number}.png", lambda number=number: decoded(number)

    found = page(filled(output, 3), training=training)
    assert asked == [2, 4, 7, 9]
    assert "3 training pictures (spread over the listing of 10), as they are and mirrored" in found.text
    asked.clear()
    monkeypatch.setattr(generated, "MOST_TRAINING", 40)
    assert (
        "9 training pictures (spread" in page(output, training=training).text
    )  # the broken one is told by the numbers
    assert asked == list(range(10))


def test_the_diversity_of_the_training_set_stands_beside_that_of_the_pictures(output: Output) -> None:
    def training() -> Listed:
        for number in range(10):
            yield f"{number}.png", lambda: decode(encoded(np.full((28, 28, 3), 200, np.uint8)))

    alone = page(filled(output, 4)).text
    assert "training" not in alone
    found = page(output, training=training).text
    assert "4 generated pictures, median" in found
    assert "4 training pictures, median 0.0" in found
    assert "The same of training pictures 0.0" in " ".join(found.replace("0.0", " 0.0 ").split())


@pytest.mark.parametrize("error", [StorageError("gone"), UsageError("there is nothing at")])
def test_training_pictures_that_are_gone_cost_only_their_part(output: Output, error: ArtgenError) -> None:
    def training() -> Listed:
        raise error
        yield

    found = page(filled(output, 3), training=training)
    assert "Nearest training pictures" not in found.text
    assert len(found.all("img")) == 3


def test_names_from_outside_are_escaped(output: Output) -> None:
    found = page(filled(output, 2, class_name=HOSTILE))
    assert not found.all("script")
    assert "\u202e" not in found.text


def test_a_picture_that_is_gone_is_said(output: Output) -> None:
    filled(output, 3)
    (output.folder / "images" / "1.png").unlink()
    found = page(output)
    assert len(found.all("img")) == 2
    assert "seed-000000001 cannot be shown" in found.text


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one(output: Output, count: int) -> None:
    found = page(filled(output, count))
    assert ("nothing to generate" in found.text) == (count == 0)
    assert "Diversity" not in found.text


def test_distances_are_root_mean_squares() -> None:
    apart = generated.distances([np.zeros((2, 2, 3)), np.full((2, 2, 3), 3.0), np.full((2, 2, 3), 5.0)])
    assert np.allclose(apart[0, 1:], [3, 5])
    assert np.isinf(np.diag(apart)).all()
    assert generated.mean_distance(apart) == pytest.approx((3 + 5 + 2) / 3)
