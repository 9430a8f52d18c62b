"""A small classifier of pictures, trained on the classes of DATA: to count the classes that a generator makes.

Shape letters: N pictures, C channels, H height, W width, F features, K classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Generator, Tensor, nn

from artgen.errors import UsageError
from artgen.models.header import metadata_of

FEATURES = 64
LARGEST_PX = 32
HOLD_OUT = 10
"""One picture in ten, at random, is kept out of training to measure the accuracy on."""
BATCH_IMAGES = 128
EPOCHS, LEAST_STEPS, MOST_STEPS = 6, 100, 4000
MOST_SHIFT_PX = 1
LEARNING_RATE = 3e-3
_HEADER = "artgen_classifier"
_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class ClassifierFacts:
    """Kept as JSON in the safetensors header. height, width in pixels, accuracy: 0..1 on `held` pictures."""

    classes: tuple[str, ...]
    height: int
    width: int
    channels: int
    accuracy: float
    trained: int
    held: int
    seed: int


class Network(nn.Module):
    """Two convolutions and a layer of features; pictures above 32 pixels are averaged down first."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.features = nn.Linear(64 * 7 * 7, FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """uint8 to features_NF."""
        x = pixels_NCHW.float() / 127.5 - 1
        x = F.adaptive_avg_pool2d(x, (min(x.shape[2], LARGEST_PX), min(x.shape[3], LARGEST_PX)))
        x = F.adaptive_avg_pool2d(self.second(self.first(x)), 7)
        return F.relu(self.features(x.flatten(1)))


class Classifier:
    """A trained network with its facts; `sha256` is that of its file."""

    def __init__(self, network: Network, facts: ClassifierFacts) -> None:
        self.network = network.eval().requires_grad_(False)
        self.facts = facts
        self.sha256 = hashlib.sha256(self.to_bytes()).hexdigest()

    @torch.no_grad()
    def look(self, pixels_NCHW: Tensor) -> Tensor:
        """uint8 of the size in the facts to features_NF, float32, on the CPU."""
        device = next(self.network.parameters()).device
        return torch.cat([self.network(part.to(device)).cpu() for part in pixels_NCHW.split(_AT_ONCE)])

    @torch.no_grad()
    def labels(self, features_NF: Tensor) -> Tensor:
        """The class number of each, int64."""
        last = self.network.classes
        return (features_NF.to(last.weight) @ last.weight.T + last.bias).argmax(1).cpu()

    def to_bytes(self) -> bytes:
        """A safetensors file, which `from_bytes` reads."""
        tensors = {name: value.cpu().contiguous() for name, value in self.network.state_dict().items()}
        return save_tensors(tensors, {_HEADER: json.dumps(asdict(self.facts), sort_keys=True)})


def train(
    pixels_NCHW: Tensor, labels_N: Tensor, classes: Sequence[str], *, seed: int = 0, device: str = "cpu"
) -> Classifier:
    """Adam with a falling rate, EPOCHS times through the pictures, at least LEAST_STEPS and at most MOST_STEPS.

    pixels: uint8. Raises UsageError: less than two classes, or fewer pictures than can be held out from.
    """
    images, channels, height, width = pixels_NCHW.shape
    if len(classes) < 2 or images < 2 * HOLD_OUT:
        raise UsageError(
            f"a classifier needs 2 classes and {2 * HOLD_OUT} pictures; DATA has {len(classes)} and {images}: "
            "put each class into a folder of its own, or use another --extractor"
        )
    held = torch.zeros(images, dtype=torch.bool)
    held[torch.randperm(images, generator=Generator().manual_seed(seed))[: images // HOLD_OUT]] = True
    threads = torch.get_num_threads()
    # So small a network gains nothing from more, and its bits would follow their number.
    torch.set_num_threads(1)
    try:
        network = _fitted(pixels_NCHW[~held], labels_N[~held], len(classes), seed, device)
    finally:
        torch.set_num_threads(threads)
    kept = int(held.sum())
    facts = ClassifierFacts(tuple(classes), height, width, channels, 0.0, images - kept, kept, seed)
    trial = Classifier(network, facts)
    right = trial.labels(trial.look(pixels_NCHW[held])) == labels_N[held]
    return Classifier(network, replace(facts, accuracy=round(float(right.double().mean()), 6)))


def _fitted(pixels_NCHW: Tensor, labels_N: Tensor, classes: int, seed: int, device: str) -> Network:
    images, dice = len(pixels_NCHW), Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(pixels_NCHW.shape[1], classes).to(device)
    batch = min(BATCH_IMAGES, max(images // 4, 16))
    steps = min(max(EPOCHS * images // batch, LEAST_STEPS), MOST_STEPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    order = torch.randperm(images, generator=dice)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        if len(order) < batch:
            order = torch.randperm(images, generator=dice)
        rows, order = order[:batch], order[batch:]
        pixels = _shifted(pixels_NCHW[rows], torch.randint(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1, (2,), generator=dice))
        logits = network.classes(network(pixels.to(device)))
        loss = F.cross_entropy(logits, labels_N[rows].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def _shifted(pixels_NCHW: Tensor, by: Tensor) -> Tensor:
    """Down and to the right, with the edges repeated: a class does not depend on some pixels more or less."""
    down, right = by.tolist()
    height, width = pixels_NCHW.shape[2:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    return pixels_NCHW[:, :, rows[:, None], columns]


def from_bytes(data: bytes, name: str) -> Classifier:
    """The classifier in the bytes of a file called `name`. Raises UsageError for any other file."""
    try:
        tensors = load_tensors(data)
        values = json.loads(metadata_of(data)[_HEADER])
        facts = ClassifierFacts(**{**values, "classes": tuple(values["classes"])})
        network = Network(facts.channels, len(facts.classes))
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"{name!r} is not a classifier of artgen ({type(error).__name__}: {reason}); give a classifier.safetensors "
            "that `artgen evaluate gan --extractor classifier --out FOLDER` wrote"
        ) from error
    return Classifier(network, facts)
