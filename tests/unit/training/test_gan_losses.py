"""Losses, penalties and augmentation against autograd, finite differences and their definitions."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from artgen.models.gans.registry import build_discriminator
from artgen.models.gans.spec import GanFacts
from artgen.training.diffaugment import ADA_IMAGES, adapted, augment, throw
from artgen.training.gan_steps import Step, Twins
from artgen.training.loop_gan import schedule
from artgen.training.losses_gan import GAMES
from artgen.training.regularisers import squared_slope
from artgen.training.shards import Shards
from tests.unit.training import gan_ranks

REAL = torch.tensor([1.5, -0.3, 0.2, 2.0], dtype=torch.float64)
FAKE = torch.tensor([-1.2, 0.4, -0.2, 1.7], dtype=torch.float64)


def test_bce_is_the_cross_entropy_of_logits():
    ones, zeros = torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    bce = F.binary_cross_entropy_with_logits
    game = GAMES["bce"]
    assert torch.allclose(game.discriminator(REAL, FAKE), bce(REAL, ones) + bce(FAKE, zeros))
    assert torch.allclose(game.generator(REAL, FAKE), bce(FAKE, ones)), (
        "the generator wants its pictures to be real"
    )


def test_hinge_and_relativistic_are_as_defined():
    hinge, pairs = GAMES["hinge"], GAMES["relativistic"]
    by_hand = (1 - REAL).clamp(min=0).mean() + (1 + FAKE).clamp(min=0).mean()
    assert torch.allclose(hinge.discriminator(REAL, FAKE), by_hand)
    assert torch.allclose(hinge.generator(REAL, FAKE), -FAKE.mean())
    assert torch.allclose(pairs.discriminator(REAL, FAKE), torch.log(1 + torch.exp(FAKE - REAL)).mean())
    assert torch.allclose(pairs.generator(REAL, FAKE), pairs.discriminator(FAKE, REAL))
    assert torch.allclose(pairs.discriminator(REAL + 3, FAKE + 3), pairs.discriminator(REAL, FAKE))


@pytest.mark.parametrize("name", sorted(GAMES))
def test_gradients_agree_with_finite_differences(name):
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    for side in GAMES[name][:2]:
        assert torch.autograd.gradcheck(side, (real, fake))


@pytest.mark.parametrize("name", sorted(GAMES))
def test_each_side_pulls_its_own_way(name):
    game = GAMES[name]
    better = game.discriminator(REAL + 0.1, FAKE - 0.1) < game.discriminator(REAL, FAKE)
    assert better
    assert game.generator(REAL, FAKE + 0.1) < game.generator(REAL, FAKE)


def test_the_slope_of_a_linear_judge_is_its_weight():
    weight = torch.randn(12)
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    assert torch.allclose(squared_slope(x.flatten(1) @ weight, x), weight.square().sum())


def test_the_slope_agrees_with_finite_differences_and_so_does_its_gradient():
    torch.manual_seed(0)
    judge = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 1)).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)

    def logits(pictures):
        return judge(pictures)[:, 0]

    def penalty():
        given = x.clone().requires_grad_()
        # The function computes in float32; here the same in float64, to compare to more digits.
        (slope,) = torch.autograd.grad(logits(given).sum(), given, create_graph=True)
        assert torch.allclose(
            squared_slope(logits(given), given).double(), slope.square().sum((1, 2, 3)).mean(), rtol=1e-5
        )
        return slope.square().sum((1, 2, 3)).mean()

    small, squares = 1e-6, torch.zeros((), dtype=torch.float64)
    for number in range(16):
        step = torch.zeros(16, dtype=torch.float64)
        step[number] = small
        step = step.view(1, 1, 4, 4)
        squares += ((logits(x + step) - logits(x - step)) / (2 * small)).square().mean()
    assert torch.allclose(penalty(), squares, rtol=1e-6)

    weight = judge[0].weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0, 1, 1] += sign * small
        values.append(penalty().item())
        with torch.no_grad():
            weight[0, 0, 1, 1] -= sign * small
    assert gradient[0, 0, 1, 1].item() == pytest.approx((values[0] - values[1]) / (2 * small), rel=1e-5)


def test_loss_and_both_penalties_pass_in_one_backward():
    torch.manual_seed(0)
    judge = build_discriminator(GanFacts("r3", 28, 28, 1, 8), {"base": 8, "most": 16, "group": 4})
    real, fake = torch.randn(3, 1, 28, 28), torch.randn(3, 1, 28, 28)

    def gradients(*parts: str) -> list[torch.Tensor]:
        judge.zero_grad()
        x, y = real.clone().requires_grad_(), fake.clone().requires_grad_()
        a, b = judge(x), judge(y)
        terms = {
            "game": GAMES["relativistic"].discriminator(a, b),
            "r1": squared_slope(a, x),
            "r2": squared_slope(b, y),
        }
        sum(terms[part] for part in parts).backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in judge.parameters()]

    apart = zip(gradients("game"), gradients("r1"), gradients("r2"), strict=True)
    for one, (a, b, c) in zip(gradients("game", "r1", "r2"), apart, strict=True):
        assert torch.allclose(one, a + b + c, rtol=1e-4, atol=1e-6)


def pictures(channels: int = 3) -> torch.Tensor:
    return torch.rand(400, channels, 16, 24, generator=Generator().manual_seed(1)) * 2 - 1


def dice(seed: int = 0) -> torch.Tensor:
    return throw(400, Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_augmentation_is_a_function_of_picture_and_dice(channels):
    x = pictures(channels)
    whole = augment(x, 0.7, dice())
    assert whole.shape == x.shape
    assert torch.equal(augment(x[30:50], 0.7, dice()[:, 30:50]), whole[30:50])
    assert not torch.equal(augment(x, 0.7, dice(1)), whole)
    assert augment(x, 0.0, dice()) is x


def test_augmentation_comes_as_often_as_it_should():
    x = pictures()
    same = [(augment(x, p, dice()) == x).flatten(1).all(1).float().mean().item() for p in (0.2, 0.5, 1.0)]
    assert same == pytest.approx([0.8**3, 0.5**3, 0.0], abs=0.06)


def test_brightness_changes_by_a_quarter_of_the_range_at_most():
    x, chance = torch.zeros(400, 1, 16, 24), dice()
    chance[8:] = 1.0  # no move, no cutout; saturation and contrast do nothing to one value
    changed = augment(x, 0.999, chance)[:, 0, 0, 0]
    assert torch.allclose(changed, torch.where(chance[7] < 0.999, chance[0] - 0.5, 0.0), atol=1e-6)
    assert 0.45 < changed.abs().max() <= 0.5


def test_penalties_in_bf16_are_those_in_fp32():
    """Their sums are in fp32: what bf16 costs is the rounding inside the networks."""
    told = {}
    recipe = dataclasses.replace(gan_ranks.RECIPE, gamma=1.0, gamma_end=1.0)
    for dtype in (None, torch.bfloat16):
        state, real = gan_ranks.start(recipe)
        reals = functools.partial(real.batch, recipe)
        shards = Shards(recipe.batch_images, recipe.shards)
        step = Step(
            state, [Twins.of(state)], reals, recipe.latent, recipe, shards, schedule(0.0, state, recipe), dtype
        )
        numbers, _ = shards.gradients(state.discriminator, functools.partial(step.discriminator, elapsed_s=0.0))
        gradients = torch.cat([weight.grad.flatten() for weight in state.discriminator.parameters()])
        told[dtype] = numbers, gradients
    (exact, ours), (rounded, theirs) = told[None], told[torch.bfloat16]
    assert exact["r1"] > 0 < exact["r2"]
    for name in ("r1", "r2", "d_loss"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.03)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99


def test_a_gradient_passes_augmentation_twice():
    x = pictures()[:3].double().requires_grad_()
    few = dice()[:, :3].double()
    assert torch.autograd.gradcheck(lambda t: augment(t, 0.9, few), (x[:, :, :4, :4],))
    squared_slope(augment(x, 0.9, few).square().sum((1, 2, 3)), x).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_pictures_move_by_an_eighth_at_most_and_black_moves_in():
    x = torch.ones(400, 1, 16, 24)
    chance = dice()
    chance[7], chance[9] = 1.0, 1.0  # no colour, no cutout
    moved = augment(x, 0.999, chance)
    black = (moved == -1).float()
    assert black.amin((1, 3)).sum(1).max() == 2
    assert black.amin((1, 2)).sum(1).max() == 3
    assert set(moved.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(("height", "width"), [(28, 32), (29, 35)])
def test_a_hole_has_half_the_sides_and_a_quarter_of_the_area_at_most(height, width):
    x, chance = torch.ones(400, 1, height, width), dice()
    chance[7], chance[8] = 1.0, 1.0  # no colour, no move
    hole = (augment(x, 0.999, chance) == 0).float()
    high, wide = hole.amax((1, 3)).sum(1).max(), hole.amax((1, 2)).sum(1).max()
    assert abs(high - height / 2) <= 0.5 >= abs(wide - width / 2)
    assert hole.mean((1, 2, 3)).max() <= (0.27 if height % 2 else 0.25)


def test_the_probability_follows_overfitting():
    assert adapted(0.2, 0.9, 0.6, ADA_IMAGES // 10) == pytest.approx(0.3)
    assert adapted(0.2, 0.1, 0.6, ADA_IMAGES // 10) == pytest.approx(0.1)
    assert adapted(0.95, 0.9, 0.6, ADA_IMAGES) == 1.0
    assert adapted(0.05, 0.1, 0.6, ADA_IMAGES) == 0.0
