"""What ranks tell each other before the first step; each is played by one whose others answer by hand."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from artgen.errors import RunError
from artgen.training import rank as ranks
from artgen.training.gan_recipe import GanRecipe
from artgen.training.gan_run import train_gan
from artgen.training.journal import read_log
from artgen.training.rank import Rank, agreed_precision, check_same_pictures, gathered

CPU = torch.device("cpu")


def among(*others: list[float], number: int = 0) -> Rank:
    """A rank that the others, in their order, tell these values when all tell equally many; else nothing."""

    def add_up(flat: Tensor) -> None:
        told = [
            value for values in (*others[:number], [0.0] * len(others[0]), *others[number:]) for value in values
        ]
        if len(told) == len(flat):
            flat += torch.tensor(told, dtype=flat.dtype)

    return Rank(number, len(others) + 1, add_up)


def test_every_rank_hears_all_in_their_order() -> None:
    assert gathered([1, 2], CPU, Rank()) == [[1, 2]]
    assert gathered([1, 2], CPU, among([3, 4], [5, 6], number=1)) == [[3, 4], [1, 2], [5, 6]]


def test_ranks_that_kept_different_pictures_end() -> None:
    mine, same, other = "f" * 64, [5, 2**52 - 1], [4, 77]
    check_same_pictures(mine, 5, CPU, Rank())
    check_same_pictures(mine, 5, CPU, among(same, same))
    for number in range(3):
        with pytest.raises(RunError, match="different pictures of DATA"):
            check_same_pictures(mine, 5, CPU, among(same, other, number=number))
    with pytest.raises(RunError, match="different pictures"):
        check_same_pictures(mine, 5, CPU, among([5, 78]))


@pytest.fixture
def data(tmp_path: Path) -> str:
    for number in range(4):
        path = tmp_path / "data" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (28, 28), np.uint8)).save(path)
    return str(tmp_path / "data")


SMALL = GanRecipe(
    model="mlp", generator={"widths": [8]}, discriminator={"widths": [8]}, batch_images=4, shards=2, images=4, latent=8,
    metric_images=4,
)  # fmt: skip


def test_a_run_does_not_begin_when_a_rank_kept_fewer_pictures(data: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\(rank 0 4, rank 1 3\)"):
        train_gan(data, str(tmp_path / "run"), SMALL, rank=among([3, 77]))
    assert not (tmp_path / "run").exists()


def test_the_first_rank_says_what_auto_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert agreed_precision("auto", CPU, Rank()) == "bf16"
    assert agreed_precision("fp32", CPU, Rank()) == "fp32"
    assert not caplog.text
    with caplog.at_level(logging.WARNING, ranks.__name__):
        assert agreed_precision("auto", CPU, Rank(1, 2, lambda flat: flat)) == "fp32"
    assert "precision 'auto' is bf16 here and fp32 on rank 0: fp32 is used" in caplog.text


def test_a_run_that_goes_on_in_another_precision_says_so(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    for images, fast in ((4, False), (8, False), (12, True)):
        assert "with other settings" not in caplog.text
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda fast=fast: fast)
        train_gan(data, str(run), replace(SMALL, images=images))
    assert "with other settings than so far: precision 'fp32' -> 'bf16'" in caplog.text
    assert json.loads((run / "recipe.json").read_text())["precision"] == "bf16"
    lines = read_log(str(run))
    assert [line["precision"] for line in lines if "precision" in line] == ["fp32", "fp32", "bf16"]
    assert [line["changed_settings"] for line in lines if "changed_settings" in line] == [
        {"precision": ["fp32", "bf16"]}
    ]
