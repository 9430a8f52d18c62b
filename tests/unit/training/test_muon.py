from __future__ import annotations

import copy

import torch
from torch import nn

from artgen.models.restorers.unet import RestoreUNet
from artgen.training.muon import MATRIX_RATE, Muon, orthogonal


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])


def push(net: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in net.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def test_singular_values_become_nearly_equal():
    torch.manual_seed(0)
    for shape in ((20, 90), (90, 20), (7, 7)):
        faint = torch.randn(shape) * torch.logspace(0, -2, shape[1])
        values = torch.linalg.svdvals(orthogonal(faint))
        assert values.max() < 1.25
        assert values.min() > 0.3  # where the smallest was a hundredth of the largest and less
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_all_output_layers_of_the_default_network_go_by_adamw():
    net = RestoreUNet(widths=(8, 8, 8), blocks=1, middle_blocks=1)
    (vectors,) = [group["params"] for group in Muon(net, 1e-3).param_groups if not group["matrices"]]
    kernels = {id(weight) for weight in vectors if weight.ndim == 4}
    assert kernels == {id(net.head.weight), id(net.tail.weight), id(net.mend[1].weight)}


def test_ends_and_vectors_go_by_adamw():
    ours, theirs = network(), network()
    muon = Muon(ours, 1e-3, weight_decay=0.1)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1)
    for seed in range(5):
        for net, optimizer in ((ours, muon), (theirs, adamw)):
            push(net, seed)
            optimizer.step()
    for name in ("0.weight", "3.weight", "0.bias", "1.bias", "2.bias", "3.bias"):
        torch.testing.assert_close(ours.state_dict()[name], theirs.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(ours[1].weight, theirs[1].weight)


def test_the_first_step_is_as_large_as_that_of_adamw_times_its_rate():
    net = network()
    before = net[1].weight.detach().clone()
    push(net)
    Muon(net, 1e-3).step()
    moved = (net[1].weight.detach() - before).square().mean().sqrt().item()
    assert 0.5 < moved / (MATRIX_RATE * 0.2 * 1e-3) < 1.3


def test_a_saved_optimiser_goes_on_bit_for_bit():
    straight = network()
    first = Muon(straight, 1e-3, 0.01)
    for seed in range(3):
        push(straight, seed)
        first.step()
    resumed = copy.deepcopy(straight)
    second = Muon(resumed, 5.0)  # what it was given is replaced by what was saved
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for net, optimizer in ((straight, first), (resumed, second)):
        push(net, 9)
        optimizer.step()
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
