"""Frozen dataclasses as JSON, for a process of our own at the other end of a pipe: jobs, with all that is in them.

What JSON has not is an object of one key, such as {"bytes": "..."}; dicts are such objects too, so that none is taken for another.
"""

from __future__ import annotations

import base64
import importlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def to_text(value: Any) -> str:
    """One line. Raises TypeError for what is no data: a dataclass holds data alone, but options of a store may hold anything."""
    return json.dumps(_told(value))


def from_text(text: str) -> Any:
    """What `to_text` was given. For text of our own processes alone: it names the classes that are made of it."""
    return _made(json.loads(text))


def _told(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_told(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _told(item) for key, item in value.items()}}
    kind = type(value)
    if not is_dataclass(kind):
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be told to another process")
    told = {item.name: _told(getattr(value, item.name)) for item in fields(kind)}
    return {"made": [kind.__module__, kind.__qualname__, told]}


def _made(told: Any) -> Any:
    if isinstance(told, list):
        return [_made(item) for item in told]
    if not isinstance(told, dict):
        return told
    ((kind, held),) = told.items()
    if kind == "bytes":
        return base64.b64decode(held)
    if kind == "tuple":
        return tuple(_made(item) for item in held)
    if kind == "dict":
        return {key: _made(item) for key, item in held.items()}
    module, name, values = held
    return getattr(importlib.import_module(module), name)(**{key: _made(item) for key, item in values.items()})
