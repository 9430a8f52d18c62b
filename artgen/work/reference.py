"""What is kept of the real pictures between evaluations: one file for each content, extractor, size and number.

A copy of the pictures is the same content, a picture that was replaced is not, whatever its size and time
(`picture_set.content_hash`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from artgen.errors import StorageError
from artgen.metrics.sets import Statistics
from artgen.models.header import metadata_of
from artgen.storage import atomic, uri
from artgen.work.picture_set import Seen

# Raised whenever the same pictures give other features or statistics than the release before.
FORM = 2
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Reference:
    """unusable: key -> why a picture was left out. changed: how many were cropped, resized or converted."""

    seen: Seen
    unusable: dict[str, str]
    changed: int


def default_folder() -> str:
    """The user's cache, by XDG_CACHE_HOME where it is set."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "artgen")


def key_of(facts: Mapping[str, Any]) -> str:
    """`facts`: all that decides what is kept."""
    return hashlib.sha256(json.dumps({"form": FORM, **facts}, sort_keys=True).encode()).hexdigest()[:32]


def place_of(folder: str, kind: str, key: str) -> str:
    """The file in a cache folder. kind: "reference" or "classifier"; key: as of `key_of`."""
    return uri.join(folder, f"{kind}-{key}")


def read(place: str, options: uri.Options | None = None) -> bytes | None:
    """What `write` put there; None if there is nothing. Raises StorageError when it is not sound."""
    data = uri.read_or_none(place, options)
    if data is None:
        return None
    content = data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        raise StorageError(f"{place}: its content is not what was written")
    return content


def write(place: str, content: bytes, options: uri.Options | None = None) -> None:
    """Whole or not at all. Raises StorageError."""
    atomic.write(place, hashlib.sha256(content).digest() + content, options)


def to_bytes(reference: Reference) -> bytes:
    """What `from_bytes` reads: safetensors, with the counts and reasons in the header."""
    seen = reference.seen
    tensors = {
        "total": seen.statistics.total_F, "products": seen.statistics.products_FF, "rows": seen.rows_NF.contiguous(),
        "classes": seen.classes_K,
    }  # fmt: skip
    told = {
        "images": seen.statistics.images,
        "unusable": reference.unusable,
        "changed": reference.changed,
    }
    return save_tensors(tensors, {"artgen_reference": json.dumps(told)})


def from_bytes(content: bytes) -> Reference:
    """Raises StorageError for what `to_bytes` did not make."""
    try:
        tensors = load_tensors(content)
        told = json.loads(metadata_of(content)["artgen_reference"])
        if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
            raise StorageError("it holds numbers that are not finite")
        kept = Statistics(told["images"], tensors["total"], tensors["products"])
        seen = Seen(kept, tensors["rows"], tensors["classes"])
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{type(error).__name__}: {error}") from error
    return Reference(seen, told["unusable"], told["changed"])
