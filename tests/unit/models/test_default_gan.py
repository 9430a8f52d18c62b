"""The generator that the package ships."""

from __future__ import annotations

import hashlib
from importlib import resources

import numpy as np
import pytest

from artgen.inference.sample import sample
from artgen.models.gans.spec import Painter
from artgen.models.gans.weights import load_painter, shipped_names

FOLDER = resources.files("artgen.models").joinpath("weights", "gans")


@pytest.fixture(scope="module")
def default() -> Painter:
    return load_painter("default")


def test_the_file_is_small_and_its_card_tells_which_it_is(default):
    data = FOLDER.joinpath("default.safetensors").read_bytes()
    card = FOLDER.joinpath("default.md").read_text("utf-8")
    assert shipped_names() == ["default"]
    assert len(data) < 5 * 1024**2
    assert hashlib.sha256(data).hexdigest() in card
    assert default.facts.card.endswith("gans/default.md")
    for word in ("Twemoji", "CC-BY 4.0", *default.facts.classes):
        assert word in card


def test_pictures_of_a_class_are_alike_and_none_is_another(default):
    count = len(default.facts.classes)
    pictures = sample(default, range(20 * count)).astype(float).reshape(20, count, -1)
    means = pictures.mean(0)
    within = np.sqrt(((pictures - means) ** 2).mean((0, 2)))  # grey levels, by class
    between = np.sqrt(((means[:, None] - means) ** 2).mean(2))[~np.eye(count, dtype=bool)]
    assert within.min() > 15, "collapsed"
    assert np.median(between) > 40
    assert between.min() > 10


def test_what_is_generated_is_neither_empty_nor_flat(default):
    pictures = sample(default, range(100))
    contrast = pictures.reshape(100, -1).std(1)
    assert (contrast > 25).sum() >= 97, "a light hand may be nearly white, as the card says"
    assert (pictures >= 250).mean() < 0.6
