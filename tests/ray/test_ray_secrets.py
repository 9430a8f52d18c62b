"""What Ray is told of a run it shows to everybody on the cluster, and writes to its logs."""

from __future__ import annotations

import sys

import pytest
from ray._private import utils as ray_utils
from ray.data._internal.metadata_exporter import sanitize_for_struct
from ray.train.v2._internal.state.schema import _to_json_serializable_value

from artgen.codecs.credentials import Credentials
from artgen.engines import ray_cluster, ray_train
from artgen.engines.ray_cluster import Sealed
from artgen.engines.ray_worker import Orders
from artgen.inference.restore import RestoreOptions
from artgen.training.recipe import load_recipe
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


def test_ray_train_is_told_no_options_and_no_address() -> None:
    recipe = load_recipe("default", {"start": "sftp://me:hush@host/w.safetensors"})
    orders = ray_train.Orders(("s3://in",), "s3://run", recipe, "cpu", 1, {"secret": "hush"}, ())
    assert "hush" in str(_to_json_serializable_value({"orders": orders}))  # otherwise this test would see nothing
    assert "hush" not in str(_to_json_serializable_value({"orders": Sealed(orders)}))


@pytest.mark.parametrize("program", [["artgen", "restore"], ["jobs/restore.py"]])
def test_the_entrypoint_that_ray_shows_holds_no_argument(
    monkeypatch: pytest.MonkeyPatch, program: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [*program, '--storage-options={"secret": "hush"}', "in", "out"])
    before = ray_utils.get_entrypoint_name
    with ray_cluster._quiet():
        assert ray_utils.get_entrypoint_name() == "artgen"
    assert ray_utils.get_entrypoint_name is before
