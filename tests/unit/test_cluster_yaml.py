"""cluster.yaml against Ray's own schema, offline, and what it must not open."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from artgen import cli

FILE = Path(__file__).resolve().parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_rays_schema_takes_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize("break_it", [lambda c: c.update(max_worker=3), lambda c: c.update(head_node_type="hed")])
def test_the_check_can_fail(config: dict[str, Any], break_it: Any) -> None:
    break_it(config)
    with pytest.raises(Exception, match=r"max_worker|hed|head_node_type"):
        validate_config(prepare_config(config))


def test_the_command_at_its_head_asks_for_gpus_that_its_nodes_have(config: dict[str, Any]) -> None:
    text = FILE.read_text().replace("\\\n#", "")
    (command,) = [line for line in text.splitlines() if "ray job submit" in line]
    given = vars(cli.parser().parse_args(["restore", *command.partition("jobs/restore.py ")[2].split()]))
    workers = [node["max_workers"] for name, node in config["available_node_types"].items() if name != "head"]
    assert (given["engine"], given["device"]) == ("ray", "cuda")  # `auto` would take the CPUs: no GPU is up as yet
    assert given["workers"] == f"1:{min(config['max_workers'], sum(workers))}"


def test_nothing_but_ssh_is_open_and_no_key_is_in_it(config: dict[str, Any]) -> None:
    assert config["provider"]["security_group"]["IpPermissions"] == []
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    text = FILE.read_text().lower()
    assert not any(word in text for word in ("aws_access_key", "aws_secret", "password", "0.0.0.0"))


def test_one_image_is_to_be_filled_in_and_none_is_rays_old_default(config: dict[str, Any]) -> None:
    images = {node["node_config"]["ImageId"] for node in config["available_node_types"].values()}
    assert images == {"ami-FILL-IN"}
    assert "base-oss-nvidia-driver-gpu" in FILE.read_text()


def test_only_what_is_installed_travels(config: dict[str, Any]) -> None:
    mounts = config["file_mounts"]
    assert sorted(mounts.values()) == ["LICENSE", "README.md", "artgen", "pyproject.toml"]
    assert all((FILE.parent / name).exists() for name in mounts.values())
    assert all(place == f"/home/ray/artgen/{name}" for place, name in mounts.items())


def test_spot_workers_have_an_on_demand_fall_back_and_leave_when_idle(config: dict[str, Any]) -> None:
    nodes = config["available_node_types"]
    assert nodes["gpu-spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in nodes["gpu-on-demand"]["node_config"]
    assert all(node.get("min_workers", 0) == 0 for node in nodes.values())
    assert config["idle_timeout_minutes"] <= 10
