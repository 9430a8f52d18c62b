"""`--c2pa` of generate and restore: every picture of every sink is signed, and nothing tells the key."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import certificates
from tests.generators import write_run
from tests.runs import artgen_here, rows

c2pa = pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> str:
    return certificates.make().write(tmp_path_factory.mktemp("keys"))


def told(data: bytes, kind: str = "png") -> dict[str, Any]:
    with c2pa.Reader(f"image/{kind}", io.BytesIO(data)) as reader:
        assert reader.get_validation_state() == "Valid"
        whole = json.loads(reader.json())
    return whole["manifests"][whole["active_manifest"]]


def actions(data: bytes, kind: str = "png") -> list[str]:
    (assertion,) = told(data, kind)["assertions"]
    return [action["action"] for action in assertion["data"]["actions"]]


def test_generated_then_restored(tmp_path: Path, signing: str) -> None:
    model, drawn, repaired = write_run(tmp_path / "run"), tmp_path / "drawn", tmp_path / "repaired"
    done = artgen_here(
        "generate", model, drawn, "--seeds", "0-9", "--to", "png", "--to", "parquet", "--grid", "--interpolate", "1,2",
        "--frames", "3", "--c2pa", signing,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted((drawn / "images").rglob("*.png"))
    assert len(files) == 10
    (table,) = (drawn / "parquet").iterdir()
    in_table = [image["bytes"] for image in pq.read_table(table)["image"].to_pylist()]
    frames = sorted((drawn / "interpolation").glob("frame-*.png"))
    assert len(frames) == 3
    for data in (*in_table, *(path.read_bytes() for path in (*files, *frames, drawn / "grid.png"))):
        assert actions(data) == ["c2pa.created"]
    assert actions((drawn / "interpolation" / "animation.webp").read_bytes(), "webp") == ["c2pa.created"]

    done = artgen_here("restore", drawn / "images", repaired, "--c2pa", signing, "--model", "default")
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in rows(repaired)} == {"ok"}
    for path in sorted((repaired / "images").rglob("*.png")):
        facts = told(path.read_bytes())
        # The credentials of the drawing came along.
        assert facts["ingredients"][0]["active_manifest"]
        with Image.open(path) as image:
            image.load()
    key = Path(signing.split(",")[1]).read_bytes()
    for path in (path for output in (drawn, repaired) for path in output.rglob("*") if path.is_file()):
        assert key.split(b"\n")[1] not in path.read_bytes(), path


def test_another_certificate_is_another_setting(tmp_path: Path, signing: str) -> None:
    model, output = write_run(tmp_path / "run"), tmp_path / "out"
    assert artgen_here("generate", model, output, "--seeds", "0-3").returncode == 0
    refused = artgen_here("generate", model, output, "--seeds", "0-9", "--c2pa", signing)
    assert refused.returncode == 2
    assert "c2pa: was None" in refused.stderr


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("one.pem", "is not CERT,KEY"),
        ("missing.pem,key.pem", "there is no file missing.pem"),
        ("{chain},{chain}", "PEM files"),
    ],
)
def test_bad_flags_start_nothing(tmp_path: Path, signing: str, flag: str, told: str) -> None:
    model, output = write_run(tmp_path / "run"), tmp_path / "out"
    refused = artgen_here("generate", model, output, "--c2pa", flag.format(chain=signing.split(",")[0]))
    assert refused.returncode == 2
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not output.exists()
