"""For clusters that tests start themselves, as `ray_cluster.start_private` sets it for the product's own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A private cluster of two workers, which the runs of a module share."""
    import ray

    from artgen.engines import ray_cluster

    ray_cluster.start_private(2)
    yield
    ray.shutdown()
