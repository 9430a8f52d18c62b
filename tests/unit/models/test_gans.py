from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import save

from artgen.errors import UsageError
from artgen.models.gans.r3 import Block, sizes
from artgen.models.gans.registry import build_discriminator, build_generator, multiple_of, names
from artgen.models.gans.spec import GanFacts
from artgen.models.gans.weights import painter_from, to_bytes
from artgen.training.gan_recipe import load_gan_recipe

SMALL = {"mlp": {"widths": [16, 32]}, "dcgan": {"base": 4}, "r3": {"base": 8, "most": 16, "group": 4}}


def facts(architecture: str = "r3", height: int = 28, width: int = 28, **changes) -> GanFacts:
    values = {"channels": 1, "latent": 8, "params": SMALL[architecture], **changes}
    return GanFacts(architecture, height, width, **values)


@pytest.mark.parametrize(
    ("architecture", "height", "width", "channels"),
    [
        ("mlp", 28, 28, 1), ("mlp", 30, 41, 3), ("dcgan", 28, 28, 1), ("dcgan", 48, 64, 4), ("dcgan", 100, 28, 3),
        ("r3", 28, 28, 1), ("r3", 64, 48, 3), ("r3", 38, 100, 4), ("r3", 256, 28, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("classes", [(), ("a", "b", "c")])
def test_every_architecture_makes_and_judges_its_size(architecture, height, width, channels, classes):
    given = facts(architecture, height, width, channels=channels, classes=classes)
    labels = torch.tensor([0, 2]) if classes else None
    x = build_generator(given)(torch.randn(2, 8), labels)
    assert x.shape == (2, channels, height, width)
    assert x.abs().max() <= 1
    assert build_discriminator(given, SMALL[architecture])(x, labels).shape == (2,)


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize(("height", "width"), [(29, 43), (28, 43), (255, 30), (29, 28)])
def test_odd_sides_work_with_and_without_a_stem(height, width, stem):
    given = facts(height=height, width=width, params={**SMALL["r3"], "stem": stem})
    x = build_generator(given)(torch.randn(2, 8))
    assert x.shape == (2, 1, height, width)
    judge = build_discriminator(given, given.params)
    last = torch.rand(2, 1, height, width, requires_grad=True)
    (slope,) = torch.autograd.grad(judge(last).sum(), last, create_graph=True)
    assert (slope[..., -1, :] != 0).any(), "the last row counts"
    assert (slope[..., :, -1] != 0).any()
    slope.square().sum().backward()  # as R1 does
    assert all(value.grad is None or value.grad.isfinite().all() for value in judge.parameters())


def test_an_odd_side_takes_the_weights_of_the_even_one_behind_it():
    odd, even = facts(height=37, width=63), facts(height=38, width=64)
    generator, judge = build_generator(even), build_discriminator(even, SMALL["r3"])
    smaller, other = build_generator(odd), build_discriminator(odd, SMALL["r3"])
    smaller.load_state_dict(generator.state_dict())
    other.load_state_dict(judge.state_dict())
    z = torch.randn(2, 8)
    whole = generator(z)
    assert torch.equal(smaller(z), whole[..., :37, :63])
    padded = torch.nn.functional.pad(whole[..., :37, :63], (0, 1, 0, 1))
    assert torch.equal(other(whole[..., :37, :63]), judge(padded))


def test_the_stages_of_r3_halve_down_to_four_pixels():
    assert sizes(29, 63, stem=True) == sizes(30, 64, stem=True) == [(15, 32), (8, 16), (4, 8)]
    assert sizes(28, 28, stem=True) == [(14, 14), (7, 7), (4, 4)]
    assert sizes(64, 48, stem=False) == [(64, 48), (32, 24), (16, 12), (8, 6), (4, 3)]


def test_a_size_that_dcgan_cannot_halve_is_told_of_a_recipe_that_takes_it():
    with pytest.raises(UsageError, match="divisible by 4, or the recipe r3"):
        build_generator(facts("dcgan", 38, 100))
    assert (multiple_of("dcgan"), multiple_of("r3"), multiple_of("mlp")) == (4, 1, 1)
    build_generator(facts("dcgan", 28 + multiple_of("dcgan"), 100))
    recipe = load_gan_recipe("r3")
    given = facts(recipe.model, 38, 100, params=SMALL["r3"])
    assert build_discriminator(given, {**recipe.discriminator, **SMALL["r3"]})(torch.rand(2, 1, 38, 100)).shape == (
        2,
    )


def test_a_block_starts_as_the_identity_and_r3_has_no_normalisation():
    x = torch.randn(2, 8, 7, 7)
    assert torch.equal(Block(8, 4, 2)(x), x)
    for network in (build_generator(facts()), build_discriminator(facts(), SMALL["r3"])):
        assert not [m for m in network.modules() if "Norm" in type(m).__name__]
        assert not list(network.buffers())


def test_pictures_of_a_stem_start_without_a_checkerboard():
    x = build_generator(facts(channels=3))(torch.randn(2, 8))
    assert torch.equal(x[..., ::2, ::2], x[..., 1::2, 1::2])
    assert torch.equal(x[..., ::2, ::2], x[..., ::2, 1::2])
    assert x[..., ::2, ::2].std() > 0


@pytest.mark.parametrize("architecture", ["mlp", "r3"])
def test_a_verdict_is_of_one_picture_alone(architecture):
    # What R1 and R2 take for granted; batch norm breaks it.
    judge = build_discriminator(facts(architecture), SMALL[architecture])
    x = torch.randn(4, 1, 28, 28)
    assert torch.allclose(judge(x)[:2], judge(x[:2]), atol=1e-5)


@pytest.mark.parametrize("stem", [True, False])
def test_no_stage_is_wider_than_most(stem):
    params = {"base": 8, "most": 4, "group": 4, "stem": stem}
    x = build_generator(facts(params=params))(torch.randn(2, 8))
    assert build_discriminator(facts(), params)(x).shape == (2,)


def test_classes_change_pictures_and_verdicts():
    given = facts(classes=("a", "b"))
    z, x = torch.randn(1, 8), torch.randn(1, 1, 28, 28)
    generator, judge = build_generator(given), build_discriminator(given, SMALL["r3"])
    first, second = torch.tensor([0]), torch.tensor([1])
    assert not torch.equal(generator(z, first), generator(z, second))
    assert not torch.equal(judge(x, first), judge(x, second))


def test_the_articles_generator_has_its_layers():
    shapes = [
        tuple(w.shape)
        for n, w in build_generator(GanFacts("mlp", 28, 28, 1, 100)).named_parameters()
        if "weight" in n
    ]
    assert shapes == [(128, 100), (256, 128), (512, 256), (1024, 512), (784, 1024)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_generator(facts(architecture="r3", params={"bass": 3})), "does not take the parameters"),
        (lambda: build_generator(GanFacts("r33", 28, 28, 1, 8)), "did you mean 'r3'"),
        (lambda: build_generator(facts(params={"base": 7, "group": 4})), "not a multiple of group 4"),
        (
            lambda: build_generator(facts(height=64, width=64, params={"base": 4, "most": 17, "group": 4})),
            "most 17 times expansion 2 is not a multiple of group 4",
        ),
        (lambda: build_discriminator(facts(), {"most": 0}), "most 0, group 16 and expansion 2 must be at least 1"),
        (lambda: build_generator(GanFacts("mlp", 28, 28, 1, 8, params={"widths": []})), "widths is empty"),
        (lambda: build_generator(facts("dcgan", height=30)), "cannot halve one of 30x28"),
        (lambda: facts(height=300), "height is 300"),
        (lambda: facts(channels=2), "channels is 2"),
        (lambda: facts(latent=0), "latent is 0"),
    ],
)
def test_what_cannot_be_built_is_a_usage_error(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("architecture", names())
def test_weights_come_back_with_their_facts(architecture):
    given = facts(architecture, classes=("cat", "dog"), licence="CC0-1.0")
    generator = build_generator(given)
    painter = painter_from(to_bytes(generator, given), "model.safetensors")
    assert painter.facts == given
    z, labels = torch.randn(3, 8), torch.tensor([0, 1, 0])
    assert torch.equal(painter(z, labels), generator.eval()(z, labels))


def test_files_that_are_no_generator_are_refused():
    with pytest.raises(UsageError, match="not a sound safetensors file"):
        painter_from(b"\x89PNG nothing of the kind", "x.safetensors")
    with pytest.raises(UsageError, match="no generator of artgen"):
        painter_from(save({"a": torch.zeros(2)}), "x.safetensors")
    with pytest.raises(UsageError, match="is a restorer; use it as in `artgen restore"):
        painter_from(save({"a": torch.zeros(2)}, {"artgen": "{}"}), "restorer.safetensors")
    with pytest.raises(UsageError, match="cannot be read"):
        painter_from(save({"a": torch.zeros(2)}, {"artgen_generator": '{"new": 1}'}), "x.safetensors")
    with pytest.raises(UsageError, match="they are a JSON list, not an object"):
        painter_from(save({"a": torch.zeros(2)}, {"artgen_generator": "[1]"}), "x.safetensors")
    with pytest.raises(UsageError, match="do not fit the generator 'r3'"):
        painter_from(save({"a": torch.zeros(2)}, {"artgen_generator": facts().to_json()}), "x.safetensors")
    for change, message in (
        ({"params": [1]}, r"params is \[1\], not a JSON object"),
        ({"architecture": ["x"]}, r"architecture is \['x'\], not a JSON string"),
        ({"height": 28.0}, "height is 28.0, not a JSON integer"),
        ({"channels": True}, "channels is True, not a JSON integer"),
        ({"latent": 10**9}, "latent is 1000000000; use 1 to 65536"),
        ({"classes": [1, 2]}, "a class is called 1, which is no text"),
        ({"classes": ["a", "\ud800"]}, r"a class is called '\\ud800', which is no text"),
        ({"architecture": "dcgan", "params": {"base": -3}}, "do not fit the generator 'dcgan' with {'base': -3}"),
    ):
        header = {**json.loads(facts().to_json()), **change}
        with pytest.raises(UsageError, match=message):
            painter_from(save({"a": torch.zeros(2)}, {"artgen_generator": json.dumps(header)}), "x.safetensors")
    pickled = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, pickled)
    with pytest.raises(UsageError, match="not a sound safetensors file"):
        painter_from(pickled.getvalue(), "x.pth")
