from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from artgen.models.restorers.unet import RestoreUNet
from artgen.training.firing import revive, silent_share, watched

SILENCED = 5


def half_dead() -> RestoreUNet:
    """A network with something to say whose first block has 5 of 8 hidden units that never fire."""
    torch.manual_seed(0)
    network = RestoreUNet(widths=(8, 8, 8), blocks=1, middle_blocks=1)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.2)
    with torch.no_grad():
        network.encode[0][0].first.bias[:SILENCED] = -100  # type: ignore[index]
    return network


def inputs() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.zeros(4, 1, 32, 32)


def test_units_that_never_fire_are_counted_over_all_passes() -> None:
    network = half_dead()
    x, mask = inputs()
    with watched(network) as highest:
        for some, some_mask in zip(x.split(1), mask.split(1), strict=True):
            network(some, some_mask)
    assert (highest["encode.0.0"] <= 0).sum() == SILENCED
    units = sum(len(top) for top in highest.values())
    silent = sum(int((top <= 0).sum()) for top in highest.values())
    assert silent_share(highest) == pytest.approx(silent / units)
    seen = {name: top.clone() for name, top in highest.items()}
    network(x + 10, mask)  # no longer watched
    assert all(torch.equal(top, seen[name]) for name, top in highest.items())


def test_what_never_fired_begins_anew_and_the_rest_stays_as_it_was() -> None:
    network, (x, mask) = half_dead(), inputs()
    with watched(network) as highest, torch.no_grad():
        before = network(x, mask)
    old = network.encode[0][0].first.weight.detach().clone()  # type: ignore[index]
    assert revive(network, highest) == sum(int((top <= 0).sum()) for top in highest.values()) >= SILENCED
    with watched(network) as highest:
        after = network(x, mask)
    assert torch.equal(before, after)
    assert silent_share(highest) == 0
    new = network.encode[0][0].first.weight  # type: ignore[index]
    assert torch.equal(new[SILENCED:], old[SILENCED:])
    assert not torch.equal(new[:SILENCED], old[:SILENCED])


def test_a_revived_unit_learns() -> None:
    network, (x, mask) = half_dead(), inputs()
    with watched(network) as highest:
        network(x, mask)
    network(x, mask).sum().backward()
    assert not network.encode[0][0].last.weight.grad[:, :SILENCED].any()  # type: ignore[index]
    revive(network, highest)
    network.zero_grad()
    network(x, mask).sum().backward()
    assert network.encode[0][0].last.weight.grad[:, :SILENCED].flatten(2).any(2).all()  # type: ignore[index]


def test_a_network_without_residual_blocks_has_nothing_to_watch() -> None:
    with watched(nn.Conv2d(3, 3, 3)) as highest:
        pass
    with pytest.raises(ValueError, match="no residual block"):
        silent_share(highest)
