"""`artgen report` in this process: which entries of the plans it reads, and whose bytes it shows."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from artgen.commands.report import _sources
from artgen.records import Source, Unit
from artgen.storage import archive
from artgen.storage.ledger import Ledger
from artgen.work import plan as plans
from artgen.work.listing import Listing
from artgen.work.plan import Plan, PlanReader, UnitRef
from tests import pictures
from tests.runs import artgen_here, run_json

IDENTITY = ("--model", "identity", "--engine", "local", "--unit-images", "2")


def planned(output: Path, found: list[Source]) -> Plan:
    with Listing("in", found) as listed:
        return plans.prepare(listed, str(output), {"extension": ".png"}, unit_images=2)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the units that are read of any plan."""
    found: list[str] = []
    real = PlanReader.load

    def told(reader: PlanReader, ref: UnitRef) -> Unit:
        found.append(ref.id)
        return real(reader, ref)

    monkeypatch.setattr(PlanReader, "load", told)
    return found


def test_only_the_units_of_the_pictures_shown_are_read(tmp_path: Path, loaded: list[str]) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(24))
    flags = ("--model", "identity", "--engine", "local", "--unit-images", "2")
    assert artgen_here("restore", source, tmp_path / "out", *flags).returncode == 0
    assert len(Ledger(str(tmp_path / "out")).units()) == 12
    loaded.clear()
    assert artgen_here("report", tmp_path / "out", "--sample", "3").returncode == 0
    assert 1 <= len(loaded) <= 3
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.count('alt="Before') >= 3
    assert "no longer at hand" not in page


def test_the_bytes_are_those_of_the_plan_that_made_the_row(tmp_path: Path, loaded: list[str]) -> None:
    """A key that was planned twice, and a unit that was split."""
    folders = [
        pictures.write_folder(tmp_path / name, {f"{n}": name.encode() for n in range(4)}) for name in ("a", "b")
    ]
    old, new = ([Source(str(n), str(folder / str(n)), "file", version="1") for n in range(4)] for folder in folders)
    first = planned(tmp_path / "out", old)
    second = planned(tmp_path / "out", [*old[:1], replace(new[1], version="2"), *old[2:]])
    (one, two), (again, _) = first.refs(), second.refs()
    units = {"0": one.id, "1": again.id, "3": f"{two.id}.1-2", "gone": "89abcdef-000000"}
    readers = _sources(str(tmp_path / "out"), units, archive.MAX_BYTES, None)
    assert {key: read() for key, read in readers.items()} == {"0": b"a", "1": b"b", "3": b"a"}
    assert sorted(loaded) == sorted([one.id, again.id, two.id])
    assert second.ref_of(one.id) is None
    assert first.ref_of(f"{first.hash[:8]}-000002") is None, "it has two units"


def test_the_page_keeps_to_the_pixels_that_the_run_was_allowed(tmp_path: Path) -> None:
    """Of the sources; those that a later run would refuse are not decoded by its page either."""
    source = pictures.write_folder(tmp_path / "in", {"small.png": _png(30, 20), "large.png": _png(50, 40)})
    flags = ("--model", "identity", "--engine", "local")
    for most, shown in (("2000", 4), ("1999", 2)):
        command = ("restore", source, tmp_path / "out", *flags, "--max-pixels", most)
        assert artgen_here(*command).returncode == 0
        assert run_json(tmp_path / "out")["config"]["max_pixels"] == int(most)
        page = (tmp_path / "out" / "report.html").read_text("utf-8")
        assert page.count("data:image/webp") == shown


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def test_a_sample_out_of_range_is_refused(tmp_path: Path) -> None:
    for sample in ("-5", "10001"):
        result = artgen_here("report", tmp_path, "--sample", sample)
        assert result.returncode == 2
        assert f"--sample {sample} is out of range: use 0 to 10000" in result.stderr


def test_a_report_may_show_no_picture(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(2))
    flags = ("--model", "identity", "--engine", "local", "--workers", "1")
    assert artgen_here("restore", source, tmp_path / "out", *flags).returncode == 0
    page = tmp_path / "out" / "report.html"
    assert "data:image/" in page.read_text("utf-8")
    assert artgen_here("report", tmp_path / "out", "--sample", "0").returncode == 0
    assert "data:image/" not in page.read_text("utf-8")


def test_a_run_that_was_killed_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    source, output = pictures.write_folder(tmp_path / "in", pictures.files(6)), tmp_path / "out"
    assert artgen_here("restore", source, output, *IDENTITY).returncode == 0
    assert "still to be done" not in (output / "report.html").read_text("utf-8")
    min((output / "manifest").iterdir()).unlink()
    (output / "_artgen" / "run.json").unlink()
    assert artgen_here("report", output).returncode == 0
    page = (output / "report.html").read_text("utf-8")
    assert "2 more are still to be done" in page
    assert "4 pictures restored" in page


def test_no_password_of_an_address_is_told(tmp_path: Path) -> None:
    source = pictures.write_folder(tmp_path / "in", pictures.files(2))
    output = "memory://me:hush@report-test/out"
    done = artgen_here("restore", source, output, *IDENTITY)
    assert done.returncode == 0, done.stderr
    again = artgen_here("report", output, "--json")
    refused = artgen_here("report", "memory://me:hush@report-test/nothing")
    assert "holds no run" in refused.stderr
    for told in (done, again, refused):
        assert "hush" not in told.stdout + told.stderr
