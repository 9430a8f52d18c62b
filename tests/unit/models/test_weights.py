from __future__ import annotations

import hashlib
import io
import json
import pathlib
import shutil
import uuid

import fsspec
import pytest
import safetensors.torch
import torch

from artgen.errors import UsageError
from artgen.models import registry
from artgen.models.weights import load, load_bytes


def save(module, facts, path):
    path.write_bytes(safetensors.torch.save(module.state_dict(), {"artgen": facts.to_json()}))


@pytest.fixture
def saved(tmp_path):
    module, facts = registry.build("dncnn", {"channels": 1, "depth": 4, "width": 8})
    save(module, facts, tmp_path / "model.safetensors")
    return module.eval(), facts, tmp_path


def test_identity_needs_no_weights():
    x = torch.rand(1, 3, 5, 7)
    assert torch.equal(load("identity")(x), x)


def test_file_run_folder_and_url_give_the_same_model(saved):
    module, facts, folder = saved
    data = (folder / "model.safetensors").read_bytes()
    url = f"memory://{uuid.uuid4().hex}/model.safetensors"
    with fsspec.open(url, "wb") as file:
        file.write(data)  # pyright: ignore
    x = torch.rand(1, 1, 12, 12)
    for place in (f"{folder}/model.safetensors", str(folder), f"{folder}/", url, url.rpartition("/")[0]):
        restorer = load(place)
        assert restorer.facts == facts
        assert restorer.sha256 == hashlib.sha256(data).hexdigest()
        assert torch.equal(restorer(x), module(x))
        assert not restorer.module.training


@pytest.mark.parametrize("name", ["run-1.5", "2026.11.23", "photos.old"])
def test_a_run_folder_may_have_a_dot_in_its_name(saved, tmp_path, name):
    (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "model.safetensors", tmp_path / name)
    assert load(str(tmp_path / name)).sha256 == load(str(tmp_path)).sha256


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("defalut", "did you mean 'default'"),
        ("no/such/folder", "no model at 'no/such/folder/model.safetensors'"),
        ("gone.safetensors", "no model at 'gone.safetensors'"),
        ("weights.pt", ".pt file, which may hold code"),
        ("weights.ckpt", ".ckpt file"),
        ("weights.pkl", ".pkl file"),
        ("nosuchprotocol://a/b.safetensors", "no storage is known as nosuchprotocol://"),
        ("article", "no shipped weights; train it"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_fix(model, message):
    with pytest.raises(UsageError, match=message):
        load(model)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    buffer, trace = io.BytesIO(), tmp_path / "ran"
    torch.save({"params": Evil(str(trace))}, buffer)
    with pytest.raises(UsageError, match="may run code"):
        load_bytes(buffer.getvalue(), "evil.pth")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
@pytest.mark.parametrize("data", [b"", b"12", b"\xff" * 100, b"PK\x03\x04" + bytes(50)])
def test_broken_files_are_refused(name, data):
    with pytest.raises(UsageError, match="a\\."):
        load_bytes(data, name)


def test_weights_that_do_not_fit_their_facts_are_refused(saved):
    module, _, folder = saved
    _, other = registry.build("dncnn", {"channels": 1, "depth": 6, "width": 8})
    save(module, other, folder / "model.safetensors")
    with pytest.raises(UsageError, match="do not fit the architecture"):
        load(str(folder))


def test_facts_of_another_version_are_refused():
    data = safetensors.torch.save({"a": torch.zeros(1)}, {"artgen": '{"name": "x", "wings": 2}'})
    with pytest.raises(UsageError, match="newer artgen"):
        load_bytes(data, "new.safetensors")
    data = safetensors.torch.save({"a": torch.zeros(1)}, {"artgen": "[1]"})
    with pytest.raises(UsageError, match="they are a JSON list, not an object"):
        load_bytes(data, "list.safetensors")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"multiple": 0}, "multiple is 0"),
        ({"multiple": "8"}, "multiple is '8'"),
        ({"overlap": -5}, "overlap is -5"),
        ({"scale": 9}, "scale is 9"),
        ({"channels": 2}, "channels is 2"),
        ({"params": [1]}, r"params is \[1\]"),
        ({"architecture": []}, r"architecture is \[\]"),
        ({"channels": 3}, "channels 3, scale 1, takes_mask False for 1, 1, False"),
        ({"scale": 2}, "channels 1, scale 2, takes_mask False for 1, 1, False"),
        ({"params": {"channels": 1, "depth": 60, "width": 4096}}, "do not fit the architecture"),
    ],
)
def test_facts_that_cannot_be_are_refused_before_they_take_memory(saved, wrong, said):
    module, facts, _ = saved
    text = json.dumps({**json.loads(facts.to_json()), **wrong})
    with pytest.raises(UsageError, match=said):
        load_bytes(safetensors.torch.save(module.state_dict(), {"artgen": text}), "mine.safetensors")


def test_a_name_that_is_not_known_is_told_what_ships_and_what_must_be_trained():
    with pytest.raises(UsageError) as caught:
        load("foo")
    assert "no model is called 'foo'; shipped: default, identity; to be trained first: article, dncnn" in str(
        caught.value
    )
    with pytest.raises(UsageError, match="did you mean 'default'"):
        load("defalt")
