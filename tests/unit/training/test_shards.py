"""Lanes: who computes a shard, and how many threads torch has meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from artgen.training.shards import Shards

THREADS = 3


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_lane_has_one_thread_and_the_caller_all_of_them_only_while_lanes_are_halted():
    with Shards(8, 4).lanes(torch.device("cpu")) as lanes:
        assert lanes.number == THREADS
        found = lanes.each(lambda shard, lane: torch.tensor([shard, lane, torch.get_num_threads()]), range(4))
        assert [one.tolist() for one in found] == [[0, 0, 1], [1, 1, 1], [2, 2, 1], [3, 0, 1]]
        assert torch.get_num_threads() == 1
        with lanes.halted():
            assert torch.get_num_threads() == THREADS
        assert torch.get_num_threads() == 1
        with pytest.raises(ValueError, match="a look that fails"), lanes.halted():
            raise ValueError("a look that fails")
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == THREADS


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [0, 1])
def test_one_shard_is_the_callers_with_all_threads(count):
    with Shards(8, count).lanes(torch.device("cpu")) as lanes:
        assert lanes.number == 1
        with lanes.halted():
            assert torch.get_num_threads() == THREADS
        assert lanes.each(lambda *_: torch.tensor(torch.get_num_threads()), range(1)) == [torch.tensor(THREADS)]
    assert torch.get_num_threads() == THREADS
