from __future__ import annotations

import pytest
import torch

from artgen.models.restorers.filling import box_sum, doubled, fill_missing, fill_where_needed
from artgen.models.restorers.unet import RestoreUNet, impulses


def net() -> RestoreUNet:
    torch.manual_seed(0)
    return RestoreUNet(widths=(8, 8, 8), blocks=1).eval()


def test_filling_keeps_known_pixels_and_a_constant():
    x = torch.rand(1, 3, 32, 32)
    mask = (torch.rand(1, 3, 32, 32) < 0.8).float()
    filled = fill_missing(x, mask)
    assert torch.equal(filled * (1 - mask), x * (1 - mask))
    flat = fill_missing(torch.full((1, 3, 32, 32), 0.6), mask)
    assert (flat - 0.6).abs().max() < 0.02


def test_grey_is_filled_alike_in_one_channel_and_in_three():
    x, mask = torch.rand(1, 1, 16, 16), (torch.rand(1, 1, 16, 16) < 0.5).float()
    three = fill_missing(x.expand(-1, 3, -1, -1), mask.expand(-1, 3, -1, -1))
    assert torch.allclose(three, fill_missing(x, mask).expand_as(three), atol=1e-6)


def test_an_edge_with_holes_stays_sharp():
    """A slanted edge with 70 % of its pixels missing: along it there is all that is needed, across it nothing."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    x = (column - 20 - row / 3).clamp(0, 1)[None, None]
    mask = (torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.7).float()
    error = (fill_missing(x * (1 - mask), mask) - x)[mask > 0]
    assert error.square().mean() < 0.003
    assert torch.quantile(error.abs(), 0.95) < 0.055


def test_filling_nothing_known_is_finite():
    assert torch.isfinite(fill_missing(torch.rand(1, 3, 16, 16), torch.ones(1, 3, 16, 16))).all()


def test_values_under_the_mask_never_matter():
    x, mask = torch.rand(1, 3, 32, 32), (torch.rand(1, 1, 32, 32) < 0.3).float()
    other = torch.where(mask > 0, torch.rand(1, 3, 32, 32), x)
    network = net()
    assert torch.equal(network(x, mask), network(other, mask))


@torch.inference_mode()
def test_filling_what_is_whole_changes_no_bit() -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(0.01, 0.99)
    assert torch.equal(fill_missing(x, torch.zeros_like(x)), x)


@torch.inference_mode()
def test_only_what_lost_something_is_filled_and_to_the_same_bits() -> None:
    x, thrown = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = (thrown < 0.5).float()
    mask[1] = mask[3] = 0
    known = x * (1 - mask)
    some = fill_where_needed(known, mask, mask, known)
    assert torch.equal(some, fill_missing(known, mask))
    assert torch.equal(some[1], x[1])


@torch.inference_mode()
def test_a_tile_does_not_depend_on_its_batch():
    # Bit for bit from 128 px on. Under that, oneDNN computes a batch of one in another order (1e-6).
    torch.manual_seed(0)
    network = RestoreUNet().eval()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.03)
    x, mask = torch.rand(2, 3, 128, 128), torch.zeros(2, 1, 128, 128)
    assert torch.equal(network(x, mask)[1:2], network(x[1:2], mask[1:2]))


def test_doubling_is_bilinear_interpolation() -> None:
    x_BCHW = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(doubled(x_BCHW), wanted, rtol=0, atol=1e-6)
    assert torch.equal(doubled(x_BCHW[:, :, :1, :1]), x_BCHW[:, :, :1, :1].expand(-1, -1, 2, 2))


def test_impulses_are_told_from_white_skies():
    dice = torch.Generator().manual_seed(0)
    grey = torch.full((1, 3, 64, 64), 0.5)
    hit = torch.rand(1, 1, 64, 64, generator=dice) < 0.7
    salted = torch.where(hit, (torch.rand(1, 1, 64, 64, generator=dice) < 0.5).float(), grey)
    no_mask = torch.zeros(1, 1, 64, 64)
    found = impulses(salted, no_mask)
    assert found[(~hit).expand_as(found)].sum() == 0
    assert found[hit.expand_as(found)].mean() > 0.99
    sky = grey.clone()
    sky[:, :, :, 20:] = 1
    assert impulses(sky, no_mask)[..., 23:].sum() == 0
    assert impulses(sky, torch.ones_like(no_mask)).sum() == 0


def test_what_looks_like_an_impulse_all_over_stays_what_it_is():
    white = torch.ones(1, 3, 64, 64)
    assert (fill_missing(white, torch.full_like(white, 0.999)) - 1).abs().max() < 5e-3


def test_wide_holes_are_filled_from_their_edges_and_grey_beyond():
    x, mask = torch.full((1, 3, 256, 256), 0.8), torch.zeros(1, 3, 256, 256)
    mask[..., 20:236, 20:236] = 1
    filled = fill_missing(x * (1 - mask), mask)
    assert (filled[..., 64:72, 64:72] - 0.8).abs().max() < 0.01
    assert filled[..., 128, 128] == pytest.approx(torch.tensor([[0.5, 0.5, 0.5]]))


@torch.inference_mode()
def test_black_beside_a_mask_is_no_impulse_and_fills_what_is_lost() -> None:
    """A black area with 80 % of its pixels missing: all that is known there is alike, and it is what the holes are filled with."""
    x = torch.full((1, 3, 64, 64), 0.6)
    x[..., 20:44] = 0
    mask = (torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.8).float()
    assert impulses(x * (1 - mask), mask)[..., 24:40].sum() == 0
    # The network says nothing yet (its last convolution is zero): what comes out is the filling.
    assert net()(x, mask)[..., 24:40].abs().max() < 0.02


@torch.inference_mode()
def test_a_single_black_pixel_counts_in_what_is_lost_beside_it() -> None:
    x = torch.full((1, 3, 32, 32), 0.5)
    x[..., 16, 16] = 0
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 16, 17] = 1
    assert impulses(x * (1 - mask), mask)[..., 16, 16].all()
    beside = net()(x, mask)[0, :, 16, 17]
    without = net()(torch.full_like(x, 0.5), mask)[0, :, 16, 17]
    assert (beside < without - 0.02).all()


def test_nearly_all_impulses_of_heavy_salt_and_pepper_are_found() -> None:
    """Some hundred in 10^5 lie among 18 or more of their own kind in 5x5, but with one of the other kind among them."""
    dice = torch.Generator().manual_seed(1)
    hit = torch.rand((1, 1, 384, 384), generator=dice) < 0.7
    ends = (torch.rand((1, 1, 384, 384), generator=dice) < 0.5).float()
    x = torch.where(hit, ends, torch.full_like(ends, 0.4))
    found = impulses(x, torch.zeros_like(x))
    assert found[hit].mean() > 0.9999
    assert found[~hit].sum() == 0


def test_of_a_white_sky_only_the_edge_is_suspected() -> None:
    """Seven in ten alike are enough where the other end is nowhere near: only the outermost whites are suspected."""
    below = torch.ones(1, 1, 32, 32).tril()
    sky = torch.where(below == 1, 1.0, 0.5)
    assert impulses(sky, torch.zeros_like(sky))[0, 0, 16].nonzero().flatten().tolist() == [16]


def test_a_black_frame_of_one_pixel_stays_under_heavy_salt_and_pepper() -> None:
    """Scans and test pictures have such frames. Pepper on a black line cannot be told from it; salt on it can."""
    dice = torch.Generator().manual_seed(2)
    framed = torch.full((1, 1, 128, 128), 0.4)
    framed[..., 0, :] = framed[..., -1] = 0
    hit = torch.rand(framed.shape, generator=dice) < 0.7
    damaged = torch.where(hit, (torch.rand(framed.shape, generator=dice) < 0.5).float(), framed)
    found = impulses(damaged, torch.zeros_like(damaged))
    for line, shown in ((found[0, 0, 0], damaged[0, 0, 0]), (found[0, 0, :, -1], damaged[0, 0, :, -1])):
        assert (
            line == shown
        ).float().mean() > 0.97  # the whites, none of the blacks; where most are white by chance both
    inside = (..., slice(1, -1), slice(0, -1))
    assert found[inside][hit[inside]].mean() > 0.999


def test_what_is_learned_about_filled_values_leaves_the_others_as_they_are() -> None:
    torch.manual_seed(0)
    network = RestoreUNet((8, 16), 1, 1).eval()
    x, mask = torch.rand(2, 3, 32, 32) * 0.8 + 0.1, torch.zeros(2, 1, 32, 32)
    mask[1, :, 8:16, 8:16] = 1
    before = network(x, mask)
    torch.nn.init.normal_(network.mend[-1].weight)
    change = (network(x, mask) - before).abs()
    assert change[1, :, 8:16, 8:16].min() > 0
    assert change[0].max() == 0
    assert (change * (1 - mask)).max() == 0


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_training_gives_what_a_pass_in_eval_mode_gives_and_every_weight_a_gradient(lost: int) -> None:
    """Ranks add their gradients up in one exchange: a batch in which nothing is lost must have as many of them."""
    torch.manual_seed(0)
    network = RestoreUNet((8, 16), 1, 1)
    torch.nn.init.normal_(network.mend[-1].weight)
    x, mask = torch.rand(2, 3, 32, 32) * 0.8 + 0.1, torch.zeros(2, 1, 32, 32)
    mask[:lost, :, 8:16, 8:16] = 1
    trained = network.train()(x, mask)
    trained.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    torch.testing.assert_close(trained, network.eval()(x, mask))


@pytest.mark.parametrize("size", [3, 5, 9])
def test_box_sums_are_those_of_average_pooling(size: int) -> None:
    x = torch.rand(2, 3, 12, 17, generator=torch.Generator().manual_seed(0))
    wanted = torch.nn.functional.avg_pool2d(x, size, 1, size // 2) * size**2
    torch.testing.assert_close(box_sum(x, size), wanted)
