"""A cluster that grows while a run is under way: `--workers auto` takes the nodes that come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from artgen.commands import status
from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import ray_cluster
from artgen.engines.ray_data import RayEngine
from tests import pictures
from tests.ray.faults import WaitingWorker
from tests.runs import rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_node_that_comes_in_the_middle_takes_its_share(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayEngine, "worker_class", WaitingWorker)
    picture = pictures.png(pictures.picture(1, 40, 30))
    source = pictures.write_folder(tmp_path / "in", {f"{number:03d}.png": picture for number in range(300)})
    output = tmp_path / "out"

    config = RestoreConfig(
        input=str(source), output=str(output), unit_images=2, model="identity", address=cluster.address
    )
    ray_cluster.connect(str(cluster.address))
    with ThreadPoolExecutor(1) as beside:  # nodes are added by the main thread, or not at all
        run = beside.submit(restore, config, Console(quiet=True))
        while len(list(output.glob("manifest/*.parquet"))) < 2 and not run.done():
            time.sleep(0.1)
        cluster.add_node(num_cpus=1)
        assert run.result() == 0
    nodes = status.gather(str(output))["nodes"]
    assert len(nodes) == 2, "the run ended on the node that it began on"
    assert len(rows(output)) == 300
