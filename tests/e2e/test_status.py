"""`artgen status`: the numbers of runs that are done, failed, interrupted, on several nodes, or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artgen.commands.status import Commit, Status, rate
from artgen.sinks import manifest
from artgen.storage import uri
from tests import outputs, pictures
from tests.runs import artgen_here, rows

IDENTITY = ("--model", "identity", "--workers", "1", "--unit-images", "2")


def told(output: Path | str) -> dict:
    result = artgen_here("status", output, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_run_that_ended_and_what_failed_in_it(tmp_path: Path) -> None:
    broken = {f"broken-{n}.png": b"\x89PNG\r\n\x1a\nno more" + bytes(n) for n in range(3)}
    source = pictures.write_folder(tmp_path / "in", {**pictures.files(5), **broken, "text.png": b"hello"})
    assert artgen_here("restore", source, tmp_path / "out", *IDENTITY).returncode == 3
    facts = told(tmp_path / "out")
    assert (facts["done"], facts["failed"], facts["remaining"], facts["last_ended_run"]["ended"]) == (
        5,
        4,
        0,
        "done",
    )
    assert sum(reason["images"] for reason in facts["reasons"]) == 4
    assert facts["reasons"][0]["images"] == 3, (
        "the commonest reason comes first, whatever the names and numbers in it"
    )
    (node,) = facts["nodes"].values()
    assert (node["images"], node["failed"]) == (9, 4)
    assert facts["images_per_second"] > 0
    assert facts["last_commit_age_s"] < 60
    text = artgen_here("status", tmp_path / "out").stdout
    assert "5 images done, 4 failed, 0 remaining" in text
    assert f"3 x {facts['reasons'][0]['error_type']}" in text


def test_an_interrupted_run_tells_what_is_left(tmp_path: Path) -> None:
    """As a killed driver leaves it: parts are missing, and no run.json says how it ended."""
    source = pictures.write_folder(tmp_path / "in", pictures.files(9))
    output = tmp_path / "out"
    assert artgen_here("restore", source, output, *IDENTITY).returncode == 0
    for part in sorted((output / "manifest").iterdir())[3:]:
        part.unlink()
    (output / "_artgen" / "run.json").unlink()
    facts = told(output)
    assert (facts["done"], facts["failed"], facts["remaining"]) == (6, 0, 3)
    assert facts["last_ended_run"] is None
    assert facts["seconds_left"] is not None
    (output / "_artgen" / "current.json").unlink()
    assert told(output)["remaining"] is None
    assert "no plan yet" in artgen_here("status", output).stdout


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    result = artgen_here("status", tmp_path)
    assert result.returncode == 2
    assert "holds no run of artgen" in result.stderr


def test_a_store_is_told_of_as_well() -> None:
    output = "memory://status/out"
    manifest.write(output, outputs.UNIT, [outputs.row("a"), outputs.failed("b")])
    fs, path = uri.filesystem(f"{output}/_artgen/settings.json")
    fs.pipe_file(path, b"{}")
    facts = told(output)
    assert (facts["done"], facts["failed"], facts["remaining"]) == (1, 1, None)


def test_the_commit_of_a_part_survives_that_rows_are_dropped(tmp_path: Path) -> None:
    output = str(tmp_path)
    manifest.write(output, outputs.UNIT, [outputs.row("a"), outputs.row("b")])
    (before,) = [manifest.written(batch.schema) for batch in manifest.read(output, ["status"])]
    assert before is not None
    assert manifest.drop(output, outputs.UNIT, {"a"}) == 1
    (after,) = [manifest.written(batch.schema) for batch in manifest.read(output, ["status"])]
    assert after == before
    assert [row["key"] for row in rows(tmp_path)] == ["b"]


def test_the_rate_is_that_since_the_last_pause() -> None:
    yesterday = [Commit(float(n), "old", 100, 100, 1.0) for n in range(50)]
    today = [Commit(90_000.0 + 2 * n, "ab"[n % 2], 16, 4_000_000, 1.5) for n in range(11)]
    found = rate([*today, *yesterday])
    assert found.images == pytest.approx(8.0)
    assert found.megapixels == pytest.approx(2.0)
    assert found.nodes == {"a": pytest.approx(4.0), "b": pytest.approx(4.0)}
    assert rate([*yesterday, today[0]]).images == 0.0, "one commit after the pause: nothing is known yet"
    assert rate([]).images == 0.0


def test_units_that_take_an_hour_are_no_pause() -> None:
    found = rate([Commit(3600.0 * n, "a", 10_000, 0, 3500.0) for n in range(4)])
    assert found.images == pytest.approx(10_000 / 3600)


def test_memory_does_not_grow_with_the_parts() -> None:
    found = Status()
    batch = manifest.table([outputs.failed("x", message="m" * 50)]).to_batches()[0].select(
        ["status", "error_type", "error_message", "width", "height", "seconds"]
    )  # fmt: skip
    for n in range(3000):
        schema = batch.schema.with_metadata({b"artgen.written": json.dumps({"at": n, "node": "n"}).encode()})
        found.add(batch.replace_schema_metadata(schema.metadata))
    assert (found.failed, len(found.reasons), len(found.nodes), len(found.recent)) == (3000, 1, 1, 1024)
    assert min(found.recent).at == 3000 - 1024
