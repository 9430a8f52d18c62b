"""What Ray is told of a run it shows to everybody on the cluster, and writes to its logs."""

from __future__ import annotations

import sys

import pytest
from ray._private import utils as ray_utils
from ray.data._internal.metadata_exporter import sanitize_for_struct

from artgen.codecs.credentials import Credentials
from artgen.engines import ray_cluster
from artgen.engines.ray_worker import Orders, Sealed
from artgen.inference.restore import RestoreOptions
from artgen.work.restoration import RestoreJob
from artgen.work.unit import Publish


def test_ray_data_is_told_no_options_and_no_key() -> None:
    options = {"secret": "hush"}
    job = RestoreJob(
        "default", "0", RestoreOptions(), storage_options=options, model_options=options,
        credentials=Credentials(b"certificate", b"PRIVATE"),
    )  # fmt: skip
    orders = Orders("folder", "model", job, Publish("s3://out", ("png",), options=options), 1, ())
    sealed = Sealed(orders)
    assert sealed.orders is orders
    told = str(sanitize_for_struct({"fn_constructor_args": (sealed,)}))
    assert "hush" not in told
    assert str(list(b"PRIVATE")[:3])[1:-1] not in told


def test_the_entrypoint_that_ray_shows_is_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["artgen", "restore", "in", "out", "--storage-options", '{"secret": "hush"}'])
    before = ray_utils.get_entrypoint_name
    with ray_cluster._quiet():
        assert ray_utils.get_entrypoint_name() == "artgen restore"
    assert ray_utils.get_entrypoint_name is before
