"""Restorers by name: what builds the network and what is true of it before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from artgen.errors import UsageError
from artgen.models.restorers.article import EncoderDecoder
from artgen.models.restorers.dncnn import DnCNN
from artgen.models.restorers.identity import Identity
from artgen.models.restorers.unet import RestoreUNet
from artgen.models.spec import Facts
from artgen.text import nearest


@dataclass(frozen=True, slots=True)
class Architecture:
    """A builder and the facts that hold for every model it builds."""

    build: Callable[..., nn.Module]
    facts: Facts


_ARCHITECTURES: dict[str, Architecture] = {
    "article": Architecture(
        EncoderDecoder,
        Facts(name="article", architecture="article", channels=1, multiple=16, overlap=64, min_size=1),
    ),
    "dncnn": Architecture(DnCNN, Facts(name="dncnn", architecture="dncnn", channels=1, overlap=24)),
    "identity": Architecture(Identity, Facts(name="identity", architecture="identity", overlap=8)),
    "default": Architecture(
        RestoreUNet,
        Facts(name="default", architecture="default", takes_mask=True, multiple=8, overlap=128, min_size=8),
    ),
}


def names() -> list[str]:
    """Every name that `build` knows."""
    return sorted(_ARCHITECTURES)


def build(name: str, params: Mapping[str, Any] | None = None) -> tuple[nn.Module, Facts]:
    """A network with fresh weights (from torch's global generator) and its facts.

    Raises UsageError for an unknown name or for parameters that the architecture does not take, by name or by value.
    """
    if name not in _ARCHITECTURES:
        raise UsageError(f"no model is called {name!r}; {nearest(name, names())}")
    architecture = _ARCHITECTURES[name]
    params = dict(params or {})
    try:
        network = architecture.build(**params)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"the model {name!r} does not take the parameters {params!r}: {error}") from error
    facts = architecture.facts
    multiple = int(getattr(network, "multiple", facts.multiple))
    # A network that takes less than its multiple continues its input by itself; another one takes no less.
    least = facts.min_size if facts.min_size < facts.multiple else multiple
    channels = params.get("channels", facts.channels)
    return network, replace(facts, params=params, channels=channels, multiple=multiple, min_size=least)
