"""What sees the pictures that sets are compared by: fixed random convolutions, Inception, or a small classifier.

Shape letters: N pictures, C channels, H height, W width, F features.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 (the exception only; torch's weights-only reader raises it)

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from artgen.errors import UsageError
from artgen.metrics import cheap_distance, sets
from artgen.metrics.classifier import FEATURES as CLASSIFIER_FEATURES
from artgen.metrics.classifier import Classifier

KINDS = "random, classifier or inception:PATH"
SMALLEST_PX = 16
INCEPTION_PX = 299
INCEPTION_FEATURES = 2048
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
    facts = classifier.facts
    classifier.network.to(device)
    return Extractor(
        "classifier", "fd_classifier", classifier.sha256, CLASSIFIER_FEATURES,
        f"{facts.width}x{facts.height}, averaged down to 32 px where larger",
        f"fd_classifier is of a small classifier of these {len(facts.classes)} classes "
        f"({100 * facts.accuracy:.2f} % right of {facts.held} held out): it is not FID",
        classifier.look, classifier=classifier,
    )  # fmt: skip


def inception(path: str, device: str = "cpu") -> Extractor:
    """The 2048 pooled features of torchvision's inception_v3, with weights from a local file.

    Raises UsageError: no such file, weights that may run code or are of another network.
    """
    from torchvision.models import inception_v3  # only here: it is slow to import

    data = _read(path)
    tensors = {name: value for name, value in _tensors(data, path).items() if not name.startswith("AuxLogits.")}
    if "fc.weight" in tensors and len(tensors["fc.weight"]) == _TENSORFLOW_CLASSES:
        raise UsageError(
            f"{path!r} holds weights ported from TensorFlow ({_TENSORFLOW_CLASSES} classes), which need another network "
            "than torchvision's; give the weights of torchvision's inception_v3"
        )
    network = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path!r} holds no weights of torchvision's inception_v3: {reason}") from error
    network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def look(pixels_NCHW: Tensor) -> Tensor:
        parts = [network(_for_inception(part.to(device))).cpu() for part in pixels_NCHW.split(_AT_ONCE)]
        return torch.cat(parts)

    return Extractor(
        "inception", "fid", hashlib.sha256(data).hexdigest(), INCEPTION_FEATURES,
        f"bicubic, antialiased, to {INCEPTION_PX} px",
        "fid is of torchvision's inception_v3: compare with figures of the same weights and resize only", look,
    )  # fmt: skip


def _for_inception(pixels_NCHW: Tensor) -> Tensor:
    """uint8 to -1..1, N x 3 x 299 x 299: what the weights were trained on (torchvision turns its ImageNet
    normalisation into this one with `transform_input`). Transparent pictures are laid on white.
    """
    x = pixels_NCHW.float()
    if x.shape[1] == 4:
        alpha = x[:, 3:] / 255
        x = x[:, :3] * alpha + 255 * (1 - alpha)
    x = F.interpolate(x.expand(-1, 3, -1, -1), (INCEPTION_PX, INCEPTION_PX), mode="bicubic", antialias=True)
    return x.clamp(0, 255) / 127.5 - 1


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
