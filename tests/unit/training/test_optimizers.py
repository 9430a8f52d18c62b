from __future__ import annotations

import pytest
import torch
from torch import nn

from artgen.models.restorers.unet import RestoreUNet
from artgen.training.optimizers import NARROW, by_width, make_optimizer


def test_wide_layers_get_a_smaller_share_and_every_weight_is_in_one_group() -> None:
    network = RestoreUNet()
    shares = {id(p): group["share"] for group in by_width(network) for p in group["params"]}
    assert len(shares) == len(list(network.parameters()))
    assert shares[id(network.head.weight)] == 1
    assert shares[id(network.head.bias)] == 1
    middle = network.middle[0].first  # type: ignore[union-attr]
    assert shares[id(middle.weight)] == pytest.approx(NARROW / (192 * 9))
    # 2x2 with stride 2: each place sees one of the four, so 192 products.
    assert shares[id(network.up[-1].weight)] == 1


def test_the_share_decides_how_far_a_step_goes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 80, 3), nn.Conv2d(80, 8, 3))
    optimizer = make_optimizer("mup", network, 1e-3, 0.0)
    before = [p.detach().clone() for p in network.parameters()]
    network(torch.rand(2, 8, 16, 16)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3 * group["share"]
    optimizer.step()
    moved = [(p.detach() - old).abs().median().item() for p, old in zip(network.parameters(), before, strict=True)]
    assert moved == pytest.approx([1e-3, 1e-3, 0.5e-3, 1e-3], rel=1e-3)
