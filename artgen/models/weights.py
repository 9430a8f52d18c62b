"""From a name, a path or a URL to a restorer that is ready to run; nothing that is read here can run code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

import safetensors
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from artgen.errors import UsageError
from artgen.models import place, registry
from artgen.models.header import metadata_of
from artgen.models.spec import Facts, Restorer
from artgen.storage import uri
from artgen.text import nearest

_IDENTITY = "identity"  # has no weights to ship
_KINDS = "a name, a run folder, a .safetensors file or a .pth file with weights only"


def load(model: str, options: uri.Options | None = None) -> Restorer:
    """The restorer called `model`: a registered name with shipped weights, or a path or fsspec URL of weights.

    A path may be a run folder of `artgen train` or a .safetensors file. Foreign weights (.safetensors without
    facts, or .pth) are recognised by spandrel. `sha256` of the result is that of the weights file. The module
    is fp32, on the CPU, in eval mode. options: of the store, as of `storage.uri`.

    Raises UsageError: unknown name, nothing at the path, another kind of file, weights that do not fit.
    """
    if model in registry.names():
        return _load_named(model)
    suffix = place.suffix_of(model)
    if suffix in place.CODE:
        raise UsageError(
            f"the model {uri.shown(model)!r} is a {suffix} file, which may hold code; give {_KINDS} "
            "(many tools convert: look for 'pth to safetensors')"
        )
    if not suffix and "/" not in model and not uri.exists(model):
        raise UsageError(f"no model is called {model!r}; {nearest(model, registry.names(), _known())}")
    if suffix not in (".safetensors", ".pth"):
        model = place.in_folder(model)
    return _loaded(place.read(model, "model", _KINDS, options), uri.shown(model), is_pth=suffix == ".pth")


def load_bytes(data: bytes, name: str) -> Restorer:
    """The restorer in the bytes of a .safetensors or .pth file called `name`. Raises UsageError."""
    return _loaded(data, name, is_pth=name.endswith(".pth"))


def _loaded(data: bytes, name: str, *, is_pth: bool) -> Restorer:
    sha256 = hashlib.sha256(data).hexdigest()
    facts, tensors = _read_pth(data, name) if is_pth else _read_safetensors(data, name)
    if facts is None:
        # Imported only here: it is an extra, slow to import, and brings torchvision.
        from artgen.models.spandrel import restorer_from

        return restorer_from(tensors, name, sha256)
    return Restorer(_fill(facts, tensors, name), facts, sha256)


def _known() -> str:
    """Which names there are, and which of them are of no use before a training."""
    shipped = [name for name in registry.names() if name == _IDENTITY or _shipped(name).is_file()]
    others = [name for name in registry.names() if name not in shipped]
    return (
        f"shipped: {', '.join(shipped)}; to be trained first: {', '.join(others)} (`artgen train restorer DATA RUN --recipe "
        "NAME`, then --model RUN)"
    )


def _shipped(name: str) -> Traversable:
    return resources.files("artgen.models").joinpath("weights", f"{name}.safetensors")


def _load_named(name: str) -> Restorer:
    if name == _IDENTITY:
        module, facts = registry.build(name)
        return Restorer(module, facts, hashlib.sha256(b"artgen identity").hexdigest())
    file = _shipped(name)
    if not file.is_file():
        raise UsageError(
            f"the model {name!r} has no shipped weights; train it (`artgen train restorer DATA RUN --recipe {name}`) "
            "and give the run folder as --model"
        )
    return load_bytes(file.read_bytes(), str(file))


def _fill(facts: Facts, tensors: Mapping[str, Tensor], name: str) -> nn.Module:
    with torch.device("meta"):  # what a header claims takes no memory before there are tensors for it
        module, built = registry.build(facts.architecture, facts.params)
    if (facts.channels, facts.scale, facts.takes_mask) != (built.channels, built.scale, built.takes_mask):
        raise UsageError(
            f"the facts in the header of {name!r} are not those of its architecture {facts.architecture!r}: channels "
            f"{facts.channels}, scale {facts.scale}, takes_mask {facts.takes_mask} for {built.channels}, {built.scale}, "
            f"{built.takes_mask}; make the file anew with artgen"
        )
    try:
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise UsageError(
            f"the weights in {name!r} do not fit the architecture {facts.architecture!r} with {facts.params!r} "
            f"that their header names: {error}"
        ) from error
    return module.float()


def _read_safetensors(data: bytes, name: str) -> tuple[Facts | None, dict[str, Tensor]]:
    try:
        tensors = load_safetensors(data)
    except safetensors.SafetensorError as error:
        raise UsageError(f"the model {name!r} is not a sound safetensors file: {error}") from error
    text = metadata_of(data).get("artgen")
    if text is None:
        return None, tensors
    try:
        return Facts.from_json(text), tensors
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the facts in the header of {name!r} cannot be read ({error}); they may be of a newer artgen"
        ) from error


def _read_pth(data: bytes, name: str) -> tuple[None, dict[str, Tensor]]:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).split("\n", 1)[0]
        raise UsageError(
            f"the model {name!r} is not a weights-only .pth file ({reason}); it may run code when opened: "
            "get the .safetensors version, or save its state_dict alone"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(
            f"the model {name!r} holds a {type(content).__name__}, not weights; save its state_dict alone"
        )
    return None, content
