"""Who pulls hardest: size and scatter of the gradient for each kind of training damage.

    python bench/gradients.py DATA [--model default] [--crops 96]

Of the model's weights, for crops of one kind alone: the loss, |G| of the mean gradient, and the standard deviation of one
crop's gradient around it (as of the gradient noise scale, McCandlish et al. 2018). Kinds share the steps of a mixture, so a
kind whose share * sd^2 is large drowns the others: it is as if the batch were that much smaller for them. The last column is
that share of the whole, at the shares of the default recipe.
"""

from __future__ import annotations

import argparse
import math

import torch
from measure import table

from artgen.models.weights import load
from artgen.training.data import Crops
from artgen.training.losses import LOSSES
from artgen.training.pictures import Pictures, list_sources
from artgen.training.recipe import load_recipe

AT_ONCE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="default")
    parser.add_argument("--crops", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = load(args.model).module.requires_grad_(True).to(memory_format=torch.channels_last)
    shares = load_recipe("default").damage
    rows = {kind: measured(network, args.data, kind, args.crops) for kind in shares}
    weighted = {kind: shares[kind] * sd**2 for kind, (_, _, sd) in rows.items()}
    table(
        "damage",
        {
            kind: (f"{loss:.4f}", f"{size:.4f}", f"{sd:.4f}", f"{weighted[kind] / sum(weighted.values()):.0%}")
            for kind, (loss, size, sd) in rows.items()
        },
        ("loss", "|G|", "sd of a crop", "of all scatter"),
    )


def measured(network: torch.nn.Module, data: str, kind: str, count: int) -> tuple[float, float, float]:
    """Loss, size of the mean gradient, standard deviation of the gradient of one crop."""
    recipe = load_recipe("default", {"damage": {kind: 1}, "seed": 3})
    passes = count // AT_ONCE
    loss_sum = squares = 0.0
    total = torch.zeros(sum(p.numel() for p in network.parameters()))
    with Pictures(list_sources(data), recipe.patch_px) as pictures:
        crops = Crops(pictures, recipe)
        for number in range(passes):
            batch = crops.batch(number * AT_ONCE, AT_ONCE)
            network.zero_grad(set_to_none=True)
            loss = LOSSES[recipe.loss](network(batch.damaged, batch.mask), batch.clean)
            loss.backward()
            gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            loss_sum += loss.item()
            squares += gradient.square().sum().item()
            total += gradient
    # Unbiased: E|g_B|^2 = |G|^2 + var / B, for the mean of B crops and for that of all.
    small, large = squares / passes, (total / passes).square().sum().item()
    variance = (small - large) / (1 / AT_ONCE - 1 / (AT_ONCE * passes))
    size = math.sqrt(max(large - variance / (AT_ONCE * passes), 0))
    return loss_sum / passes, size, math.sqrt(variance)


if __name__ == "__main__":
    main()
