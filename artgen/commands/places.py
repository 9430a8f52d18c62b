"""INPUT, masks and OUTPUT of a run: that they lie apart, what is told of them, and OUTPUT made ready."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from artgen.config import GenerateConfig, RestoreConfig, RunConfig
from artgen.errors import StorageError, UsageError
from artgen.storage import atomic, uri
from artgen.storage.ledger import Ledger
from artgen.text import plural
from artgen.work import foreign
from artgen.work import plan as plans
from artgen.work.lock import NAME as LOCK

if TYPE_CHECKING:
    from artgen.codecs.credentials import Credentials
    from artgen.work.listing import Listing
    from artgen.work.seed_listing import SeedListing

OVERWRITING = "overwriting"
INDEX = "index"
_ELSEWHERE = "choose a folder that you may write to"
_PLACES = ("input", "output", "masks", "model", "data")


def place(source: str) -> str:
    """What is told and compared of an address: one spelling, and no passwords or signed query strings."""
    return uri.shown(uri.normal(source))


def told(config: RunConfig) -> dict[str, Any]:
    """The configuration as run.json keeps it: without secrets."""
    places = {name: value and uri.shown(value) for name, value in asdict(config).items() if name in _PLACES}
    if places.get("data"):
        # A command without DATA starts without what training needs.
        from artgen.training.pictures import parts_of, shown_parts

        # The report looks for it again, from whatever folder it is made anew.
        parts = [
            os.path.abspath(uri.local_path(p)) if uri.is_local(p) else p for p in parts_of(asdict(config)["data"])
        ]
        places["data"] = shown_parts(parts)
    signing = config.c2pa and ",".join(map(uri.shown, config.c2pa.split(",")))
    return {**asdict(config), **places, "c2pa": signing}


def options_of_model(config: RestoreConfig | GenerateConfig) -> uri.Options | None:
    """--storage-options as far as they are meant for the model, which may lie in another store than the pictures."""
    return uri.options_for(config.model, config.storage_options, (*config.reads, config.output))


def credentials_of(config: RunConfig) -> Credentials | None:
    """What --c2pa names, read and tried. Raises UsageError."""
    if config.c2pa is None:
        return None
    from artgen.codecs.credentials import Credentials, Signer

    credentials = Credentials(*(_pem(part, config.storage_options) for part in config.c2pa.split(",")))
    Signer(credentials)
    return credentials


def _pem(path: str, options: dict[str, Any] | None) -> bytes:
    try:
        data = uri.read_or_none(path, options)
    except StorageError as error:
        raise UsageError(f"--c2pa: {error}") from error
    if data is None:
        raise UsageError(f"--c2pa: there is no file {uri.shown(path)}: give CERT,KEY as two PEM files")
    return data


def check_places(config: RestoreConfig) -> None:
    """INPUT, masks and OUTPUT must be apart, so that no run reads what it writes, or clears what it reads."""
    check_apart(config.output, {"INPUT": config.input, "--masks": config.masks})
    if config.masks is not None and uri.normal(config.masks).startswith(uri.normal(config.input).rstrip("/") + "/"):
        raise UsageError(
            f"--masks {uri.shown(config.masks)} lies in INPUT {uri.shown(config.input)}, and would be restored as pictures: "
            "give an INPUT beside it"
        )


def check_apart(output: str, reads: Mapping[str, str | None]) -> None:
    """That no place of `reads` lies in OUTPUT, nor OUTPUT in it. reads: by what the command calls them; None: not given.

    Raises UsageError.
    """
    target, output = uri.normal(output), uri.shown(output)
    for name, given in reads.items():
        if given is None:
            continue
        source, shown = uri.normal(given), uri.shown(given)
        if source == target or target.startswith(source.rstrip("/") + "/"):
            raise UsageError(f"OUTPUT {output} lies in {name} {shown}: choose an OUTPUT outside of it")
        if source.startswith(target.rstrip("/") + "/"):
            raise UsageError(f"{name} {shown} lies in OUTPUT {output}: choose another OUTPUT")


def check_output(config: RunConfig) -> None:
    """Refuses an OUTPUT that cannot be written or that artgen did not make."""
    check_made_by_artgen(config.output, config.storage_options)
    check_writable(config.output, "_artgen", config.storage_options)


def check_writable(output: str, folder: str, options: uri.Options | None, name: str = "OUTPUT") -> None:
    """Makes `folder` in OUTPUT and tries to write to it. name: what the command calls OUTPUT. Raises UsageError, which names
    OUTPUT and not what was tried.
    """
    try:
        atomic.check_writable(uri.join(output, folder) if folder else output, options)
    except UsageError as error:
        failed = error.__cause__
        if not isinstance(failed, StorageError | OSError):
            raise
        reason = failed.__cause__ or failed
        full = isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = f"free some space or choose another {name}" if full else _ELSEWHERE
        raise UsageError(
            f"{name} {uri.shown(output)} cannot be written to: {uri.explain(reason)}; {fix}"
        ) from error


def check_may_be_made(output: str) -> None:
    """That nothing stands in the way of a local OUTPUT, as far as a look tells. Raises UsageError."""
    if not uri.is_local(output):
        return
    above = uri.local_path(output)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        reason = "it is a file" if above == uri.local_path(output) else f"{above} is no folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        reason = f"you may not write to {above}"
    else:
        return
    raise UsageError(f"OUTPUT {uri.shown(output)} cannot be written to: {reason}; {_ELSEWHERE}")


def check_made_by_artgen(output: str, options: uri.Options | None) -> None:
    """Refuses an OUTPUT that holds other things, or cannot be listed, without a change to it. Raises UsageError."""
    shown = uri.shown(output)
    check_may_be_made(output)
    try:
        found = uri.names(output, options)
    except StorageError as error:
        raise UsageError(f"OUTPUT {shown} cannot be used: {error}") from error
    if "recipe.json" in found:
        raise UsageError(
            f"OUTPUT {shown} is the RUN of a training (it has a recipe.json): choose an empty or new folder "
            "(nothing was changed)"
        )
    if found and "_artgen" not in found:
        raise UsageError(
            f"OUTPUT {shown} is not empty and was not made by artgen: choose an empty or new folder "
            "(nothing was changed)"
        )


def clears_output(config: RunConfig, asked: dict[str, Any]) -> bool:
    """Whether --overwrite is still to clear OUTPUT: not where the same command has done so already and was interrupted."""
    begun = uri.join(config.output, "_artgen", OVERWRITING)
    return config.overwrite and uri.read_or_none(begun, config.storage_options) != _digest(asked)


def left_to_do(
    config: RunConfig, asked: dict[str, Any], listed: Listing | SeedListing, settings: dict[str, Any]
) -> int:
    """Images that a run would do, found without a change to OUTPUT. Raises UsageError where the run would refuse OUTPUT."""
    output, options = config.output, config.storage_options
    check_made_by_artgen(output, options)
    if clears_output(config, asked):
        return listed.count()
    retry_failed = isinstance(config, RestoreConfig) and config.retry_failed
    held = plans.survey(listed, output, settings, retry_failed=retry_failed, options=options)
    return listed.count() if held is None else sum(ref.images for ref in held.pending(Ledger(output, options)))


def clear_output(config: RunConfig, asked: dict[str, Any], say: Callable[[str], None] | None = None) -> None:
    """Removes what killed processes left; on --overwrite all that artgen made (not what it found out about the archives of
    INPUT, which the listing of this run has just used), unless the same command has done so already
    and was interrupted after it. asked: what makes a command another: its settings and what it is to work on.
    say: is told of files among the pictures that artgen did not make, which go as well.

    Rows go first: a crash in between leaves pictures without rows, which are planned again.
    """
    options = config.storage_options
    atomic.sweep(config.output, options)
    if clears_output(config, asked):
        if say is not None and (others := foreign.count(config.output, options)):
            say(f"--overwrite: {plural(others, 'file')} below images/ that artgen did not make will be removed too")
        made = ("images", "parquet", "shards", "grid.png", "interpolation", "report.html")
        for name in ("_artgen/current.json", "manifest", *made):
            uri.remove(uri.join(config.output, *name.split("/")), options)
        for name in uri.names(uri.join(config.output, "_artgen"), options):
            if not name.startswith(LOCK) and name != INDEX:
                uri.remove(uri.join(config.output, "_artgen", name), options)
        atomic.write(uri.join(config.output, "_artgen", OVERWRITING), _digest(asked), options)


def end_overwriting(output: str, options: dict[str, Any] | None) -> None:
    """The run is done: from now on --overwrite means to start anew again."""
    uri.remove(uri.join(output, "_artgen", OVERWRITING), options)


def _digest(asked: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest().encode()
