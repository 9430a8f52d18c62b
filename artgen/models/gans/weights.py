"""Generators to bytes and back: safetensors with the facts in the header, so nothing that is read can run code."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from importlib import resources
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from artgen.errors import UsageError
from artgen.models import place
from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts, Painter
from artgen.models.header import metadata_of
from artgen.storage import uri

HEADER = "artgen_generator"
_RESTORER_HEADER = "artgen"
_KINDS = "a run folder of `artgen train gan` or a .safetensors file of artgen"


def shipped_names() -> list[str]:
    """Generators that come with the package."""
    ending = ".safetensors"
    return sorted(file.name.removesuffix(ending) for file in _shipped().iterdir() if file.name.endswith(ending))


def load_painter(model: str, options: uri.Options | None = None) -> Painter:
    """The generator called `model`: a shipped name, a run folder, or a path or fsspec URL of a .safetensors file.

    fp32, on the CPU, in eval mode; `sha256` is that of the file. options: of the store, as of `storage.uri`.
    Raises UsageError: no such name, nothing at the path, another kind of file, a restorer, weights that do not fit.
    """
    if model in shipped_names():
        return painter_from(_shipped().joinpath(f"{model}.safetensors").read_bytes(), model)
    suffix = place.suffix_of(model)
    if suffix in (".pth", *place.CODE):
        raise UsageError(f"the model {uri.shown(model)!r} is a {suffix} file, which may hold code; give {_KINDS}")
    weights = model if suffix == ".safetensors" else place.in_folder(model)
    data = place.read(weights, "generator", f"{_KINDS}, {_named(model)}", options)
    return painter_from(data, uri.shown(weights))


def _named(model: str) -> str:
    names = shipped_names()
    near = get_close_matches(model, names, n=1)
    return f"or a name: {', '.join(names)}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _shipped() -> Any:
    return resources.files("artgen.models").joinpath("weights", "gans")


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
    header = metadata_of(data)
    if _RESTORER_HEADER in header:
        raise UsageError(
            f"the model {name!r} is a restorer; use it as in `artgen restore INPUT OUTPUT --model {name}`"
        )
    if (text := header.get(HEADER)) is None:
        raise UsageError(
            f"the model {name!r} is no generator of artgen; give the model.safetensors of `artgen train gan`"
        )
    try:
        facts = GanFacts.from_json(text)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the facts of {name!r} cannot be read ({error}); a newer artgen may know them") from error
    try:
        module = build_generator(facts)
        module.load_state_dict(tensors)
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:  # torch's own, also of a width of -3
        raise UsageError(
            f"the weights in {name!r} do not fit the generator {facts.architecture!r} with {facts.params!r} "
            f"that their header names: {error}"
        ) from error
    return Painter(module.float(), facts, hashlib.sha256(data).hexdigest())
