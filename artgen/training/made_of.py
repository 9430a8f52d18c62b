"""What a run is made of: RUN/recipe.json and RUN/data.json, and how they differ from what it began with."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Set
from typing import Any

from artgen.storage import atomic, uri

log = logging.getLogger(__name__)
Changed = dict[str, tuple[Any, Any]]
"""What is not as it was, by key, as (before, now)."""


def write_down(
    run: str,
    made_of: Mapping[str, Mapping[str, Any]],
    may_change: Set[str],
    resumed_at: int,
    options: uri.Options | None,
) -> Changed:
    """Writes the files of `made_of` (recipe.json and data.json, by name) and returns what has changed since the run began, which
    it says first.

    may_change: keys of the recipe that a run may go on with at other values without a word. resumed_at: the step that the run
    goes on from, -1 for a new one, which changes nothing. Raises StorageError.
    """
    before = {name: read_json(run, name, options) for name in made_of}
    changed = changes(before, made_of, may_change) if resumed_at >= 0 else {}
    if changed:
        told = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items())
        log.warning("the run goes on from step %d with other settings than so far: %s", resumed_at, told)
    for name, values in made_of.items():
        text = json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False)
        atomic.write(uri.join(run, name), text.encode(), options)
    return changed


def read_json(run: str, name: str, options: uri.Options | None) -> dict[str, Any]:
    """A file of RUN; empty when it is missing, or edited until it is no JSON, and so tells nothing."""
    with contextlib.suppress(ValueError):
        return json.loads(uri.read_or_none(uri.join(run, name), options) or b"{}")
    return {}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], may_change: Set[str]) -> Changed:
    """What decides the weights and is not as it was; both as of recipe.json and data.json.

    A key that one of them does not know is of another version of artgen. The same pictures at another place are no change.
    """
    old, new = before["recipe.json"], json.loads(json.dumps(now["recipe.json"]))  # with lists where tuples were
    keys = [key for key in new if key in old and key not in may_change]
    pairs = {key: (_shown(old[key]), _shown(new[key])) for key in keys}
    changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    old, new = before["data.json"], now["data.json"]
    if old.get("listing", new["listing"]) != new["listing"]:
        changed["DATA"] = (_listed(old), _listed(new))
    elif (before_kept := old.get("trained_on")) and before_kept != new["trained_on"]:
        changed["held out of DATA"] = (f"all but {before_kept[:8]}", f"all but {new['trained_on'][:8]}")
    return changed


def _shown(value: Any) -> Any:
    return uri.shown(value) if isinstance(value, str) else value  # `start` may be a URL with a password


def _listed(data: Mapping[str, Any]) -> str:
    return f"{data.get('images')} images of {','.join(data.get('data', []))} (listing {data['listing'][:8]})"
