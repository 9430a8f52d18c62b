"""An upscaler of another project through `artgen restore`, from its weights file to the rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests import pictures
from tests.runs import artgen_here, rows

pytest.importorskip("spandrel")


@pytest.fixture
def upscaler(tmp_path: Path) -> Path:
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(1)
    path = tmp_path / "tiny-x2.safetensors"
    path.write_bytes(safetensors.torch.save(Compact(num_feat=8, num_conv=2, upscale=2).state_dict()))
    return path


def test_pictures_are_enlarged_and_alpha_with_them(tmp_path: Path, upscaler: Path) -> None:
    colour = pictures.picture(1, 61, 45)
    left_half = Image.fromarray(np.where(np.arange(61) < 30, 255, 0).astype(np.uint8)[None].repeat(45, axis=0))
    clear = colour.copy()
    clear.putalpha(left_half)
    contents = {
        "clear.png": pictures.png(clear),
        "colour.png": pictures.png(colour),
        "grey.png": pictures.png(colour.convert("L")),
        "tiled.png": pictures.png(pictures.picture(2, 150, 90)),
    }
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    flags = ("--model", upscaler, "--tile", "96", "--to", "png", "--to", "parquet")
    result = artgen_here("restore", source, output, *flags)
    assert result.returncode == 0, result.stderr
    found = {row["key"]: row for row in rows(output)}
    assert found.keys() == contents.keys()
    for key, row in found.items():
        width, height = (150, 90) if key == "tiled.png" else (61, 45)
        assert (row["width"], row["height"]) == (width, height)
        assert (row["output_width"], row["output_height"]) == (2 * width, 2 * height)
        assert row["model"].endswith("tiny-x2.safetensors")
        with Image.open(output / "images" / key) as image:
            assert image.size == (2 * width, 2 * height)
            assert image.mode == {"clear.png": "RGBA", "grey.png": "L"}.get(key, "RGB")
    with Image.open(output / "images" / "clear.png") as image:
        alpha = np.asarray(image.getchannel("A"))
    assert (alpha[:, :56] == 255).all()
    assert (alpha[:, 64:] == 0).all()
    assert (output / "report.html").is_file()


@pytest.mark.parametrize(
    ("flags", "said"), [(("--strength", "0.5"), "--strength 0.5"), (("--mask-from-alpha",), "takes none")]
)
def test_what_makes_no_sense_with_it_is_refused(
    tmp_path: Path, upscaler: Path, flags: tuple[str, ...], said: str
) -> None:
    source = pictures.write_folder(tmp_path / "in", {"x.png": pictures.png(pictures.picture(1))})
    result = artgen_here("restore", source, tmp_path / "out", "--model", upscaler, *flags)
    assert result.returncode == 2
    assert said in result.stderr


def test_it_is_not_evaluated_as_a_restorer(tmp_path: Path, upscaler: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", {"x.png": pictures.png(pictures.picture(1))})
    result = artgen_here("evaluate", "restorer", upscaler, source, "--no-peers", "--json")
    assert result.returncode == 2
    assert "enlarges 2 times" in json.loads(result.stdout)["message"]
