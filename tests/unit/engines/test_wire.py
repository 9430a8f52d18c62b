from __future__ import annotations

import pytest

from artgen.codecs.credentials import Credentials
from artgen.engines import wire
from artgen.engines.cell import Orders
from artgen.inference.restore import RestoreOptions
from artgen.work.generation import GenerateJob
from artgen.work.restoration import RestoreJob
from artgen.work.unit import Publish

OPTIONS = {"key": "k", "client_kwargs": {"region_name": "x", "bytes": [1, None]}, "anon": False}


@pytest.mark.parametrize(
    "job",
    [
        RestoreJob("default", "ab" * 32, RestoreOptions(tile=192, overlap=64, strength=0.5), storage_options=OPTIONS),
        GenerateJob("run", "cd" * 32, (0, 2), credentials=Credentials(b"\xff\x00 certificate", b"key")),
    ],
    ids=["restore", "generate"],
)  # fmt: skip
def test_orders_come_out_as_they_went_in(job: RestoreJob | GenerateJob) -> None:
    orders = Orders("out/_artgen/plan-0", job, Publish("out", ("png", "parquet"), "stop", "0123", OPTIONS), 2)
    text = wire.to_text(orders)
    assert "\n" not in text
    assert wire.from_text(text) == orders


@pytest.mark.parametrize("options", [{"session": object()}, {"client_kwargs": {1: 2}}])
def test_what_is_no_data_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="cannot be told to another process"):
        wire.to_text(Publish("out", ("png",), options=options))
