"""The loop on 1, 2 and 4 real gloo ranks, without Ray."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from artgen.training.losses_gan import GAMES
from artgen.training.regularisers import squared_slope
from artgen.training.shards import Shards
from tests.unit.training import gan_ranks

FAST_TOLERANCE = 1e-4


def on_ranks(world: int, folder: Path) -> list[dict]:
    # Forked from one server that has imported torch once (and its _dynamo, which the first optimiser imports): that
    # costs each fresh interpreter 7 CPU seconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "tests.unit.training.gan_ranks"])
    out = folder / f"of-{world}"
    ranks = [
        context.Process(target=gan_ranks.run, args=(rank, world, str(folder / f"store-{world}"), str(out)))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(200)
    assert [rank.exitcode for rank in ranks] == [0] * world
    return [torch.load(f"{out}-{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[int, list[dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    return {world: on_ranks(world, folder) for world in (2, 4)}


@pytest.mark.slow
@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", ["r3", "classes", "dcgan", "lazy"])
def test_weights_are_bitwise_the_same_on_one_two_and_four_ranks(name, results):
    recipe, classes = gan_ranks.cases()[name], 3 if name == "classes" else 0
    before = gan_ranks.weights_of(gan_ranks.start(recipe, classes)[0])
    threads = torch.get_num_threads()
    try:
        for here in (3, 1):  # the ranks have one each
            torch.set_num_threads(here)
            alone = gan_ranks.weights_of(gan_ranks.trained(recipe, classes=classes)[0])
            assert torch.get_num_threads() == here
            assert any(not torch.equal(alone[key], before[key]) for key in alone if key.startswith("mean"))
            for world, ranks in results.items():
                for rank, saved in enumerate(ranks):
                    differ = [key for key, value in alone.items() if not torch.equal(value, saved[name][key])]
                    assert not differ, f"rank {rank} of {world}, {here} threads here"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.timeout(450)
def test_the_fast_mode_keeps_replicas_equal_and_within_its_tolerance(results):
    alone = gan_ranks.weights_of(gan_ranks.trained(gan_ranks.cases()["fast"])[0])
    for ranks in results.values():
        for saved in ranks:
            assert all(torch.equal(saved["fast"][key], ranks[0]["fast"][key]) for key in alone)
            assert max((saved["fast"][key] - alone[key]).abs().max().item() for key in alone) < FAST_TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(450)
@pytest.mark.parametrize("name", ["r3", "fast", "lazy"])
def test_two_ranks_have_the_gradients_of_the_whole_batch(name, results):
    reference = reference_gradients(name)
    for saved in results[2]:
        found = saved[f"{name} gradients"]
        assert found.keys() == reference.keys()
        for key, expected in reference.items():
            scale = expected.abs().max().item()
            if key != "d.verdict.linear.bias":  # which a game of differences does not see
                assert scale > 1e-6, key
            assert (found[key] - expected).abs().max().item() < 1e-4 * scale + 1e-9, key


def reference_gradients(name: str) -> dict[str, torch.Tensor]:
    """By plain autograd on the whole batch at once: the mathematics, without shards."""
    recipe = gan_ranks.cases()[name]
    state, real = gan_ranks.start(recipe)
    torch.manual_seed(1)
    for network in (state.generator, state.discriminator):
        for weights in network.parameters():
            torch.nn.init.normal_(weights, std=0.3)
    step = gan_ranks.step_of(recipe, state, real, Shards(recipe.batch_images))
    x, _ = step.real(0)
    game = GAMES[recipe.game]
    x, y = x.requires_grad_(), step.fake(state.generator, 0, 0, None).detach().requires_grad_()
    a, b = step.logits(state.discriminator, x, None, 0, 0), step.logits(state.discriminator, y, None, 0, 1)
    gamma = step.now.gamma * recipe.penalty_every  # lazy: at the first step, as many times as strong
    loss = game.discriminator(a, b) + gamma / 2 * (squared_slope(a, x) + squared_slope(b, y))
    names, parameters = zip(*state.discriminator.named_parameters(), strict=True)
    found = dict(zip((f"d.{n}" for n in names), torch.autograd.grad(loss, parameters), strict=True))
    a, b = (
        step.logits(state.discriminator, x.detach(), None, 0, 2),
        step.logits(state.discriminator, step.fake(state.generator, 0, 1, None), None, 0, 3),
    )
    names, parameters = zip(*state.generator.named_parameters(), strict=True)
    return found | dict(
        zip((f"g.{n}" for n in names), torch.autograd.grad(game.generator(a, b), parameters), strict=True)
    )
