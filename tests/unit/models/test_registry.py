from __future__ import annotations

import pytest
import torch

from artgen.errors import UsageError
from artgen.models import registry
from artgen.models.spec import Facts, Restorer


def test_facts_survive_the_header():
    facts = Facts(name="a", architecture="dncnn", params={"depth": 5}, damage=("noise", "jpeg"), overlap=40)
    assert Facts.from_json(facts.to_json()) == facts


@pytest.mark.parametrize("name", registry.names())
def test_every_model_keeps_the_shape_and_takes_a_gradient(name):
    module, facts = registry.build(name)
    side = max(3 * facts.multiple, facts.min_size, 16)
    x = torch.rand(2, facts.channels, side, side + facts.multiple, requires_grad=True)
    y = Restorer(module, facts, "")(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'default'"):
        registry.build("defualt")


def test_a_wrong_parameter_is_refused():
    with pytest.raises(UsageError, match="does not take the parameters"):
        registry.build("dncnn", {"deepness": 3})


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("dncnn", {"width": -1}, "width is -1; use a whole number from 1"),
        ("dncnn", {"depth": 0}, "depth is 0; use a whole number from 2"),
        ("dncnn", {"channels": 2}, "use 1 .grey. or 3 .RGB."),
        ("default", {"widths": []}, "widths is \\[\\]; use a list"),
        ("default", {"widths": [8, 0.5]}, "one of widths is 0.5"),
        ("default", {"blocks": -1}, "blocks is -1"),
        ("article", {"widths": "many"}, "widths is 'many'"),
    ],
)
def test_a_parameter_that_is_out_of_range_is_refused(name, params, said):
    with pytest.raises(UsageError, match=f"does not take the parameters.*: .*{said}"):
        registry.build(name, params)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["default", "article"])
def test_what_a_network_of_so_many_levels_takes_is_in_its_facts(name, levels):
    module, facts = registry.build(name, {"widths": [4] * levels})
    least = max(8, 2**levels) if name == "default" else 1
    assert (facts.multiple, facts.min_size) == (least if name == "default" else 2 ** (levels - 1), least)
    side = max(facts.multiple, facts.min_size)
    x = torch.rand(1, facts.channels, side, 2 * side)
    with torch.no_grad():
        assert Restorer(module, facts, "")(x).shape == x.shape


def test_channels_reach_the_facts():
    _, facts = registry.build("dncnn", {"channels": 3, "depth": 4})
    assert facts.channels == 3


@pytest.mark.parametrize("size", [(28, 28), (16, 16), (17, 31), (1, 1)])
def test_the_article_fits_any_size(size):
    module, _ = registry.build("article", {"widths": [4, 8, 8, 8, 16]})
    y = module(torch.rand(1, 1, *size))
    assert y.shape[-2:] == size
    assert y.min() > 0
    assert y.max() < 1
