"""The classifier learns what can be learnt, the same again, and goes through a file."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from artgen.errors import UsageError
from artgen.metrics.classifier import Classifier, from_bytes, train

CLASSES = ("left", "right", "top")


def pictures(seed: int, count: int = 240, channels: int = 3) -> tuple[Tensor, Tensor]:
    """A bright half on noise; which half is the class."""
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 120, (count, channels, 28, 36), generator=dice, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=dice)
    pixels[labels == 0, :, :, :18] += 100
    pixels[labels == 1, :, :, 18:] += 100
    pixels[labels == 2, :, :14] += 100
    return pixels, labels


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.set_num_threads(1)
    return train(*pictures(0), CLASSES, seed=5)


def test_it_learns_and_says_how_well(classifier: Classifier) -> None:
    pixels, labels = pictures(1)
    features = classifier.look(pixels)
    assert features.shape == (240, 64)
    assert (classifier.labels(features) == labels).double().mean() > 0.97
    facts = classifier.facts
    assert (facts.trained, facts.held, facts.seed, facts.height, facts.width) == (216, 24, 5, 28, 36)
    assert facts.accuracy > 0.9


def test_labels_at_random_are_told_by_the_accuracy() -> None:
    pixels, labels = pictures(0, 200, 1)
    mixed = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert train(pixels, mixed, CLASSES).facts.accuracy < 0.7


def test_a_class_that_every_tenth_picture_has_is_learnt_too() -> None:
    pixels, labels = pictures(0, 300, 1)
    first, rest = pixels[labels == 0][:15], pixels[labels != 0][:135].view(15, 9, 1, 28, 36)
    turns = torch.cat([first[:, None], rest], 1).flatten(0, 1)
    answers = torch.tensor([0] + 9 * [1]).repeat(15)
    found = train(turns, answers, CLASSES[:2])
    assert (found.labels(found.look(turns)) == answers)[answers == 0].double().mean() > 0.8


def test_it_is_the_same_again_and_leaves_the_global_dice_alone() -> None:
    few = pictures(0, 40, 1)
    first = train(*few, CLASSES, seed=5)
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    again = train(*few, CLASSES, seed=5)
    assert torch.equal(torch.rand(3), wanted)
    assert again.sha256 == first.sha256


def test_through_a_file(classifier: Classifier) -> None:
    data = classifier.to_bytes()
    opened = from_bytes(data, "c.safetensors")
    assert (opened.facts, opened.sha256) == (classifier.facts, classifier.sha256)
    pixels = pictures(2)[0]
    assert torch.equal(opened.look(pixels), classifier.look(pixels))
    for broken in (data[:-1000], b"", b"\x80\x04no", data.replace(b"artgen_classifier", b"artgen_generator_")):
        with pytest.raises(UsageError, match="not a classifier of artgen"):
            from_bytes(broken, "c.safetensors")


def test_too_little_to_learn_from() -> None:
    pixels, labels = pictures(0, 19)
    with pytest.raises(UsageError, match="2 classes and 20 pictures; DATA has 3 and 19"):
        train(pixels, labels, CLASSES)
    with pytest.raises(UsageError, match="DATA has 1 and 240"):
        train(pictures(0)[0], torch.zeros(240, dtype=torch.int64), ("one",))
