"""Windows around what is lost: every pixel in one of them, with all that has a part in filling it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from artgen.models.restorers import filling
from artgen.models.restorers.patches import MARGIN, patches


def lost_at(height: int, width: int, *rectangles: tuple[int, int, int, int]) -> Tensor:
    lost = torch.zeros(3, height, width)
    for number, (top, left, h, w) in enumerate(rectangles):
        lost[number % 3, top : top + h, left : left + w] = 1
    return lost


def test_windows_hold_all_that_is_lost_once_and_what_is_around_it() -> None:
    rectangles = [(0, 0, 1, 1), (40, 50, 3, 20), (44, 130, 1, 1), (100, 100, 9, 9), (127, 199, 1, 1)]
    lost = lost_at(128, 200, *rectangles)
    covered = torch.zeros(128, 200)
    groups = patches(lost)
    assert groups is not None
    assert sum(len(places) for places, _ in groups) == len(rectangles)
    for places, own in groups:
        assert own.shape == (
            len(places),
            1,
            places[0][0].stop - places[0][0].start,
            places[0][1].stop - places[0][1].start,
        )
        for (rows, columns), mine in zip(places, own[:, 0], strict=True):
            here = (lost[:, rows, columns].amax(0) > 0) & (mine > 0)
            covered[rows, columns] += here
            down, across = (
                found + part.start for found, part in zip(here.nonzero().T, (rows, columns), strict=True)
            )
            for found, part, length in ((down, rows, 128), (across, columns, 200)):
                assert part.start == 0 or found.min() - part.start >= MARGIN
                assert part.stop == length or part.stop - 1 - found.max() >= MARGIN
    assert torch.equal(covered, (lost.amax(0) > 0).float())


def test_what_is_near_shares_a_window_and_what_is_far_does_not() -> None:
    def count(gap: int) -> int:
        found = patches(lost_at(128, 128, (60, 20, 1, 1), (60, 21 + gap, 1, 1)))
        return sum(len(places) for places, _ in found or [])

    assert count(MARGIN - 1) == 1
    assert count(20) == 2


def test_nothing_lost_needs_no_window_and_much_of_it_the_whole_picture() -> None:
    assert patches(torch.zeros(3, 64, 64)) == []
    assert patches((torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.1).float()) is None
    assert patches(lost_at(512, 512, *[(0, 0, 300, 2)])) is None  # larger than any window


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(256, 320), (96, 200), (16, 8), (68, 36)])
@pytest.mark.parametrize("share", [0.0, 0.0002, 0.002, 0.02, 0.5])
def test_a_picture_filled_by_windows_has_the_values_of_one_filled_whole(
    height: int, width: int, share: float
) -> None:
    dice = torch.Generator().manual_seed(height + int(share * 1e4))
    y, thrown = torch.rand(2, 3, 3, height, width, generator=dice)
    lost = (thrown < share).float()
    lost[0] = torch.maximum(lost[0], lost_at(height, width, (3, 2, 6, 20)))
    lost[2] = 0
    whole = filling._swept(y, lost, 12)
    assert torch.allclose(filling.follow_edges(y, lost), whole, rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_picture_that_lost_little_is_worked_on_where_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    swept = filling._swept
    monkeypatch.setattr(
        filling, "_swept", lambda y, lost, sweeps: (sizes.append(y.numel()), swept(y, lost, sweeps))[1]
    )
    y = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    lost = torch.zeros_like(y)
    assert torch.equal(filling.follow_edges(y, lost), y)
    lost[0, 1, 30, 40] = lost[1, 0, 200, 200] = 1
    filling.follow_edges(y, lost)
    assert sizes == [3 * 16 * 16] * 2
