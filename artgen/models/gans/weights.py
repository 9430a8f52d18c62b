"""Generators to bytes and back: safetensors with the facts in the header, so nothing that is read can run code."""

from __future__ import annotations

import hashlib
import json

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from artgen.errors import UsageError
from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts, Painter

HEADER = "artgen_generator"


def to_bytes(generator: nn.Module, facts: GanFacts) -> bytes:
    """The weights of a generator as a .safetensors file that `painter_from` reads."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    return save_tensors(tensors, {HEADER: facts.to_json()})


def painter_from(data: bytes, name: str) -> Painter:
    """The generator in the bytes of a file called `name`: fp32, on the CPU, in eval mode.

    Raises UsageError: not a safetensors file, not a generator of artgen, weights that do not fit.
    """
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise UsageError(f"the model {name!r} is not a sound safetensors file: {error}") from error
    # The header is 8 bytes of length and JSON; `load_tensors` has just checked both.
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}).get(HEADER)
    if text is None:
        raise UsageError(
            f"the model {name!r} is no generator of artgen; give the model.safetensors of `artgen train gan`"
        )
    try:
        facts = GanFacts.from_json(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the facts of {name!r} cannot be read ({error}); a newer artgen may know them") from error
    module = build_generator(facts)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise UsageError(
            f"the weights in {name!r} do not fit the generator {facts.architecture!r} with {facts.params!r} "
            f"that their header names: {error}"
        ) from error
    return Painter(module.float(), facts, hashlib.sha256(data).hexdigest())
