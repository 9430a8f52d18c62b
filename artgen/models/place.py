"""Where weights lie: what the name of the place tells of them, and their bytes."""

from __future__ import annotations

from pathlib import PurePosixPath

from artgen.errors import StorageError, UsageError
from artgen.storage import uri

RUN_WEIGHTS = "model.safetensors"
"""The file in a run folder of `artgen train`."""

CODE = (".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".onnx")
"""Endings of files that may hold code, or that nothing here reads; any other ending may be that of a run folder."""
_ENDINGS = (".safetensors", ".pth")


def suffix_of(model: str) -> str:
    """`.pth` of `https://host/a.pth?signature=...`, and of `https://host/get?file=a.pth`; "" of a folder."""
    ending = PurePosixPath(model.rstrip("/")).suffix.lower()
    if ending in _ENDINGS:
        return ending
    return PurePosixPath(uri.shown(model).rstrip("/")).suffix.lower()


def is_file(model: str) -> bool:
    """Whether the name is that of one file of weights, be it of a kind that is read here or not."""
    return suffix_of(model) in (*_ENDINGS, *CODE)


def in_folder(model: str) -> str:
    """The weights in the run folder `model`; what signs a URL stays behind its path."""
    if uri.is_local(model):
        return uri.join(model, RUN_WEIGHTS)
    path, question, query = model.partition("?")
    return uri.join(path, RUN_WEIGHTS) + question + query


def read(place: str, what: str, kinds: str, options: uri.Options | None = None) -> bytes:
    """The bytes of the file at a path or URL. what: is looked for, and kinds: could be given, in words. Raises UsageError."""
    try:
        data = uri.read_or_none(place, options)
    except StorageError as error:
        raise UsageError(f"the {what} cannot be read: {error}; give {kinds}") from error
    if data is None:
        raise UsageError(f"there is no {what} at {uri.shown(place)!r}; give {kinds}")
    return data
