"""OUTPUT/report.html: the page that a person looks at. One file, no request to anywhere, from the disk or a host."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

from artgen import text
from artgen.codecs.decode import Picture, decode
from artgen.config import MAX_PIXELS, RestoreConfig
from artgen.errors import ArtgenError
from artgen.report.histogram import chart
from artgen.report.pictures import SMALL_PX, Shown, show
from artgen.report.summary import MAX_FAILURES, Group, Summary, summarise
from artgen.sinks import base
from artgen.storage import atomic, uri

NAME = "report.html"
# Data URIs of all pictures together: what a phone still opens without thinking.
PICTURES_BYTES = 13_000_000
_MAX_PICTURE_BYTES = 700_000

_NOT_FLAGS = ("input", "output", "overwrite", "retry_failed", "storage_options")

Sources = Callable[[Mapping[str, str]], Mapping[str, Callable[[], bytes]]]
"""Readers of source bytes by key, for keys and the units that their rows are of."""


@dataclass(frozen=True, slots=True)
class Card:
    """One picture of the page: its manifest row, what is shown of it, and what cannot be shown and why."""

    row: dict[str, Any]
    shown: Shown | None
    problem: str


def write(
    output_uri: str,
    *,
    sample: int = 24,
    seed: int = 0,
    left: int = 0,
    sources: Sources | None = None,
    options: Mapping[str, Any] | None = None,
) -> str:
    """Makes OUTPUT/report.html from the manifest, run.json and at most `sample` pictures; returns its address, fit for a message.

    `sources` takes the keys (and units) of the pictures to be shown and returns readers of their source bytes, for those
    it still has; a picture without one is shown as restored only. Nothing is decoded beyond the run's --max-pixels. left:
    images of the run that are still to be done. The page is the same for the same OUTPUT and `seed`. Memory is flat in the
    number of images. Raises StorageError when OUTPUT cannot be read or written.
    """
    summary = summarise(output_uri, sample=sample, seed=seed, options=options)
    run = run_of(output_uri, options)
    cards = _cards(output_uri, summary.groups, sources, run, options)
    page_uri = uri.join(output_uri, NAME)
    atomic.write(page_uri, render(summary, cards, run, output_uri, left).encode(), options)
    return uri.shown(page_uri)


def render(
    summary: Summary, cards: list[tuple[Group, list[Card]]], run: dict[str, Any], output_uri: str, left: int = 0
) -> str:  # fmt: skip
    """The page as text. Everything that comes from a run is escaped by the template."""
    return (
        environment()
        .get_template("report.html")
        .render(
            style=resource("report.css"),
            script=resource("report.js"),
            headline=headline(summary),
            lede=_lede(summary),
            left=left,
            figures=figures(summary, run, "Restored"),
            summary=summary,
            groups=cards,
            comparable=any(card.shown and card.shown.before for _, some in cards for card in some),
            reasons=summary.reasons.most_common(),
            hidden_failures=max(0, summary.failed - MAX_FAILURES),
            charts=_charts(summary),
            settings=settings_lists(summary, run),
            command=command_of(run, output_uri, "restore", RestoreConfig) + " --retry-failed",
            plural=text.plural,
            small_px=SMALL_PX,
        )
    )


def environment() -> Any:
    """Templates that escape what comes from a run, with the filters of `text`."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("artgen.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(
        visible=text.visible, count=text.count, measure=text.measure, size=text.size, words=text.words
    )
    return made


def resource(name: str) -> str:
    """A style or script of this folder."""
    return resources.files("artgen.report").joinpath(name).read_text("utf-8")


def headline(summary: Summary) -> str:
    """How the run went, in one sentence."""
    restored, failed = summary.restored, summary.failed
    if not summary.images:
        return "There was nothing to restore."
    if not restored:
        return (
            "The picture could not be restored."
            if failed == 1
            else f"None of {text.count(failed)} pictures were restored."
        )
    done = "One picture restored" if restored == 1 else f"{text.count(restored)} pictures restored"
    return f"{done}, {text.count(failed)} failed." if failed else f"{done}."


def _lede(summary: Summary) -> str:
    if not summary.images:
        return "The manifest has no rows: the input held no images, or the run has not finished its first unit."
    if not summary.restored:
        return "Every failure is listed below with its reason. The sources were not touched."
    before, after = summary.noise_before.quantile(0.5), summary.noise_after.quantile(0.5)
    parts = []
    if before is not None and after is not None and after < before:
        subject = "The estimated noise" if summary.restored == 1 else "The median of the estimated noise"
        parts.append(f"{subject} fell from {before:.1f} to {after:.1f}, on a scale of 255.")
    if summary.failed:
        parts.append("What failed is listed with its reason, and can be tried again.")
    return " ".join(parts)


def figures(summary: Summary, run: dict[str, Any], done: str) -> list[tuple[str, str]]:
    """(label, number) of the row of figures under the headline; what is not known is left out. done: `Restored`."""
    runs = _runs(run)
    wall_s = sum(float(entry.get("seconds") or 0) for entry in runs)
    pixels = sum(int(entry.get("pixels") or 0) for entry in runs)
    found = [(done, text.count(summary.restored))]
    if summary.failed:
        found.append(("Failed", text.count(summary.failed)))
    if summary.restored:
        found.append(("Megapixels", text.megapixels(summary.pixels)))
    if wall_s and pixels:
        found.append(("Megapixels per second", text.megapixels(pixels / wall_s)))
    if wall_s:
        label = "Time" if len(runs) == 1 else f"Time of {len(runs)} runs"
        found.append((label, text.duration(wall_s)))
    if summary.output_bytes:
        found.append(("Written", text.size(summary.output_bytes)))
    return found


def _charts(summary: Summary) -> list[tuple[str, str, Any]]:
    if summary.restored < 2:
        return []
    noise = chart({"before": summary.noise_before, "after": summary.noise_after})
    change = chart({"change": summary.change_mean})
    drawn = [
        ("Estimated noise", "Standard deviation, on a scale of 0 to 255", noise),
        ("Mean change", "Absolute difference of a pixel, on a scale of 0 to 255", change),
    ]
    return [item for item in drawn if item[2] is not None]


def settings_lists(summary: Summary, run: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titled lists of (name, value) of what made these pictures; empty values and lists are left out."""
    model = dict(run.get("model") or {})
    facts = dict(model.pop("facts", None) or {})
    if not model and summary.models:
        (name, sha256), _ = summary.models.most_common(1)[0]
        model = {"name": name, "sha256": sha256}
    last = _runs(run)[-1] if _runs(run) else {}
    shown = (
        "architecture",
        "width",
        "height",
        "channels",
        "scale",
        "overlap",
        "latent",
        "classes",
        "damage",
        "licence",
        "card",
    )
    settings = {**(run.get("config") or {}), **(run.get("settings") or {})}
    settings = {name: value for name, value in settings.items() if name not in ("model", "model_sha256")}
    versions = {"artgen": run.get("artgen"), **(run.get("versions") or {})}
    engine = {name: last.get(name) for name in ("engine", "device", "started", "ended")}
    titled = [
        ("Model", model | {name: facts.get(name) for name in shown}),
        ("Settings", settings),
        ("Last run", engine),
        ("Versions", versions),
    ]
    lists = [
        (title, [(name.replace("_", " "), _value(value)) for name, value in items.items()])
        for title, items in titled
    ]
    return [(title, kept) for title, items in lists if (kept := [item for item in items if item[1]])]


def _value(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def command_of(run: dict[str, Any], output_uri: str, name: str, config_class: type[Any]) -> str:
    """The command that made the pictures, with every flag that was not at its default."""
    config = run.get("config") or {}
    source = "input" if name == "restore" else "model"
    words = ["artgen", name, str(config.get(source) or source.upper()), str(config.get("output") or output_uri)]
    for field in fields(config_class):
        value = config.get(field.name)
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if field.name in (*_NOT_FLAGS, source) or value in (None, default):
            continue
        flag = "--" + field.name.replace("_", "-")
        for item in [",".join(value)] if field.name == "classes" else value if isinstance(value, list) else [value]:
            words += [flag] if item is True else [flag, str(item)]
    return shlex.join(words)


def _runs(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in run.get("runs") or [] if isinstance(entry, dict)]


def run_of(output_uri: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """run.json, or nothing: a page without settings is better than none."""
    data = uri.read_or_none(uri.join(output_uri, "_artgen", "run.json"), options)
    try:
        run = json.loads(data or b"{}")
    except ValueError:
        return {}
    return run if isinstance(run, dict) else {}


def max_pixels_of(run: dict[str, Any]) -> int:
    """Of a source: what --max-pixels was in the last run."""
    return (run.get("config") or {}).get("max_pixels") or MAX_PIXELS


def _cards(
    output_uri: str, groups: tuple[Group, ...], sources: Sources | None, run: dict[str, Any],
    options: Mapping[str, Any] | None,
) -> list[tuple[Group, list[Card]]]:  # fmt: skip
    rows = [row for group in groups for row in group.rows]
    readers: Mapping[str, Callable[[], bytes]] = {}
    gone = "The source is no longer at hand"
    if rows and sources is not None:
        try:
            readers = sources({row["key"]: row["unit"] for row in rows})
        except (ArtgenError, OSError) as error:
            gone = f"The sources cannot be read ({error})"
    max_bytes = min(_MAX_PICTURE_BYTES, PICTURES_BYTES // max(1, len(rows)))
    max_pixels, scale = max_pixels_of(run), _scale_of(run)

    def card(row: dict[str, Any]) -> Card:
        try:
            after = decode(
                base.read(output_uri, row["output_uri"] or "", options), max_pixels=max_pixels * scale**2
            )
        except (ArtgenError, OSError) as error:
            return Card(row, None, f"The restored picture cannot be shown: {error}")
        before, problem = _before(readers.get(row["key"]), max_pixels, gone)
        return Card(row, show(before, after, max_bytes), problem)

    return [(group, [card(row) for row in group.rows]) for group in groups]


def _scale_of(run: dict[str, Any]) -> int:
    """How many times an upscaler made the sides of a picture longer."""
    facts = (run.get("model") or {}).get("facts") or {}
    return facts.get("scale") or 1


def _before(reader: Callable[[], bytes] | None, max_pixels: int, gone: str) -> tuple[Picture | None, str]:
    if reader is None:
        return None, f"{gone}: only the result is shown."
    try:
        return decode(reader(), max_pixels=max_pixels), ""
    except (ArtgenError, OSError) as error:
        return None, f"The source can no longer be read ({error}): only the result is shown."
