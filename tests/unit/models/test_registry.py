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
