"""`artgen evaluate restorer`: hostile pictures, models and flags."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from artgen.codecs import decode
from artgen.codecs.guard import Guard
from artgen.commands.damage import RANGES
from artgen.errors import UsageError
from artgen.models.spec import Facts, Restorer
from artgen.models.weights import load
from artgen.training.degrade import OPERATORS
from artgen.work.evaluation import Evaluation, Task, as_json, restored_whole
from tests import pictures
from tests.runs import artgen_here

NOISE = ("--damage", "noise=25", "--no-peers", "--json")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    contents = {f"{n}.png": pictures.png(pictures.picture(n)) for n in range(3)}
    return pictures.write_folder(tmp_path / "in", {**contents, "broken.png": b"\x89PNG no more"})


def evaluate(data: Path, *flags: str, code: int = 0) -> dict[str, Any]:
    result = artgen_here("evaluate", "restorer", "identity", data, *flags)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def test_no_more_pictures_are_decoded_than_are_asked_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real = Guard.decode

    def counted(guard: Guard, given: bytes, *rest: Any) -> Any:
        decoded.append(len(given))
        return real(guard, given, *rest)

    monkeypatch.setattr(Guard, "decode", counted)
    facts = evaluate(data, *NOISE, "--images", "2")
    assert (facts["pictures"], facts["failed"], len(decoded)) == (2, 0, 2)


def test_nothing_is_decoded_in_this_process(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded where it could hang or end the run")

    monkeypatch.setattr(decode, "decode", never)
    facts = evaluate(data, *NOISE, code=3)
    assert (facts["pictures"], facts["failed"]) == (3, 1)


def test_pictures_beyond_the_limits_are_left_out(data: Path) -> None:
    pictures.write_folder(data, {"large.png": pictures.png(pictures.picture(9, 200, 100))})
    (data / "broken.png").unlink()
    facts = evaluate(data, *NOISE, "--max-pixels", "4e3", code=3)
    assert (facts["pictures"], facts["failed"]) == (3, 1)
    slow = artgen_here("evaluate", "restorer", "identity", data, *NOISE, "--image-timeout", "1e-6")
    assert slow.returncode == 2
    assert "holds no picture that can be scored (4 left out)" in slow.stdout
    assert "raise --image-timeout" in slow.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--damage", "resample=0"], "--damage resample=0 is out of range: use 1 to 100"),
        (["--damage", "noise=15,-1"], "--damage noise=-1 is out of range: use 0 to 255"),
        (["--damage", "salt-pepper-per-channel=2"], "use 0 to 1"),
        (["--damage", "poisson=0"], "use 0.01 to 1e+06"),
        (["--damage", "jpeg=nan"], "use 1 to 100"),
        (["--images", "0"], "--images is 0; use 1 or more"),
        (["--images", "-2"], "--images is -2; use 1 or more"),
        (["--device", "abacus"], "device 'abacus' is not available here"),
        (["--max-pixels", "0"], "max_pixels 0.0 is out of range"),
        (["--image-timeout", "nan"], "image_timeout nan is out of range"),
    ],
)
def test_what_cannot_be_is_told_with_its_value(data: Path, flags: list[str], said: str) -> None:
    result = artgen_here("evaluate", "restorer", "identity", data, "--no-peers", *flags)
    assert result.returncode == 2, result.stderr
    assert said in result.stderr


def test_a_strength_is_the_same_however_it_is_written(data: Path) -> None:
    tasks = [Task("noise", 15), Task("noise", 15.0)]
    shown = [("a", np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))]
    one, other = Evaluation(load("identity"), peers=False).run(tasks, shown)
    assert one.psnr == other.psnr
    assert json.dumps(as_json(one)) == json.dumps(as_json(other))


def test_a_picture_with_samples_that_are_not_numbers_is_counted_and_listed(data: Path) -> None:
    spoilt = np.full((24, 24), 0.5, np.float32)
    spoilt[3, 4] = np.inf
    Image.fromarray(spoilt).save(data / "inf.tif")
    (data / "broken.png").unlink()
    told = artgen_here("evaluate", "restorer", "identity", data, *NOISE)
    assert told.returncode == 3
    assert (json.loads(told.stdout)["pictures"], json.loads(told.stdout)["failed"]) == (3, 1)
    assert "left out 'inf.tif': DecodeFailed: 1 samples that are not numbers" in told.stderr


def test_non_local_means_is_the_stronger_one_of_opencv_for_colour() -> None:
    cv2 = pytest.importorskip("cv2")
    from artgen.metrics import classical

    rows, columns = np.mgrid[0:48, 0:48]
    clean = np.stack([0.5 + 0.4 * np.sin(rows / (4 + c)) * np.cos(columns / (5 + c)) for c in range(3)], axis=2)
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)
    weaker = cv2.fastNlMeansDenoisingColored(classical._bytes(noisy), None, 22.5, 22.5, 7, 21) / 255
    assert np.mean((classical.non_local_means(noisy, 25) - clean) ** 2) < 0.6 * np.mean((weaker - clean) ** 2)


def test_every_operator_has_a_range() -> None:
    assert RANGES.keys() == OPERATORS.keys()


def test_the_device_is_told(data: Path) -> None:
    assert evaluate(data, *NOISE, "--device", "cpu", "--images", "1")["device"] == "cpu"


def test_an_upscaler_is_refused() -> None:
    upscaler = Restorer(nn.Upsample(scale_factor=2), Facts("big", "big", scale=2), "0")
    with pytest.raises(UsageError, match=r"big enlarges 2 times.*give a model of scale 1"):
        Evaluation(upscaler)


def test_a_picture_that_leaves_a_peer_nothing_to_go_by(tmp_path: Path) -> None:
    scan = Image.fromarray((np.indices((20, 24)).sum(axis=0) % 5 > 2).astype(np.uint8) * 255)
    source = pictures.write_folder(tmp_path / "in", {"scan.png": pictures.png(scan)})
    facts = evaluate(source, "--damage", "salt-pepper=0.1", "--damage", "missing=1", "--json")
    assert facts["gave_up"] == {"cubic": 1, "detect+linear": 1}
    for result, peer in zip(facts["results"], ("detect+linear", "cubic"), strict=True):
        assert result["scores"][peer] == result["scores"]["input"]
    told = artgen_here("evaluate", "restorer", "identity", source, "--damage", "missing=1").stdout
    assert "cubic made nothing of 1 picture," in told


def test_a_peer_that_is_not_installed_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    facts = evaluate(data, "--damage", "noise=25", "--json", "--images", "1")
    assert facts["not_installed"] == ["bm3d"]
    assert facts["results"][0]["scores"].keys() == {"input", "identity", "nl-means"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_smaller_than_the_model_takes_is_mirrored_as_often_as_needed(channels: int) -> None:
    class Picky(nn.Module):
        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            assert x_BCHW.shape[1:] == (3, 48, 48)
            return x_BCHW

    picky = Restorer(Picky(), Facts("picky", "picky", multiple=16, min_size=40), "0")
    picture = torch.rand(1, channels, 11, 13)
    assert torch.allclose(restored_whole(picky, picture, torch.zeros(1, 1, 11, 13)), picture)


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured for nothing")

    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(Evaluation, "run", never)
    result = artgen_here("evaluate", "restorer", "identity", data, *NOISE, "--out", tmp_path / "file" / "x")
    assert result.returncode == 2, result.stderr
    assert f"--out {tmp_path}/file/x cannot be written to: " in result.stdout


def test_the_result_is_told_even_if_it_cannot_be_kept(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "evaluation.json").mkdir(parents=True)
    result = artgen_here(
        "evaluate", "restorer", "identity", data, *NOISE, "--images", "1", "--out", tmp_path / "out"
    )
    assert result.returncode == 1, result.stderr
    assert json.loads(result.stdout)["pictures"] == 1
    assert "evaluation.json" in result.stderr
