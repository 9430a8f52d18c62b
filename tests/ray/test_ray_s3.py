"""Actors that read from and write to a real S3 server, through a network that fails. Half a minute."""

from __future__ import annotations

from typing import Any

import pytest

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from tests.e2e.test_s3_faults import CONTENTS, keys, objects, outputs, put_all
from tests.proxy import FAULTS, FaultyProxy
from tests.s3 import S3Server, s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def run(bucket: str, output: str, engine: Any, options: dict[str, Any]) -> int:
    config = RestoreConfig(
        input=f"{bucket}/in", output=f"{bucket}/{output}", model="identity", engine=engine, workers="2", unit_images=2,
        to=("png", "webdataset"), storage_options=options,
    )  # fmt: skip
    return restore(config, Console(quiet=True))


def test_from_bucket_to_bucket_on_ray_through_a_bad_network(
    private_cluster: None, s3_server: S3Server, s3_bucket: str
) -> None:
    put_all(s3_server, f"{s3_bucket}/in", CONTENTS)
    assert run(s3_bucket, "clean", "local", s3_server.options) == 0
    with FaultyProxy(s3_server.endpoint, 0.1, seed=3, stall_s=2.0) as proxy:
        bad = {**s3_server.options, "endpoint_url": proxy.endpoint, "config_kwargs": {"read_timeout": 1.0}}
        assert run(s3_bucket, "out", "ray", bad) == 0
        assert sum(proxy.counts[fault] for fault in FAULTS) > 5
    assert outputs(s3_server, f"{s3_bucket}/out") == outputs(s3_server, f"{s3_bucket}/clean")
    assert keys(s3_server, f"{s3_bucket}/out") == sorted(CONTENTS)
    for name, data in objects(s3_server, f"{s3_bucket}/out").items():
        assert s3_server.secret.encode() not in data, name
