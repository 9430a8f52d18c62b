"""What every node must see: a node without INPUT or masks ends the run, instead of failing image after image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from artgen.config import RestoreConfig
from artgen.engines.answer import Answer
from artgen.engines.ray_cluster import Sealed
from artgen.engines.ray_data import RayEngine
from artgen.engines.ray_worker import Orders, Worker
from artgen.errors import RunError
from artgen.inference.restore import RestoreOptions
from artgen.work.plan import Plan, UnitRef
from artgen.work.restoration import RestoreJob
from artgen.work.unit import Publish
from tests import pictures

pytestmark = pytest.mark.ray


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("in", "masks"):
        pictures.write_folder(tmp_path / name, {"a.png": pictures.png(pictures.picture(1))})
    return tmp_path


def orders(places: Path, **settings: Any) -> Orders:
    """What the driver, which sees all of them, tells its workers."""
    output = str(places / "out")
    config = RestoreConfig(input=str(places / "in"), output=output, **settings)
    plan = Plan(output, hash="0", images=1, skipped=0, unit_images=1, listing="", settings={})
    return RayEngine(config)._orders(plan, RestoreJob("default", "0", RestoreOptions()), Publish(output, ("png",)))


def test_workers_look_for_input_and_masks(places: Path) -> None:
    assert orders(places).places == (str(places / "in"),)
    assert orders(places, masks=str(places / "masks")).places == (str(places / "in"), str(places / "masks"))
    assert orders(places, masks="s3://bucket/masks").places == (str(places / "in"),)


@pytest.mark.parametrize("gone", ["in", "masks"])
def test_a_node_that_does_not_see_one_says_so(places: Path, gone: str) -> None:
    told = orders(places, masks=str(places / "masks"))
    (places / gone).rename(places / "elsewhere")
    answer = Answer.from_text(Worker(Sealed(told))(asdict(UnitRef("0", "units-00000.parquet", 0, 0, 1)))["answer"])
    with pytest.raises(RunError, match=f"does not see {places / gone}: on a cluster"):
        answer.raise_error()
