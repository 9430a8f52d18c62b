from __future__ import annotations

import io
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from artgen.errors import UsageError
from artgen.models import registry
from artgen.models.weights import load_bytes

pytest.importorskip("spandrel")


@pytest.mark.parametrize("depth", [17, 20])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_our_dncnn_opens_in_spandrel_and_gives_the_same_picture(depth, suffix):
    torch.manual_seed(1)
    module, _ = registry.build("dncnn", {"channels": 1, "depth": depth, "width": 8})
    module.train()(torch.rand(4, 1, 16, 16))  # moves the statistics of the batch norm away from 0 and 1
    tensors = module.eval().state_dict()
    if suffix == ".pth":
        buffer = io.BytesIO()
        torch.save({"params": tensors}, buffer)
        data = buffer.getvalue()
    else:
        data = safetensors.torch.save(tensors)
    foreign = load_bytes(data, f"mine{suffix}")
    assert foreign.facts.architecture == "spandrel/DnCNN"
    assert (foreign.facts.channels, foreign.facts.scale, foreign.facts.takes_mask) == (1, 1, False)
    x = torch.rand(2, 1, 20, 24)
    assert torch.allclose(foreign(x), module(x).clamp(0, 1), atol=1e-6)


def test_an_upscaler_has_its_scale():
    from spandrel.architectures.Compact import Compact

    tensors = Compact(num_feat=8, num_conv=2, upscale=2).state_dict()
    upscaler = load_bytes(safetensors.torch.save(tensors), "tiny.safetensors")
    assert upscaler.facts.scale == 2
    assert upscaler(torch.rand(1, 3, 10, 12)).shape == (1, 3, 20, 24)


def test_threads_that_share_a_span_do_not_meet_in_its_weights():
    """It merges its kernels in every pass, in place: 5 of 60 pictures came out wrong."""
    from spandrel.architectures.SPAN import SPAN

    torch.manual_seed(0)
    tensors = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2).state_dict()
    upscaler = load_bytes(safetensors.torch.save(tensors), "span.safetensors")
    merging = [module for module in upscaler.module.modules() if hasattr(module, "update_params")]
    before = [module.eval_conv.weight.data_ptr() for module in merging]
    x = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        y = upscaler(x)
        assert torch.equal(upscaler(x), y)
    assert before
    assert [module.eval_conv.weight.data_ptr() for module in merging] == before


def test_a_face_restorer_draws_no_noise_of_its_own():
    class Noisy(torch.nn.Module):
        def forward(self, x, randomize_noise=True):
            return x + torch.rand_like(x) if randomize_noise else x

    from artgen.models.spandrel import _settle

    model = Noisy()
    _settle(model)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(model(x), x)


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
def test_whatever_a_reader_raises_is_told_in_words(name):
    for data in (b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(40), bytes(3), b"\x93" * 100):
        with pytest.raises(UsageError, match=name):
            load_bytes(data, name)
    buffer = io.BytesIO()
    torch.save({1: torch.zeros(3)}, buffer)
    with pytest.raises(UsageError, match="does not recognise the weights"):
        load_bytes(buffer.getvalue(), "numbers.pth")


def test_unknown_weights_are_refused():
    with pytest.raises(UsageError, match="does not recognise the weights in 'other"):
        load_bytes(safetensors.torch.save({"x": torch.zeros(3)}), "other.safetensors")


def test_own_weights_load_neither_spandrel_nor_torchvision():
    code = (
        "import sys; from artgen.models.weights import load; load('identity'); "
        "bad = {'spandrel', 'torchvision', 'ray'} & set(sys.modules); sys.exit(', '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
