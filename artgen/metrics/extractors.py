"""What sees the pictures that sets are compared by: fixed random convolutions, Inception or another classifier of
torchvision, or a small classifier of DATA's own classes.

Shape letters: N pictures, C channels, H height, W width, F features.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (the exception only; torch's weights-only reader raises it)
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.metrics import cheap_distance, sets
from artgen.metrics.classifier import FEATURES as CLASSIFIER_FEATURES
from artgen.metrics.classifier import Classifier
from artgen.text import nearest

KINDS = "random, classifier, inception:PATH, or NAME:PATH with a classifier of torchvision and a local file of its weights"
SMALLEST_PX = 16
INCEPTION_PX = 299
INCEPTION_FEATURES = 2048
CLASSIFIER_PX = 224
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEADS = ("fc", "classifier", "head", "heads")
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # heads that only training uses
_TENSORFLOW_CLASSES = 1008
_AT_ONCE = 32


@dataclass(frozen=True)
class Extractor:
    """look: uint8 N x C x H x W to features_NF on the CPU. distance: the figure called `figure`, of statistics.

    sha256: of what decides the features. resize, note: in words. classifier: None for the others.
    """

    name: str
    figure: str
    sha256: str
    features: int
    resize: str
    note: str
    look: Callable[[Tensor], Tensor]
    distance: Callable[[sets.Statistics, sets.Statistics], float] = sets.frechet
    classifier: Classifier | None = None


def random(channels: int) -> Extractor:
    """Needs no weights and knows no kinds of things; its figure is that of the log of `artgen train gan`."""
    recipe = f"artgen random features 1, {channels} channels"
    return Extractor(
        "random", cheap_distance.NAME, hashlib.sha256(recipe.encode()).hexdigest(), cheap_distance.FEATURES,
        f"averaged down to {cheap_distance.LARGEST_PX} px where larger",
        "fd_random is percent of the real features' variance, of random convolutions: it is not FID",
        cheap_distance.RandomFeatures(channels), cheap_distance.distance,
    )  # fmt: skip


def of_classifier(classifier: Classifier, device: str = "cpu") -> Extractor:
    """Its features before the last layer; moves its network to `device`."""
    facts = classifier.facts
    classifier.network.to(device)
    return Extractor(
        "classifier", "fd_classifier", classifier.sha256, CLASSIFIER_FEATURES,
        f"{facts.width}x{facts.height}, averaged down to 32 px where larger",
        f"fd_classifier is of a small classifier of these {len(facts.classes)} classes "
        f"({100 * facts.accuracy:.2f} % right of {facts.held} held out): it is not FID",
        classifier.look, classifier=classifier,
    )  # fmt: skip


def of_file(kind: str, device: str = "cpu") -> Extractor:
    """`inception:PATH`, or `NAME:PATH` with the name of any classifier of torchvision. Raises UsageError."""
    name, _, path = kind.partition(":")
    return inception(path, device) if name in ("inception", "inception_v3") else torchvisions(name, path, device)


def inception(path: str, device: str = "cpu") -> Extractor:
    """The 2048 pooled features of torchvision's inception_v3, with weights from a local file.

    Raises UsageError: no such file, weights that may run code or are of another network.
    """
    from torchvision.models import inception_v3  # only here: it is slow to import

    data = _read(path)
    tensors = _tensors(data, path)
    if "fc.weight" in tensors and len(tensors["fc.weight"]) == _TENSORFLOW_CLASSES:
        raise UsageError(
            f"{path!r} holds weights ported from TensorFlow ({_TENSORFLOW_CLASSES} classes), which need another network "
            "than torchvision's; give the weights of torchvision's inception_v3"
        )
    network = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    _fill(network, tensors, "inception_v3", path)
    network.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    look = _looking(network, _for_inception, device)
    return Extractor(
        "inception", "fid", hashlib.sha256(data).hexdigest(), INCEPTION_FEATURES,
        f"bicubic, antialiased, to {INCEPTION_PX} px",
        "fid is of torchvision's inception_v3: compare with figures of the same weights and resize only", look,
    )  # fmt: skip


def torchvisions(name: str, path: str, device: str = "cpu") -> Extractor:
    """What the last linear layer of a classifier of torchvision is given, with weights from a local file; that layer's own
    weights may be of any number of classes.

    Raises UsageError: no such classifier, one without such a layer, no such file, weights that may run code or do not fit.
    """
    from torchvision import models

    known = models.list_models(module=models)  # classifiers alone; others would fetch the weights of their backbone
    if name not in known:
        hint = nearest(name, known, f"use {KINDS}")
        raise UsageError(f"--extractor {name}:{path}: torchvision has no classifier called {name!r}; {hint}")
    data = _read(path)
    # torchvision's weights of googlenet were trained on another scale, and its own builder says so wherever they are named.
    plain = {"aux_logits": False, "init_weights": False, "transform_input": True} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **plain)
    head = _without_head(network, name)
    tensors = {key: value for key, value in _tensors(data, path).items() if not key.startswith(f"{head.place}.")}
    _fill(network, tensors, name, path)
    return Extractor(
        name, f"fd_{name}", hashlib.sha256(data).hexdigest(), head.features,
        f"bicubic, antialiased, to {CLASSIFIER_PX} px",
        f"fd_{name} is of the features of torchvision's {name} before its last layer: it is not FID",
        _looking(network, _for_imagenet, device),
    )  # fmt: skip


class _Head(NamedTuple):
    place: str
    features: int


def _without_head(network: nn.Module, name: str) -> _Head:
    """Puts nothing in the place of the last linear layer of the head; returns where it was and what it was given."""
    layers = [
        (place, layer)
        for place, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and place.split(".")[0] in _HEADS
    ]
    if not layers:
        raise UsageError(
            f"the extractor {name!r} does not end in a linear layer, whose input would be its features; "
            "use another, such as resnet50"
        )
    place, last = layers[-1]
    parent, _, own = place.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    return _Head(place, last.in_features)


def _fill(network: nn.Module, tensors: dict[str, Tensor], name: str, path: str) -> None:
    try:
        network.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(_AUXILIARY)})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path!r} holds no weights of torchvision's {name}: {reason}") from error


def _looking(network: nn.Module, prepared: Callable[[Tensor], Tensor], device: str) -> Callable[[Tensor], Tensor]:
    network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def look(pixels_NCHW: Tensor) -> Tensor:
        return torch.cat([network(prepared(part.to(device))).cpu() for part in pixels_NCHW.split(_AT_ONCE)])

    return look


def _for_inception(pixels_NCHW: Tensor) -> Tensor:
    """uint8 to -1..1, N x 3 x 299 x 299: what the weights were trained on (torchvision turns its ImageNet
    normalisation into this one with `transform_input`).
    """
    return _resized(pixels_NCHW, INCEPTION_PX) / 127.5 - 1


def _for_imagenet(pixels_NCHW: Tensor) -> Tensor:
    """uint8 to N x 3 x 224 x 224 by ImageNet's mean and deviation, as torchvision trains its classifiers."""
    x = _resized(pixels_NCHW, CLASSIFIER_PX) / 255
    mean, deviation = (x.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (x - mean) / deviation


def _resized(pixels_NCHW: Tensor, side_px: int) -> Tensor:
    """uint8 to float, 0..255, N x 3 x side x side. Transparent pictures are laid on white."""
    x = pixels_NCHW.float()
    if x.shape[1] == 4:
        alpha = x[:, 3:] / 255
        x = x[:, :3] * alpha + 255 * (1 - alpha)
    x = F.interpolate(x.expand(-1, 3, -1, -1), (side_px, side_px), mode="bicubic", antialias=True)
    return x.clamp(0, 255)


def _read(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(
            f"the weights {path!r} cannot be read ({error.strerror}); give a local .safetensors file, or a .pth file "
            "with weights only"
        ) from error


def _tensors(data: bytes, path: str) -> dict[str, Tensor]:
    try:
        if path.lower().endswith(".safetensors"):
            return load_tensors(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise UsageError(
            f"{path!r} is no sound .safetensors file and no .pth file with weights only ({reason}); a file that may "
            "run code is not opened"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UsageError(
            f"{path!r} holds a {type(content).__name__} that is not a table of weights; save its state_dict"
        )
    return content
