"""For clusters that tests start themselves, as `ray_cluster.start_private` sets it for the product's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares the private cluster comes last: while it is up, this process connects to no other."""
    items.sort(key=lambda item: "private_cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def private_cluster() -> Iterator[None]:
    """A private cluster of two workers, which all runs share that ask for it."""
    import ray

    from artgen.engines import ray_cluster

    ray_cluster.start_private(2)
    yield
    ray.shutdown()
