"""What is transparent in an image is its mask: repaired, and opaque afterwards. What is partly so elsewhere stays so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgen.codecs.decode import decode
from artgen.codecs.encode import encode
from artgen.codecs.metadata import Metadata
from tests import pictures
from tests.runs import artgen_here, rows

HOLE = (slice(20, 30), slice(25, 45))


@pytest.fixture
def damaged() -> np.ndarray:
    pixels = np.asarray(pictures.picture(5)).copy()
    pixels[HOLE] = 255
    return pixels


def alpha_of(opaque: int, hidden: int) -> np.ndarray:
    alpha = np.full((48, 64), opaque, np.uint8)
    alpha[HOLE] = hidden
    return alpha


def test_transparent_pixels_are_repaired_and_made_opaque(tmp_path: Path, damaged: np.ndarray) -> None:
    def rgba(alpha: np.ndarray) -> bytes:
        return pictures.png(Image.fromarray(np.dstack([damaged, alpha])))

    deep, deep_alpha = damaged.astype(np.uint16) * 257, alpha_of(255, 0).astype(np.uint16) * 257
    contents = {
        "deep.png": encode(deep, deep_alpha, Metadata(), format="png").data,
        "half.png": rgba(alpha_of(128, 127)),
        "opaque.png": rgba(alpha_of(255, 255)),
        "shadow.png": rgba(alpha_of(255, 200)),
        "plain.png": pictures.png(Image.fromarray(damaged)),
        "hole.png": rgba(alpha_of(255, 0)),
    }
    source, output = pictures.write_folder(tmp_path / "in", contents), tmp_path / "out"
    result = artgen_here("restore", source, output, "--mask-from-alpha", "--keep-unmasked")
    assert result.returncode == 0, result.stderr
    told = {row["key"]: row["notes"] for row in rows(output)}
    for name in ("deep.png", "half.png", "hole.png"):
        assert "transparent pixels were repaired and made opaque" in told[name]
        restored = decode((output / "images" / name).read_bytes())
        if name == "half.png":
            assert "partial transparency was kept" in told[name]
            assert np.array_equal(restored.alpha, alpha_of(128, 255))
        else:
            assert "partial" not in told[name]
            assert restored.alpha is None
        changed = (restored.pixels != (deep if restored.bits == 16 else damaged)).any(axis=2)
        assert changed[HOLE].mean() > 0.9
        changed[HOLE] = False
        assert not changed.any()
    shadow = decode((output / "images" / "shadow.png").read_bytes())
    assert np.array_equal(shadow.alpha, alpha_of(255, 200))
    assert np.array_equal(shadow.pixels, damaged)
    assert "no pixel was more than half transparent; partial transparency was kept" in told["shadow.png"]
    assert "no pixel was transparent" in told["opaque.png"]
    assert "no alpha channel: nothing was masked" in told["plain.png"]
    for name in ("opaque.png", "plain.png"):
        restored = decode((output / "images" / name).read_bytes())
        assert restored.alpha is None
        assert np.array_equal(restored.pixels, damaged)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--masks", "{in}"), "choose one source of masks"),
        (("--model", "identity"), "takes none"),
    ],
)
def test_what_does_not_go_with_it(tmp_path: Path, damaged: np.ndarray, flags: tuple[str, ...], said: str) -> None:
    source = pictures.write_folder(tmp_path / "in", {"x.png": pictures.png(Image.fromarray(damaged))})
    given = [flag.replace("{in}", str(source)) for flag in flags]
    result = artgen_here("restore", source, tmp_path / "out", "--mask-from-alpha", *given)
    assert result.returncode == 2
    assert said in result.stderr
