"""Weights that lie elsewhere: on a store that takes options, behind a signed URL, behind a password."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fsspec import register_implementation
from fsspec.implementations.memory import MemoryFileSystem

from artgen.errors import UsageError
from artgen.inference.restore import RestoreOptions
from artgen.models import place
from artgen.models.gans.weights import load_painter
from artgen.models.registry import build
from artgen.models.weights import load
from artgen.storage import atomic, uri
from artgen.training.recipe import load_recipe
from artgen.training.run import fresh
from artgen.work.generation import GenerateJob
from artgen.work.restoration import RestoreJob
from tests.generators import write_run


class Locked(MemoryFileSystem):
    """memory://, for those who have the key."""

    protocol = "locked"
    cachable = False

    def __init__(self, key: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._key = key

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        if self._key != "right":
            raise PermissionError("AccessDenied")
        return super().cat_file(path, *args, **options)


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, bytes]:
    """A restorer's and a generator's."""
    module, facts = build("dncnn", {"channels": 1, "depth": 4, "width": 8})
    restorer = safetensors.torch.save(module.state_dict(), {"artgen": facts.to_json()})
    return {"restorer": restorer, "painter": (write_run(tmp_path) / "model.safetensors").read_bytes()}


@pytest.mark.parametrize("kind", ["restorer", "painter"])
def test_options_reach_the_store_of_the_model_here_and_in_workers(weights: dict[str, bytes], kind: str) -> None:
    register_implementation("locked", Locked, clobber=True)
    options, model = {"key": "right"}, f"locked://{kind}"
    atomic.write(f"{model}/model.safetensors", weights[kind], options)
    if kind == "restorer":
        job = RestoreJob(model, "", RestoreOptions(), model_options=options)
        sha256 = load(model, options).sha256
    else:
        job = GenerateJob(model, "", model_options=options)
        sha256 = load_painter(model, options).sha256
    assert job.load(model).sha256 == sha256
    assert "right" not in repr(job)
    with pytest.raises(UsageError, match="cannot be read: cannot read 'locked://"):
        (load if kind == "restorer" else load_painter)(model)


def test_training_begins_from_weights_on_such_a_store(weights: dict[str, bytes]) -> None:
    register_implementation("locked", Locked, clobber=True)
    options, params = {"key": "right"}, {"channels": 1, "depth": 4, "width": 8}
    atomic.write("locked://me:hush@start/model.safetensors", weights["restorer"], options)
    recipe = load_recipe("dncnn", {"start": "locked://me:hush@start", "params": params})
    state, _ = fresh(recipe, torch.device("cpu"), options)
    expected = safetensors.torch.load(weights["restorer"])
    assert all(torch.equal(found, expected[name]) for name, found in state.network.state_dict().items())
    wider = load_recipe("dncnn", {"start": recipe.start, "params": {**params, "width": 16}})
    for change, given in ((recipe, None), (wider, options)):
        with pytest.raises(UsageError, match="locked://start") as caught:
            fresh(change, torch.device("cpu"), given)
        assert "hush" not in str(caught.value)


def test_the_options_of_one_store_are_not_given_to_another() -> None:
    options = {"key": "k"}
    assert uri.options_for("s3://b/m", options, ("s3a://b/in", "out")) is options
    assert uri.options_for("https://host/m.pth", options, ("s3://b/in", "s3://b/out")) is None
    assert uri.options_for("s3://b/m", options, ("in", "out")) is options


@pytest.fixture
def server(weights: dict[str, bytes]) -> Iterator[str]:
    """Gives the restorer to whoever has signed, 403 to others."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status = (
                403 if "signature=good" not in query else 200 if path.endswith((".safetensors", "/get")) else 404
            )
            data = weights["restorer"] if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


def test_a_signed_url_is_read_and_neither_signature_nor_password_is_shown(server: str) -> None:
    pytest.importorskip("aiohttp")
    plain = load(f"http://{server}/model.safetensors?signature=good").sha256
    assert load(f"http://{server}/get?signature=good&file=model.safetensors").sha256 == plain
    assert load(f"http://{server}/run?signature=good").sha256 == plain
    for read, path in ((load, "a.safetensors"), (load, "a.pkl"), (load, "run"), (load_painter, "a.safetensors"),
                       (load_painter, "a.pkl"), (load_painter, "run")):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            read(f"http://me:hush@{server}/{path}?signature=bad")
        assert f"http://{server}/{path}" in str(caught.value)
        assert not any(secret in str(caught.value) for secret in ("hush", "me:hush", "=bad")), caught.value
    with pytest.raises(UsageError, match="is a restorer") as caught:
        load_painter(f"http://me:hush@{server}/a.safetensors?signature=good")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "suffix", "weights_of_run"),
    [
        ("https://h/a.PTH?x=1.2", ".pth", ""),
        ("https://h/get?file=a.safetensors", ".safetensors", ""),
        ("https://h/a.pkl?x=/b", ".pkl", ""),
        ("https://h/run/?x=1", "", "https://h/run/model.safetensors?x=1"),
        ("s3://b/run", "", "s3://b/run/model.safetensors"),
        ("runs/what?", "", "runs/what?/model.safetensors"),
    ],
)
def test_suffix_and_folder(model: str, suffix: str, weights_of_run: str) -> None:
    assert place.suffix_of(model) == suffix
    if weights_of_run:
        assert place.in_folder(model) == weights_of_run
