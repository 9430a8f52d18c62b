from __future__ import annotations

import pytest

from artgen.engines.ray_cluster import MOST_GROWN, Pool, pool


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(
    ("workers", "device", "nodes", "expected"),
    [
        ("auto", "cpu", [node(1)], Pool(1, 1, 1, 0)),
        ("auto", "cpu", [node(0)], Pool(1, 1, 1, 0)),
        ("auto", "cpu", [node(3), node(8), node(8, alive=False)], Pool(10, 10, 1, 0)),
        ("2:20", "cpu", [node(3)], Pool(2, 20, 1, 0)),
        ("auto", "cuda", [node(4), node(17, 2), node(33, 4)], Pool(6, 6, 8, 1)),
        ("auto", "cuda", [node(200, 1)], Pool(1, 1, 32, 1)),
        ("1:8", "cuda", [node(9, 2)], Pool(1, 8, 4, 1)),
        ("auto", "cuda", [node(4)], Pool(1, 1, 4, 1, guessed=True)),
        ("auto", "cuda", [node(0)], Pool(1, 1, 4, 1, guessed=True)),
        ("1:16", "cuda", [node(0)], Pool(1, 16, 4, 1, guessed=True)),
        ("1:16", "cuda", [node(0), node(16, 1), node(16, 1)], Pool(1, 16, 15, 1)),
        ("auto", "mps", [node(9)], Pool(1, 1, 8, 0)),
    ],
)
def test_actors_fit_the_nodes(workers: str, device: str, nodes: list[dict], expected: Pool) -> None:
    assert pool(workers, device, nodes) == expected


@pytest.mark.parametrize(
    ("workers", "device", "nodes", "expected"),
    [
        ("auto", "cpu", [node(0)], Pool(1, MOST_GROWN, 1, 0)),
        ("auto", "cpu", [node(3), node(8)], Pool(10, MOST_GROWN, 1, 0)),
        ("auto", "cuda", [node(0)], Pool(1, MOST_GROWN, 4, 1, guessed=True)),
        ("auto", "cuda", [node(0), node(17, 2)], Pool(2, MOST_GROWN, 8, 1)),
        ("auto", "cpu", [node(2 * MOST_GROWN + 1)], Pool(2 * MOST_GROWN, 2 * MOST_GROWN, 1, 0)),
        ("3", "cpu", [node(8)], Pool(3, 3, 1, 0)),
        ("2:20", "cuda", [node(8)], Pool(2, 20, 4, 1, guessed=True)),
    ],
)
def test_auto_has_room_where_nodes_may_come(workers: str, device: str, nodes: list[dict], expected: Pool) -> None:
    assert pool(workers, device, nodes, grows=True) == expected
