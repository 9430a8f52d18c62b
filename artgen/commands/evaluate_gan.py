"""`artgen evaluate gan`: how near generated pictures are to DATA, and how much of it they cover, as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from artgen.commands.places import check_writable
from artgen.config import load
from artgen.console import Console
from artgen.errors import StorageError, UsageError
from artgen.storage import atomic, uri

if TYPE_CHECKING:
    from artgen.metrics.classifier import Classifier
    from artgen.metrics.extractors import Extractor
    from artgen.work.gan_evaluation import Fakes, Reals
    from artgen.work.picture_set import Seen
    from artgen.work.reference import Reference

SAMPLES = 10_000
MOST_TOLD = 20
_OF_THE_MACHINE = ("DecoderCrashed", "ImageTimeout", "SourceUnreadable")
"""Why a picture was left out that may be read the next time: what was seen without it is not kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """samples: pictures of MODEL; images: of DATA, at most as many by default. seed: the first seed, and that of the
    classifier and of the kernel distance's subsets. cache: folder (None: the user's). Raises UsageError.
    """

    model: str
    data: str
    samples: int = SAMPLES
    images: int = 0
    seed: int = 0
    truncation: float = 1.0
    extractor: str = ""
    classifier: str | None = None
    cache: str | None = None
    out: str | None = None
    device: str = "auto"
    precision: str = "auto"
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        from artgen.metrics.extractors import KINDS

        for name, value in (("--samples", self.samples), ("--images", self.images or 1)):
            if value < 1:
                raise UsageError(f"{name} is {value}; use 1 or more")
        if not 0 <= self.seed <= 2**63 - self.samples:
            raise UsageError(f"--seed {self.seed} is out of range; use 0 to {2**63 - self.samples}")
        if not 0.0 <= self.truncation <= 1.0:
            raise UsageError(f"--truncation is {self.truncation}; use 0 (the mean picture) to 1 (all variety)")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise UsageError(f"--precision {self.precision}: unknown; use auto, fp32, bf16 or fp16")
        name, _, path = self.extractor.partition(":")
        if self.extractor not in ("", "random", "classifier") and not (name and path):
            raise UsageError(f"--extractor {self.extractor!r} is not known; use {KINDS}")
        if self.classifier is not None and self.extractor not in ("", "classifier"):
            raise UsageError(
                f"--classifier goes with --extractor classifier, not {self.extractor!r}; drop one of them"
            )

    @property
    def kind(self) -> str:
        """Which extractor is used; --classifier alone asks for it."""
        return self.extractor or ("classifier" if self.classifier is not None else "random")


def evaluate_gan(args: dict[str, Any], console: Console) -> int:
    """Returns 0, or 3 if pictures could not be read. Raises UsageError for a wrong model, data, extractor or flag."""
    from artgen.child import cores
    from artgen.engines.local import MOST_FEEDERS
    from artgen.training.pictures import shown_parts
    from artgen.training.rank import pick_device
    from artgen.work import gan_evaluation as evaluation
    from artgen.work.picture_set import look_at

    dry_run, file, sets = args.pop("dry_run", False), args.pop("config", None), args.pop("set", None)
    settings = load(Settings, args, file=file, sets=sets)
    options = settings.storage_options
    device, threads = pick_device(settings.device), min(cores(), MOST_FEEDERS)
    fakes = _fakes(settings, device, threads)
    reals = evaluation.reals_of(
        settings.data, fakes.shape, settings.images or settings.samples,
        with_classes=settings.kind == "classifier" and settings.classifier is None, options=options, threads=threads,
    )  # fmt: skip
    evaluation.check_enough(len(reals.found.sources), fakes.planned)
    if dry_run:
        console.result(_plan(settings, fakes, reals, device))
        return 0
    if settings.out is not None:
        check_writable(settings.out, "", options, "--out")
    cache = Cache(settings, console)
    extractor = _extractor(settings, reals, cache, device)
    reference, kept = cache.reference(reals, extractor, device)
    real = reference.seen.statistics.images
    evaluation.check_enough(real, fakes.planned)
    console.say(f"looking at {fakes.planned} pictures of {fakes.told['model']}")
    seen = look_at(console.counted(fakes.batches(), "looked at", len), extractor, fakes.planned)
    fake = seen.statistics.images
    evaluation.check_enough(real, fake)
    few = evaluation.too_few(extractor, real, fake)
    figures, pairs = evaluation.compare(extractor, reference.seen, seen, settings.seed)
    unusable = {**reals.unlabelled, **reference.unusable}
    facts = {
        **_told(settings, fakes, extractor, device), "cache": kept, "metrics": evaluation.for_json(figures),
        "left_out": {extractor.figure: few} if few else {}, "pairs": pairs,
        "real": {
            "data": shown_parts(settings.data), "sha256": reals.sha256, "listed": reals.listed,
            "images": real, "changed": reference.changed, **_failures(unusable),
        },
    }  # fmt: skip
    facts["fake"] |= {"images": fake, **_failures(fakes.unusable())}
    console.result(facts, table(facts))
    if settings.out is not None:
        try:
            _write_out(settings.out, facts, extractor, options)
        except StorageError as error:  # raised, it would be a second JSON object on stdout
            console.error(str(error))
            return 1
    return 3 if unusable or fakes.unusable() else 0


def _fakes(settings: Settings, device: str, threads: int) -> Fakes:
    from artgen.models.gans.weights import load_painter
    from artgen.work import gan_evaluation as evaluation

    options = uri.options_for(settings.model, settings.storage_options, (settings.data, settings.out or ""))
    if evaluation.are_pictures(settings.model, options):
        if settings.truncation != 1.0 or settings.precision != "auto":
            raise UsageError(
                f"MODEL {uri.shown(settings.model)!r} is pictures, which --truncation and --precision cannot change; "
                "give the generator, or leave both out"
            )
        return evaluation.fakes_of_pictures(settings.model, settings.samples, options, threads)
    painter = load_painter(settings.model, options).to(device)
    seeds = range(settings.seed, settings.seed + settings.samples)
    precision = "fp32" if settings.precision == "auto" else settings.precision
    known = painter.facts.classes
    data_options = settings.storage_options
    classes = evaluation.classes_as_in(settings.data, known, len(seeds), data_options) if known else None
    return evaluation.fakes_of_generator(
        painter, settings.model, seeds, truncation=settings.truncation, precision=precision, classes=classes
    )


def _extractor(settings: Settings, reals: Reals, cache: Cache, device: str) -> Extractor:
    from artgen.metrics import extractors

    height, width, channels = reals.found.shape
    if min(height, width) < extractors.SMALLEST_PX:
        raise UsageError(
            f"the pictures are {width}x{height}; they can be compared from {extractors.SMALLEST_PX} pixels a side on"
        )
    if settings.kind == "random":
        return extractors.random(channels)
    if settings.kind != "classifier":
        return extractors.of_file(settings.kind, device)
    if settings.classifier is None:
        return extractors.of_classifier(cache.classifier(reals, device), device)
    options = uri.options_for(settings.classifier, settings.storage_options, (settings.data, settings.out or ""))
    facts = (given := _given_classifier(settings.classifier, options)).facts
    if (facts.height, facts.width, facts.channels) != reals.found.shape:
        raise UsageError(
            f"the classifier {settings.classifier!r} takes pictures of {facts.width}x{facts.height} with {facts.channels} "
            f"channels, but those of MODEL are {width}x{height} with {channels}; train one on DATA by leaving it out"
        )
    return extractors.of_classifier(given, device)


def _given_classifier(path: str, options: uri.Options | None) -> Classifier:
    from artgen.metrics.classifier import from_bytes

    data = uri.read_or_none(path, options)
    if data is None:
        raise UsageError(
            f"there is no classifier at {path!r}; leave --classifier out to train one on DATA's classes"
        )
    return from_bytes(data, path)


class Cache:
    """What is kept between evaluations; whatever is wrong with it costs time and a line, never the evaluation."""

    def __init__(self, settings: Settings, console: Console) -> None:
        from artgen.work import reference

        self._folder = settings.cache or reference.default_folder()
        self._options = uri.options_for(self._folder, settings.storage_options, (settings.data, settings.model))
        self._seed, self._console, self._say = settings.seed, console, console.say
        self._pixels: Any = None  # of the real pictures, where training a classifier has read them already

    def classifier(self, reals: Reals, device: str) -> Classifier:
        """Trained on DATA's classes, now or by an evaluation before."""
        from artgen.metrics.classifier import from_bytes
        from artgen.work import gan_evaluation, reference

        key = reference.key_of({"data": reals.sha256, "shape": reals.found.shape, "seed": self._seed})
        place = reference.place_of(self._folder, "classifier", key)
        if found := self._read(place, lambda content: from_bytes(content, place)):
            return found
        self._say(f"training a classifier on {len(reals.found.sources)} pictures of DATA")
        made, self._pixels = gan_evaluation.train_classifier(reals, self._seed, device)
        self._write(place, made.to_bytes())
        return made

    def reference(self, reals: Reals, extractor: Extractor, device: str) -> tuple[Reference, dict[str, str]]:
        """What is kept of the real pictures, and where: `from` is "cache" or "made now"."""
        from artgen.work import reference

        facts = {
            "data": reals.sha256, "shape": reals.found.shape, "images": len(reals.found.sources),
            "extractor": extractor.sha256, "name": extractor.name, "resize": extractor.resize,
            "device": "cpu" if extractor.name == "random" else device,
        }  # fmt: skip
        place = reference.place_of(self._folder, "reference", reference.key_of(facts))
        if found := self._read(place, reference.from_bytes):
            return found, {"from": "cache", "file": place}
        self._say(f"looking at {len(reals.found.sources)} pictures of DATA")
        made = reference.Reference(self._look(reals, extractor), dict(reals.found.unusable), reals.found.changed)
        if not any(why.startswith(_OF_THE_MACHINE) for why in made.unusable.values()):
            self._write(place, reference.to_bytes(made))
        return made, {"from": "made now", "file": place}

    def _look(self, reals: Reals, extractor: Extractor) -> Seen:
        from artgen.work.picture_set import BATCH_IMAGES, look_at

        batches = reals.found.batches() if self._pixels is None else self._pixels.split(BATCH_IMAGES)
        return look_at(self._console.counted(batches, "looked at", len), extractor, len(reals.found.sources))

    def _read(self, place: str, opened: Callable[[bytes], Any]) -> Any:
        from artgen.work import reference

        try:
            content = reference.read(place, self._options)
            return None if content is None else opened(content)
        except (StorageError, UsageError) as error:
            self._say(f"the cache file {place} is broken and is made anew ({error})")
            return None

    def _write(self, place: str, content: bytes) -> None:
        from artgen.work import reference

        try:
            reference.write(place, content, self._options)
        except StorageError as error:
            self._say(f"nothing is kept for the next time: {error}; choose another --cache folder")


def _plan(settings: Settings, fakes: Fakes, reals: Reals, device: str) -> dict[str, Any]:
    """What --dry-run prints."""
    from artgen.training.pictures import shown_parts

    height, width, channels = fakes.shape
    return {
        "model": fakes.told["model"], "samples": fakes.planned, "data": shown_parts(settings.data),
        "images": len(reals.found.sources), "listed": reals.listed, "height": height, "width": width,
        "channels": channels, "extractor": settings.kind, "seed": settings.seed, "truncation": settings.truncation,
        "precision": settings.precision, "device": device,
    }  # fmt: skip


def _told(settings: Settings, fakes: Fakes, extractor: Extractor, device: str) -> dict[str, Any]:
    """What makes the figures comparable."""
    height, width, channels = fakes.shape
    return {
        "height": height, "width": width, "channels": channels, "seed": settings.seed, "device": device,
        "extractor": {
            "name": extractor.name, "figure": extractor.figure, "sha256": extractor.sha256, "resize": extractor.resize,
            "features": extractor.features, "note": extractor.note,
        },
        "fake": dict(fakes.told),
    }  # fmt: skip


def _failures(unusable: Any) -> dict[str, Any]:
    return {"unusable": len(unusable), "first_unusable": dict(list(unusable.items())[:MOST_TOLD])}


def _write_out(folder: str, facts: dict[str, Any], extractor: Extractor, options: uri.Options | None) -> None:
    atomic.write(uri.join(folder, "evaluation.json"), json.dumps(facts, indent=1).encode(), options)
    if extractor.classifier is not None:
        atomic.write(uri.join(folder, "classifier.safetensors"), extractor.classifier.to_bytes(), options)


def table(facts: dict[str, Any]) -> str:
    """The figures, one a line, and what they are of."""
    fake, real, extractor = facts["fake"], facts["real"], facts["extractor"]
    seeds = f" (seeds {fake['seeds']}, truncation {fake['truncation']:g})" if "seeds" in fake else ""
    lines = [
        f"{fake['images']} pictures of {fake['model']}{seeds} against {real['images']} of {real['data']}, "
        f"{facts['width']}x{facts['height']}, seen by {extractor['name']} ({extractor['resize']})"
    ]
    for name, value in facts["metrics"].items():
        none = "left out" if name in facts["left_out"] else "infinite"
        shown = none if value is None else value if isinstance(value, int) else f"{value:.6g}"
        lines.append(f"{name:>24} {shown}")
    lines += [f"left out: {reason}" for reason in facts["left_out"].values()]
    lines.append(extractor["note"])
    for side, found in (("DATA", real), ("MODEL", fake)):
        if found["unusable"]:
            key, reason = next(iter(found["first_unusable"].items()))
            lines.append(f"{found['unusable']} of {side} cannot be used, such as {key!r}: {reason}")
    return "\n".join(lines)
