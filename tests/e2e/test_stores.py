"""The same run on every kind of store: local files, memory, a real S3 server, and Azure Blob where azurite is installed."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artgen.storage import atomic, uri
from tests import pictures
from tests.azurite import azure_options
from tests.generators import write_run
from tests.runs import artgen_here
from tests.s3 import S3Server, s3_server

__all__ = ["azure_options", "s3_server"]
pytestmark = pytest.mark.slow
FLAGS = (
    "--model",
    "identity",
    "--workers",
    "2",
    "--unit-images",
    "2",
    "--to",
    "png",
    "--to",
    "parquet",
    "--to",
    "webdataset",
)
CONTENTS = pictures.files(5)


@dataclass(frozen=True)
class Store:
    """`root` is an empty folder in it."""

    root: str
    options: dict[str, Any] | None

    def flags(self) -> list[str]:
        return [] if self.options is None else ["--storage-options", json.dumps(self.options)]

    def artgen(self, *words: str) -> tuple[int, str]:
        result = artgen_here(*words, *self.flags())
        return result.returncode, result.stdout + result.stderr

    def outputs(self, folder: str) -> dict[str, bytes]:
        """Every picture, shard and part below OUTPUT."""
        found = {}
        for name in ("images", "parquet", "shards"):
            fs, path = uri.filesystem(f"{self.root}/{folder}/{name}", self.options)
            for file in fs.find(path):
                found[f"{name}/{file.rpartition(f'/{folder}/{name}/')[2]}"] = fs.cat_file(file)
        return found

    def rows(self, folder: str) -> list[dict[str, Any]]:
        manifest = f"{self.root}/{folder}/manifest"
        parts = [uri.read_or_none(f"{manifest}/{name}", self.options) for name in uri.names(manifest, self.options)]
        return [row for part in parts for row in pq.read_table(pa.BufferReader(part)).to_pylist()]


@pytest.fixture(params=["local", "memory", "s3", "azure"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path), None)
    if request.param == "memory":
        return Store(f"memory://{secrets.token_hex(4)}", None)
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        return Store(server.bucket(), server.options)
    options = request.getfixturevalue("azure_options")
    fs, path = uri.filesystem(f"az://test-{secrets.token_hex(4)}", options)
    fs.mkdir(path)
    return Store(f"az://{path}", options)


def test_a_run_goes_on_and_grows_whatever_the_store(store: Store, tmp_path: Path) -> None:
    packed = pictures.write_tar(tmp_path / "packed.tar", pictures.files(3, first=5)).read_bytes()
    for name, data in {**CONTENTS, "sets/packed.tar": packed}.items():
        atomic.write(f"{store.root}/in/{name}", data, store.options)
    run = ("restore", f"{store.root}/in", f"{store.root}/out", *FLAGS)
    code, said = store.artgen(*run)
    assert code == 0, said
    first = store.outputs("out")
    assert len([name for name in first if name.startswith("images/")]) == len(store.rows("out")) == 8
    here = pictures.write_folder(tmp_path / "here", {**CONTENTS, "sets/packed.tar": packed})
    assert artgen_here("restore", here, tmp_path / "reference", *FLAGS).returncode == 0
    reference = Store(str(tmp_path), None).outputs("reference")
    pictures_of = {name: data for name, data in first.items() if name.startswith("images/")}
    assert pictures_of == {name: data for name, data in reference.items() if name.startswith("images/")}
    # A part that is missing is done again, to the same bytes; a file that came is added; nothing else is touched.
    lost = uri.names(f"{store.root}/out/manifest", store.options)[0]
    uri.remove(f"{store.root}/out/manifest/{lost}", store.options)
    assert store.artgen(*run)[0] == 0
    assert store.outputs("out") == first
    atomic.write(f"{store.root}/in/late.png", pictures.png(pictures.picture(99)), store.options)
    code, said = store.artgen(*run)
    assert code == 0, said
    assert {name: data for name, data in store.outputs("out").items() if name in first} == first
    assert len({row["key"] for row in store.rows("out")}) == len(store.rows("out")) == 9
    code, said = store.artgen("status", f"{store.root}/out", "--json")
    facts = json.loads(said)
    assert (code, facts["done"], facts["failed"], facts["remaining"]) == (0, 9, 0, 0)
    code, said = store.artgen(*run, "--strength", "0.5")
    assert code == 2
    assert "strength: was 1.0, now 0.5" in said
    assert store.artgen(*run, "--strength", "0.5", "--overwrite")[0] == 0
    assert len(store.rows("out")) == 9


def test_generated_pictures_are_the_same_whatever_the_store(store: Store, tmp_path: Path) -> None:
    model = str(write_run(tmp_path / "model"))
    sinks = ("--to", "png", "--to", "parquet", "--to", "webdataset", "--unit-images", "3", "--workers", "2")
    run = ("generate", model, f"{store.root}/out", "--grid", *sinks)
    code, said = store.artgen(*run, "--seeds", "0-7")
    assert code == 0, said
    first = store.outputs("out")
    assert (
        artgen_here("generate", model, tmp_path / "reference", "--grid", *sinks, "--seeds", "0-7").returncode == 0
    )
    assert first == Store(str(tmp_path), None).outputs("reference")
    lost = uri.names(f"{store.root}/out/manifest", store.options)[0]
    uri.remove(f"{store.root}/out/manifest/{lost}", store.options)
    assert store.artgen(*run, "--seeds", "0-7")[0] == 0
    assert store.outputs("out") == first
    assert store.artgen(*run, "--seeds", "0-9")[0] == 0
    assert sorted(row["seed"] for row in store.rows("out")) == list(range(10))
    assert {name: data for name, data in store.outputs("out").items() if name in first} == first
    assert uri.read_or_none(f"{store.root}/out/grid.png", store.options) is not None
