"""`artgen report`: the page that a person looks at, made from what a run left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from artgen.codecs.picture import Picture
from artgen.codecs.pool import GuardPool
from artgen.config import MAX_PIXELS
from artgen.console import Console
from artgen.errors import UsageError
from artgen.records import Skipped, Source
from artgen.storage import archive, uri
from artgen.storage.archive import Reader
from artgen.storage.ledger import Ledger
from artgen.text import plural
from artgen.training.pictures import parts_of
from artgen.work import plan as plans
from artgen.work import runlog

DECODE_TIMEOUT_S = 30.0
MOST_SAMPLE = 10_000  # the page holds its pictures, and more would open in no browser


def report(
    output: str, console: Console, *, sample: int | None = None, storage_options: dict[str, Any] | None = None
) -> int:
    """sample: pictures to show; None: as many as the page has by itself. Raises UsageError where OUTPUT holds no run."""
    if sample is not None and not 0 <= sample <= MOST_SAMPLE:
        raise UsageError(f"--sample {sample} is out of range: use 0 to {MOST_SAMPLE} pictures")
    if plans.settings_of(output, storage_options) is None:
        raise UsageError(
            f"{uri.shown(output)} holds no run of artgen (no _artgen/settings.json): give the OUTPUT of an earlier command"
        )
    ledger = Ledger(output, storage_options)
    if torn := ledger.torn:
        console.say(
            f"{plural(len(torn), 'part')} of the manifest cannot be read and is left out, such as part-{torn[0]}.parquet: the "
            "command that made OUTPUT does what is in it anew"
        )
    held = plans.current(output, storage_options)
    left = 0 if held is None else sum(ref.images for ref in held.pending(ledger))
    page = write_report(output, storage_options, sample=sample, left=left)
    console.result({"report": page}, page)
    return 0


def write_report(
    output: str, options: dict[str, Any] | None, *, sample: int | None = None, left: int = 0
) -> str:  # fmt: skip
    """The page of a restoration or of generated pictures, of which `left` are still to be done; returns its address, fit for
    a message. Raises StorageError."""
    from artgen.report import generated, page

    shown = {"left": left} if sample is None else {"left": left, "sample": sample}
    run = runlog.read(output, options) or {}
    if (plans.settings_of(output, options) or {}).get("command") == "generate":
        config = run.get("config") or {}
        data = config.get("data")
        facts = (run.get("model") or {}).get("facts") or {}
        training = None if data is None else lambda: _training(data, facts, options)
        return generated.write(output, seed=config.get("seed", 0), training=training, options=options, **shown)
    most_bytes = archive.most_bytes(page.max_pixels_of(run))
    shown["seed"] = (run.get("config") or {}).get("seed", 0)
    return page.write(
        output, sources=lambda units: _sources(output, units, most_bytes, options), options=options, **shown
    )


def _sources(
    output: str, units: Mapping[str, str], most_bytes: int, options: dict[str, Any] | None
) -> dict[str, Callable[[], bytes]]:
    """Readers of the source bytes of some keys. `units`: by key the unit of its row, which names the plan and the place in
    it: of a billion images only the entries of these units are read.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for key, unit in units.items():
        wanted[unit].add(key)
    reader = Reader(options, uri.join(output, "_artgen", "index"))
    found: dict[str, Callable[[], bytes]] = {}
    for plan in plans.all_plans(output, options):
        entries = plans.PlanReader(plan.folder, options)
        for unit, keys in sorted(wanted.items()):
            if (ref := plan.ref_of(unit)) is None:
                continue
            for entry in entries.load(ref).entries:
                if entry.source.key in keys:
                    found[entry.source.key] = lambda source=entry.source: reader.read(source, most_bytes)
    return found


def _training(
    data: str, facts: Mapping[str, Any], options: dict[str, Any] | None
) -> Iterator[tuple[str, Callable[[], Picture]]]:  # fmt: skip
    """The keys of a training set (DATA as of `artgen train`), and what reads the picture of each, fitted as a model of these
    facts was shown it, while the next is not asked for.
    """
    from artgen.training.gan_data import fitted_picture

    def read(source: Source) -> Picture:
        picture = guards.decode(reader.read(source, archive.most_bytes(MAX_PIXELS)))
        return fitted_picture(picture, facts["height"], facts["width"], facts["channels"])

    guards = GuardPool(1, MAX_PIXELS, DECODE_TIMEOUT_S)
    try:
        with Reader(options) as reader:
            for source in chain.from_iterable(archive.scan(part, options) for part in parts_of(data)):
                if not isinstance(source, Skipped):
                    yield source.key, lambda source=source: read(source)
    finally:
        guards.close()
