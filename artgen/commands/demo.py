"""`artgen demo`: damages the free pictures that come with the package, restores them, and says how near they come."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from artgen.commands.damage import damage_one
from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.errors import RunError, UsageError
from artgen.storage import archive, atomic, uri
from artgen.work.listing import Listing

if TYPE_CHECKING:
    from torch import Tensor

# Picture -> what befalls it, in the operators and units of `artgen damage`. The one called broken stays as it is: a JPEG cut short.
DAMAGE: dict[str, dict[str, float]] = {
    "portrait": {"noise": 35},
    "camera": {"noise": 25},
    "cat": {"salt_pepper": 0.4},
    "coffee": {"jpeg": 9},
    "rocket": {"scratches": 0.08},
    "cat-mixture": {"noise": 20, "salt_pepper": 0.05, "jpeg": 40},
}
SEED = 7
MARKER = ".artgen-demo"  # what is not in a folder with it is never removed


class Score(NamedTuple):
    """PSNR of a picture before and after, in dB against the original."""

    picture: str
    damage: str
    before: float
    after: float


def demo(output: str, console: Console) -> int:
    """Fills OUTPUT/damaged and OUTPUT/restored; returns 0 if the run came to its end, with the broken picture as failed row.

    Raises UsageError for an OUTPUT that holds anything and was not filled by `artgen demo`.
    """
    damaged, restored = uri.join(output, "damaged"), uri.join(output, "restored")
    found = uri.names(output)
    if found and MARKER not in found:
        raise UsageError(
            f"OUTPUT {output} is not empty and holds something else than what `artgen demo` makes (there is no {MARKER} in it): "
            "choose an empty or new folder (nothing was changed)"
        )
    atomic.write(uri.join(output, MARKER), b"made by artgen demo, which makes damaged and restored anew\n")
    uri.remove(damaged)
    with as_file(files("artgen") / "demo") as folder:
        _damage(folder, damaged)
        config = RestoreConfig(
            input=uri.join(damaged, "images"), masks=uri.join(damaged, "masks"), output=restored, overwrite=True
        )
        code = restore(config, Console(quiet=True) if console.as_json else console)
        if code not in (0, 3):
            if console.as_json:  # nothing was told on stdout so far
                raise RunError("the restoration ended early: run the same command again, which begins anew")
            return code
        scores = list(_scores(folder, damaged, restored))
    report = uri.join(restored, "report.html")
    facts: dict[str, Any] = {"psnr": [score._asdict() for score in scores], "report": report}
    console.result(facts, _table(scores))
    return 0


def _damage(originals: Path, output: str) -> None:
    from artgen.codecs.decode import decode

    with Listing(str(originals), archive.scan(str(originals))) as listed, archive.Reader() as reader:
        for entry in listed.entries(".png"):
            data = reader.read(entry.source)
            strengths = DAMAGE.get(Path(entry.name).stem)
            if strengths is None:
                atomic.write(uri.join(output, "images", entry.source.key), data)
            else:
                damage_one(entry, decode(data), output, strengths, SEED)


def _scores(originals: Path, damaged: str, restored: str) -> Iterator[Score]:
    from artgen.metrics.pairs import psnr

    for name, strengths in DAMAGE.items():
        clean = _pixels(str(originals / f"{name}.jpg"))
        before, after = (_pixels(uri.join(folder, "images", f"{name}.png")) for folder in (damaged, restored))
        words = ", ".join(f"{kind.replace('_', '-')} {strength:g}" for kind, strength in strengths.items())
        yield Score(name, words, psnr(before, clean), psnr(after, clean))


def _pixels(place: str) -> Tensor:
    import torch

    from artgen.codecs.decode import decode

    data = uri.read_or_none(place)
    if data is None:
        raise RunError(f"{place} was not made: see the failed rows in the report beside it")
    pixels = decode(data).pixels
    return torch.from_numpy(pixels.copy()).float() / 255


def _table(scores: list[Score]) -> str:
    lines = ["", "PSNR against the originals, in dB:"]
    lines += [f"  {s.picture:<12} {s.damage:<41} {s.before:6.2f} -> {s.after:6.2f}" for s in scores]
    gain = fmean(s.after - s.before for s in scores)
    return "\n".join([*lines, f"  on average {gain:.2f} dB nearer"])
