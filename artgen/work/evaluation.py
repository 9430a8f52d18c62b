"""How good a restorer is: PSNR and SSIM on pictures whose damage is known, beside classical peers on the same files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from artgen.codecs.encode import to_8_bits
from artgen.codecs.guard import Guard
from artgen.codecs.picture import all_numbers
from artgen.errors import ImageError, UsageError
from artgen.inference.forward import Forward
from artgen.inference.restore import RestoreOptions, restore
from artgen.metrics.pairs import SSIM_WINDOW, psnr, ssim
from artgen.models.spec import Facts, Restorer
from artgen.records import Source
from artgen.storage.archive import Reader
from artgen.tiles.grid import reflected
from artgen.training.data import stable_seed
from artgen.training.degrade import OPERATORS, Damaged, round_to_file
from artgen.training.dice import Dice
from artgen.work.gan_evaluation import for_json

Protocol = Literal["published", "file"]
Repair = Callable[[np.ndarray], np.ndarray]

# What `artgen evaluate restorer` measures unless it is told: the damage of the published tables, and the article's.
DEFAULT_DAMAGE = {
    "noise": (15, 25, 50),
    "salt-pepper": (0.3, 0.5, 0.7),
    "missing": (0.5, 0.8),
    "holes": (0.15,),
    "scratches": (0.05,),
    "jpeg": (10, 20),
}
MASKED = ("missing", "holes", "scratches")


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of damage at one strength (in the units of `artgen damage`)."""

    damage: str
    strength: float

    def __post_init__(self) -> None:
        if self.damage not in OPERATORS:
            raise UsageError(f"damage {self.damage!r} is not known: use one of {', '.join(sorted(OPERATORS))}")


@dataclass(slots=True)
class Scores:
    """Scores of one task: the means over pictures by name (`input`, the model's name, peers), in dB and SSIM."""

    task: Task
    images: int = 0
    psnr: dict[str, list[float]] = field(default_factory=dict)
    ssim: dict[str, list[float]] = field(default_factory=dict)
    panel: tuple[np.ndarray, ...] = ()

    def add(self, name: str, repaired_1CHW: Tensor, clean_1CHW: Tensor) -> None:
        """Scores one picture that `name` repaired; both in [0, 1], the repaired one is clipped to it."""
        self.psnr.setdefault(name, []).append(psnr(repaired_1CHW, clean_1CHW))
        self.ssim.setdefault(name, []).append(ssim(repaired_1CHW, clean_1CHW))

    def means(self) -> dict[str, dict[str, float]]:
        """By name `psnr` and `ssim`; the PSNR is infinite where a picture is perfect."""
        return {name: {"psnr": fmean(self.psnr[name]), "ssim": fmean(self.ssim[name])} for name in self.psnr}


class Evaluation:
    """A restorer to be measured.

    protocol `published`: noise is float and neither clipped nor rounded before the model sees it, the result is clipped
    (as in the papers). `file`: damaged and restored pictures are 8-bit files, as in use. device: of the model; damage,
    scores and peers are always computed on the CPU. missing_peers: not installed; gave_up: of how many pictures a peer made
    nothing and was scored on what it was given. Raises UsageError for a model that enlarges.
    """

    def __init__(
        self,
        restorer: Restorer,
        *,
        protocol: Protocol = "published",
        peers: bool = True,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        facts = restorer.facts
        if facts.scale > 1:
            raise UsageError(
                f"{facts.name} enlarges {facts.scale} times, and a repair is measured at the picture's own size: give a "
                "model of scale 1"
            )
        self._restorer, self._forward = restorer, Forward(restorer, device)
        self._protocol, self._peers, self._seed = protocol, peers, seed
        self.missing_peers: set[str] = set()
        self.gave_up: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """What the restorer's own scores are called."""
        return self._restorer.facts.name

    def run(self, tasks: Iterable[Task], pictures: Iterable[tuple[str, np.ndarray]]) -> list[Scores]:
        """Scores by task over pictures (key, H x W x C uint8), of which one at a time is held. The damage of a picture follows
        from seed, task and key alone.
        """
        results = [Scores(task) for task in tasks]
        for key, pixels_HWC in pictures:
            clean = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None].float() / 255
            for scores in results:
                self._measure(scores, key, clean)
        return results

    def _measure(self, scores: Scores, key: str, clean: Tensor) -> None:
        task = scores.task
        # 15 and 15.0 are one strength.
        dice = Dice(stable_seed(self._seed, "evaluate", task.damage, f"{task.strength:g}", key))
        damaged = OPERATORS[task.damage](clean, task.strength, dice)
        if self._protocol == "file":
            damaged = Damaged(round_to_file(damaged.image), damaged.mask)
        restored = self._restored(damaged)
        scores.images += 1
        scores.add("input", damaged.image, clean)
        scores.add(self.name, restored, clean)
        for name, repair in self._peers_of(task, damaged, clean).items():
            self._add_peer(scores, name, repair, damaged, clean)
        if not scores.panel:
            scores.panel = tuple(_bytes(x) for x in (damaged.image, restored, clean))

    def _restored(self, damaged: Damaged) -> Tensor:
        """The file protocol goes through `inference.restore`, tiles and all; the published one keeps floats."""
        if self._protocol == "file":
            mask = damaged.mask[0, 0].numpy() > 0.5
            masked = mask if self._restorer.facts.takes_mask and mask.any() else None
            restored = restore(_bytes(damaged.image), masked, self._forward, RestoreOptions(tile=4096)).pixels
            return torch.from_numpy(restored).permute(2, 0, 1)[None].float() / 255
        device = self._forward.device
        return restored_whole(self._restorer, damaged.image.to(device), damaged.mask.to(device)).cpu().clamp(0, 1)

    def _peers_of(self, task: Task, damaged: Damaged, clean: Tensor) -> dict[str, Repair]:
        if not self._peers:
            return {}
        try:
            from artgen.metrics import classical
        except ImportError as error:
            raise UsageError(
                f"the classical peers need {error.name}: pip install 'artgen[evaluate]', or --no-peers"
            ) from error
        truth, mask = _plane(clean), _plane(damaged.mask)
        if task.damage.startswith("noise"):
            return {
                "nl-means": lambda image: classical.non_local_means(image, task.strength),
                "bm3d": lambda image: classical.bm3d_known_sigma(image, task.strength),
            }
        if task.damage.startswith("salt-pepper"):
            return {
                "best median": lambda image: classical.best_median(image, truth),
                "adaptive median": lambda image: classical.adaptive_median(image, truth),
                "detect+linear": lambda image: classical.detect_and_interpolate(image, truth),
            }
        if task.damage in MASKED:
            return {
                "telea": lambda image: classical.telea(image, mask),
                "navier-stokes": lambda image: classical.navier_stokes(image, mask),
                "cubic": lambda image: classical.cubic_interpolation(image, mask),
            }
        if task.damage.startswith("jpeg"):
            return {"nl-means": lambda image: classical.non_local_means(image, 60 / math.sqrt(task.strength))}
        if task.damage in (
            "poisson",
            "speckle",
        ):  # noise too, which nl-means is told the size of, as of sigma above
            return {"nl-means": lambda image: classical.non_local_means(image, 255 * float(np.std(image - truth)))}
        return {}

    def _add_peer(self, scores: Scores, name: str, repair: Repair, damaged: Damaged, clean: Tensor) -> None:
        image = _plane(damaged.image)
        try:
            repaired = np.atleast_3d(repair(image))
        except ImportError:
            self.missing_peers.add(name)
            return
        except Exception:  # noqa: BLE001  (whatever libraries raise for a picture that leaves them nothing to go by)
            self.gave_up[name] += 1
            repaired = np.atleast_3d(image)
        scores.add(name, torch.from_numpy(repaired).permute(2, 0, 1)[None], clean)


@torch.inference_mode()
def restored_whole(restorer: Restorer, image_1CHW: Tensor, mask_11HW: Tensor) -> Tensor:
    """The whole picture at once in floats, mirrored up to a size that the model takes; grey through a colour model is
    averaged, colour through a grey one goes channel by channel."""
    facts = restorer.facts
    height, width = image_1CHW.shape[-2:]
    rows, columns = (_mirrored(side, facts).to(image_1CHW.device) for side in (height, width))
    channels = image_1CHW.shape[1]
    given = (
        image_1CHW.expand(-1, facts.channels, -1, -1) if channels <= facts.channels else image_1CHW.transpose(0, 1)
    )
    padded = given[..., rows, :][..., columns].contiguous(memory_format=torch.channels_last)
    mask = mask_11HW[..., rows, :][..., columns].expand(padded.shape[0], -1, -1, -1)
    restored = restorer(padded, mask)[..., :height, :width]
    if channels > facts.channels:
        return restored.transpose(0, 1)
    return restored if channels == facts.channels else restored.mean(1, keepdim=True)


def _mirrored(side: int, facts: Facts) -> Tensor:
    """Places along a side, and mirrored ones behind them until the model takes as many."""
    least = max(side, facts.min_size)
    return torch.from_numpy(reflected(0, least + -least % facts.multiple, side))


def pictures_of(
    sources: Iterable[Source], reader: Reader, guard: Guard, unusable: dict[str, str], most_bytes: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Pictures (key, H x W x C uint8) one after the other; `unusable` is told why others are left out, by key: unreadable,
    larger than `most_bytes`, too small, or with samples that are not numbers."""
    for source in sources:
        try:
            pixels = all_numbers(guard.decode(reader.read(source, most_bytes))).pixels
        except ImageError as error:
            unusable[source.key] = f"{type(error).__name__}: {error}"
            continue
        height, width = pixels.shape[:2]
        if min(height, width) < SSIM_WINDOW:
            unusable[source.key] = f"{width}x{height} is under {SSIM_WINDOW} pixels, which SSIM needs"
            continue
        yield source.key, to_8_bits(pixels)


def _plane(x_1CHW: Tensor) -> np.ndarray:
    return np.squeeze(x_1CHW[0].permute(1, 2, 0).double().numpy())


def _bytes(x_1CHW: Tensor) -> np.ndarray:
    return round_to_file(x_1CHW)[0].permute(1, 2, 0).mul(255).round().to(torch.uint8).contiguous().numpy()


def as_json(scores: Scores) -> dict[str, Any]:
    """The means of one task, an infinite one as null."""
    return {
        "damage": scores.task.damage,
        "strength": float(scores.task.strength),
        "images": scores.images,
        "scores": {name: for_json(found) for name, found in scores.means().items()},
    }
