"""Extractors: what decides their features is hashed, and weights that may run code are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from artgen.errors import UsageError
from artgen.metrics import extractors


def test_random_features_have_a_hash_of_their_own_for_each_number_of_channels() -> None:
    found = [extractors.random(channels) for channels in (1, 3, 4)]
    assert len({extractor.sha256 for extractor in found}) == 3
    pixels = torch.randint(0, 256, (5, 3, 40, 30), dtype=torch.uint8)
    assert found[1].look(pixels).shape == (5, found[1].features)
    assert "not FID" in found[1].note


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pth", pickle.dumps(Code(), 2), "may run code"),
        ("a.pth", b"", "may run code"),
        ("a.safetensors", b"\x80\x04", "no sound .safetensors"),
        ("gone.pth", None, "No such file"),
    ],
    ids=["code", "empty", "pickle", "gone"],
)
def test_files_that_are_no_weights(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        extractors.inception(str(tmp_path / name))


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save({"a": 3}, tmp_path / "odd.pth")
    with pytest.raises(UsageError, match="not a table of weights"):
        extractors.inception(str(tmp_path / "odd.pth"))
    save_file({"fc.weight": torch.zeros(1008, 8)}, tmp_path / "tf.safetensors")
    with pytest.raises(UsageError, match="ported from TensorFlow"):
        extractors.inception(str(tmp_path / "tf.safetensors"))
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="no weights of torchvision's inception_v3"):
        extractors.inception(str(tmp_path / "x.safetensors"))


def test_any_classifier_of_torchvision_gives_what_its_last_layer_takes(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network = resnet18(weights=None, num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    found = extractors.of_file(f"resnet18:{tmp_path / 'mine.safetensors'}")
    assert (found.name, found.figure, found.features) == ("resnet18", "fd_resnet18", 512)
    pixels = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    large = torch.nn.functional.interpolate(pixels.float(), (224, 224), mode="bicubic", antialias=True).clamp(
        0, 255
    )
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = network((large / 255 - mean) / deviation)
    assert torch.allclose(found.look(pixels), expected, rtol=1e-4, atol=1e-5)
    assert found.look(pixels[:, :1]).shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "features"), [("alexnet", 4096), ("shufflenet_v2_x0_5", 1024), ("mobilenet_v3_small", 1024)]
)
def test_the_last_linear_layer_of_a_head_is_left_out(name: str, features: int) -> None:
    from torchvision.models import get_model

    network = get_model(name, weights=None).eval()
    head = extractors._without_head(network, name)
    assert head.features == features
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, features)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("resnet:x", "did you mean 'resnet"),
        ("fcn_resnet50:x", "torchvision has no classifier called 'fcn_resnet50'"),
        ("resnet18:gone.pth", "No such file"),
        ("resnet18:{other}", "no weights of torchvision's resnet18: .*Missing key"),
        ("squeezenet1_1:{other}", "does not end in a linear layer"),
        ("inception_v3:{other}", "no weights of torchvision's inception_v3"),
    ],
)
def test_other_classifiers_and_weights_are_refused(tmp_path: Path, kind: str, said: str) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=said):
        extractors.of_file(kind.replace("{other}", str(tmp_path / "other.safetensors")))


@pytest.mark.slow
def test_inception_is_torchvisions_on_its_own_normalisation(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    network = inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    torch.save(
        network.state_dict(), tmp_path / "weights.pth"
    )  # with the auxiliary head, as torchvision's file has it
    pixels = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    found = extractors.inception(str(tmp_path / "weights.pth"))
    features = found.look(pixels)
    assert features.shape == (2, 2048)
    large = torch.nn.functional.interpolate(pixels.float(), (299, 299), mode="bicubic", antialias=True).clamp(
        0, 255
    )
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    network.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    with torch.no_grad():
        expected = network((large / 255 - mean) / deviation)
    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4)
    grey, clear = pixels[:, :1], torch.cat([pixels, torch.full_like(pixels[:, :1], 255)], 1)
    assert torch.allclose(found.look(grey), found.look(grey.expand(-1, 3, -1, -1)))
    assert torch.allclose(found.look(clear), features, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.look(clear * torch.tensor([1, 1, 1, 0])[:, None, None].byte()),
                          found.look(torch.full_like(pixels, 255)), rtol=1e-4, atol=1e-5)  # fmt: skip
