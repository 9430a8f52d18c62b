"""One process among those that train together: its number, its device, its number type, and that all agree."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from artgen.errors import RunError, UsageError
from artgen.inference.precision import bf16_is_fast

log = logging.getLogger(__name__)
AddUp = Callable[[Tensor], object]
"""Adds a flat vector up over all ranks, in place (all_reduce)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rank:
    """This process among those that train together. add_up: None for one alone."""

    number: int = 0
    world: int = 1
    add_up: AddUp | None = None
    threads: int = 1


def check_agreement(step: int, device: torch.device, rank: Rank) -> None:
    """All ranks must have loaded the checkpoint of the same `step`, or their replicas would differ for good.

    Raises RunError, on every rank, when they have not.
    """
    if rank.add_up is None:
        return
    steps = torch.tensor([float(step), float(step) ** 2], dtype=torch.float64)
    steps = steps.to(device if device.type == "cuda" else "cpu")
    rank.add_up(steps)
    if steps.tolist() != [rank.world * step, rank.world * step**2]:
        raise RunError(
            f"rank {rank.number} found a checkpoint of step {step} and others another: RUN must lie where every "
            "node sees it, as on s3:// or a shared file system"
        )


def check_same_pictures(listing: str, images: int, device: torch.device, rank: Rank) -> None:
    """All ranks must have kept the same pictures of DATA, or each would train on another order of them.

    listing: as of `pictures.digest_of`. Raises RunError, on every rank, when they have not.
    """
    told = gathered([images, int(listing[:13] or "0", 16)], device, rank)  # 52 bits, which a float64 holds
    if any(of_rank != told[0] for of_rank in told):
        counts = ", ".join(f"rank {number} {count:.0f}" for number, (count, _) in enumerate(told))
        raise RunError(
            f"the ranks kept different pictures of DATA ({counts}): some could not be read or decoded everywhere; look at the "
            "machines' memory and the storage, and run the same command again"
        )


def gathered(values: Sequence[float], device: torch.device, rank: Rank) -> list[list[float]]:
    """The `values` of every rank, equally many of each, in the order of their numbers."""
    rows = torch.zeros(rank.world, len(values), dtype=torch.float64)
    rows[rank.number] = torch.tensor(values, dtype=torch.float64)
    if rank.add_up is not None:
        rows = rows.to(device if device.type == "cuda" else "cpu")
        rank.add_up(rows.view(-1))
    return rows.tolist()


def from_first(value: float, device: torch.device, rank: Rank) -> float:
    """The `value` of rank 0, on every rank."""
    if rank.add_up is None:
        return value
    told = torch.tensor([value if rank.number == 0 else 0.0], dtype=torch.float64)
    told = told.to(device if device.type == "cuda" else "cpu")
    rank.add_up(told)
    return told.item()


def add_gradients_up(
    network: nn.Module, loss: Tensor, seconds: float, share: float, add_up: AddUp | None
) -> list[float]:
    """Adds gradients, loss and seconds up over all ranks, in one exchange.

    share: of this rank in the batch; running statistics become their mean over the batch, equal on all ranks.
    """
    if add_up is None:
        return [loss.item(), seconds]
    summed = [p.grad for p in network.parameters() if p.grad is not None]
    summed += [statistic.mul_(share) for statistic in running_statistics(network)]
    flat = torch.cat([*(s.flatten() for s in summed), torch.stack([loss, loss.new_tensor(seconds)])])
    add_up(flat)
    *parts, numbers = flat.split([*(s.numel() for s in summed), 2])
    for target, part in zip(summed, parts, strict=True):
        target.copy_(part.view(target.shape))
    return numbers.tolist()


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Those of batch norms: each process makes them of the crops that it passes through at once."""
    return [made for name, made in network.named_buffers() if name.endswith(("running_mean", "running_var"))]


def pick_device(name: str) -> str:
    """`auto` is the first of cuda, mps, cpu that works here. Raises UsageError for one that does not."""
    working = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, works in working.items() if works)
    if not working.get(name.partition(":")[0], False):
        raise UsageError(
            f"device {name!r} is not available here; choose from auto, {', '.join(k for k, w in working.items() if w)}"
        )
    return name


def pick_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of the forward pass, None for fp32; auto: bf16 where the hardware multiplies it fast.

    Raises UsageError for another; for fp16 too, whose small gradients would be lost: the loops scale none.
    """
    kinds = {"fp32": None, "bf16": torch.bfloat16}
    if precision in kinds:
        return kinds[precision]
    if precision == "fp16":
        raise UsageError("precision is 'fp16', in which small gradients become zero: train with bf16 or fp32")
    if precision != "auto":
        raise UsageError(f"precision is {precision!r}; choose auto, fp32 or bf16")
    return torch.bfloat16 if bf16_is_fast(device.type) else None


def agreed_precision(precision: str, device: torch.device, rank: Rank) -> str:
    """What the forward passes of all ranks run in, fp32 or bf16: what `precision` is to rank 0. Raises as pick_dtype."""
    here = "fp32" if pick_dtype(precision, device) is None else "bf16"
    agreed = "bf16" if from_first(float(here == "bf16"), device, rank) else "fp32"
    if here != agreed:
        log.warning("precision %r is %s here and %s on rank 0: %s is used", precision, here, agreed, agreed)
    return agreed
