"""GAN architectures by name; apart from the restorers' registry, since nothing can stand for both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from artgen.errors import UsageError
from artgen.models.gans.dcgan import MULTIPLE, DcganDiscriminator, DcganGenerator
from artgen.models.gans.mlp import MlpDiscriminator, MlpGenerator
from artgen.models.gans.r3 import R3Discriminator, R3Generator
from artgen.models.gans.spec import GanFacts
from artgen.text import nearest

_PAIRS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (MlpGenerator, MlpDiscriminator),
    "dcgan": (DcganGenerator, DcganDiscriminator),
    "r3": (R3Generator, R3Discriminator),
}
_MULTIPLES = {"dcgan": MULTIPLE}


def names() -> list[str]:
    """Every architecture."""
    return sorted(_PAIRS)


def build_generator(facts: GanFacts) -> nn.Module:
    """A generator with fresh weights from torch's global generator: (z_BL, labels_B or None) -> x_BCHW.

    Raises UsageError: unknown architecture, parameters or a size that it does not take.
    """
    return _build(facts, 0, facts.params)


def build_discriminator(facts: GanFacts, params: Mapping[str, Any]) -> nn.Module:
    """The discriminator for the generator of `facts`: (x_BCHW, labels_B or None) -> logits_B. Raises UsageError."""
    return _build(facts, 1, params)


def multiple_of(architecture: str) -> int:
    """Of the sides that it makes, in pixels; 1 for one that there is not, which `build_generator` refuses."""
    return _MULTIPLES.get(architecture, 1)


def _build(facts: GanFacts, which: int, params: Mapping[str, Any]) -> nn.Module:
    if facts.architecture not in _PAIRS:
        raise UsageError(f"no GAN is called {facts.architecture!r}; {nearest(facts.architecture, names())}")
    try:
        return _PAIRS[facts.architecture][which](facts, **params)
    except TypeError as error:
        part = ("generator", "discriminator")[which]
        raise UsageError(
            f"the {part} {facts.architecture!r} does not take the parameters {dict(params)!r}: {error}"
        ) from error
