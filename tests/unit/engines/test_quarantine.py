"""Who is done in a process of its own, and who is blamed. The cell is played in this process; tests/e2e has the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console
from artgen.engines import isolation, quarantine
from artgen.engines.answer import Answer
from artgen.engines.cell import Orders
from artgen.errors import RunError
from artgen.records import Outcome
from artgen.work import unit as work
from artgen.work.plan import PlanReader, UnitRef
from tests import pictures
from tests.runs import rows, run_json, shas


class PlayedCell:
    """Does units as the real one does, but in this process; one with a killer in it ends the cell."""

    started: ClassVar[list[PlayedCell]] = []
    cannot_start = False
    kills = "killer"

    def __init__(self, orders: Orders) -> None:
        if self.cannot_start:
            raise RunError("a process that was to do units crashed (SIGILL) at its start")
        self.orders, self.done, self.alive = orders, [], True
        self.started.append(self)

    def do(self, ref: UnitRef) -> Answer | None:
        assert self.alive
        self.done.append(ref.id)
        orders = self.orders
        unit = PlanReader(orders.plan_folder).load(ref)
        if any(self.kills in entry.source.key for entry in unit.entries):
            self.alive = False
            return None

        def do() -> Outcome:
            maker = orders.job.open(orders.job.load(orders.job.model), orders.threads)
            try:
                return next(work.run([unit], maker, orders.publish))
            finally:
                maker.close()

        return Answer.of(ref.id, do)

    def how_it_died(self) -> str:
        return "crashed (SIGSEGV)"

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PlayedCell]]:
    monkeypatch.setattr(quarantine, "Cell", PlayedCell)
    monkeypatch.setattr(PlayedCell, "started", [])
    return PlayedCell.started


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Console, "say", lambda _, text: lines.append(text))
    return lines


def run(source: Path, output: Path, **settings: Any) -> int:
    config = RestoreConfig(
        input=str(source), output=str(output), model="identity", engine="local", workers="1", unit_images=2,
        precision="fp32", **settings
    )  # fmt: skip
    return restore(config, Console(quiet=True))


def source_of(folder: Path, killers: list[str], good: int = 8) -> Path:
    contents = pictures.files(good)
    picture = pictures.files(1)["a/picture-000.png"]
    return pictures.write_folder(folder, {**contents, **dict.fromkeys(killers, picture)})


def dies(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    """The run as far as one that is killed at its first killer, in this process: what was begun stays."""

    class Killed(BaseException):
        """As SIGKILL, it is no error that anybody tidies up after."""

    def make(self: Any, entries: Any) -> Any:
        if any("killer" in entry.source.key for entry in entries):
            raise Killed
        return made(self, entries)

    from artgen.work.restoration import Restoration

    made = Restoration.make
    with monkeypatch.context() as patch:
        patch.setattr(Restoration, "make", make)
        with pytest.raises(Killed):
            run(source, output, **settings)
    assert begun(output)


def begun(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "_artgen" / "begun").glob("*"))


def failed(output: Path) -> dict[str, str]:
    return {row["key"]: row["error_message"] for row in rows(output) if row["status"] == "failed"}


def test_an_image_that_kills_becomes_a_row_and_all_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell], said: list[str]
) -> None:
    source, output = source_of(tmp_path / "in", ["a/killer.png", "b/killer.png"]), tmp_path / "out"
    dies(source, output, monkeypatch)
    assert run(source, output) == 3
    assert len(rows(output)) == 10
    assert set(failed(output)) == {"a/killer.png", "b/killer.png"}
    assert "2 times (its process crashed (SIGSEGV)): look at the file" in failed(output)["a/killer.png"]
    assert len(cells) == 2 * (2 + 2)  # each killer twice with its neighbour, twice alone
    assert "under way when the last run died: doing them first, in a process of their own" in said[0]
    assert [line.partition(" lost with")[0] for line in said[1:] if "lost with" in line] == [
        "4 images",
        "4 images",
        "2 images",
    ]
    assert begun(output) == []
    assert not any(cell.alive for cell in cells)
    assert run_json(output)["runs"][-1]["images"] == 10
    clean = source_of(tmp_path / "clean-in", [])
    assert run(clean, tmp_path / "clean") == 0
    assert {key: sha for key, sha in shas(output).items() if key not in failed(output)} == shas(tmp_path / "clean")


def test_what_was_killed_from_outside_is_done_by_one_cell_and_the_rest_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell], said: list[str]
) -> None:
    source, output = source_of(tmp_path / "in", ["a/picture-002-killer.png"]), tmp_path / "out"
    dies(source, output, monkeypatch)
    (source / "a/picture-002-killer.png").write_bytes(b"no picture")
    (source / "a/picture-002-killer.png").rename(source / "a/picture-002-innocent.png")  # another plan, too
    assert run(source, output) == 3
    assert set(failed(output)) == {"a/picture-002-innocent.png"}
    (cell,) = cells
    assert 1 <= len(cell.done) <= 3
    assert len(rows(output)) == 9
    assert said[0].endswith("in a process of their own")
    assert begun(output) == []


def test_a_run_without_suspects_starts_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    source, output = source_of(tmp_path / "in", []), tmp_path / "out"
    assert run(source, output) == 0
    assert run(source, output) == 0
    assert cells == []
    assert not (output / "_artgen" / "begun").exists()


def test_on_error_stop_stops_at_it_again_and_again_and_dies_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    source, output = source_of(tmp_path / "in", ["a/killer.png"]), tmp_path / "out"
    dies(source, output, monkeypatch, on_error="stop")
    for _ in range(2):
        assert run(source, output, on_error="stop") == 1
        assert "--on-error stop; the same command resumes" in run_json(output)["runs"][-1]["ended"]
        assert begun(output), "it is under suspicion until it has a row"
    assert failed(output) == {}
    assert run(source, output) == 3
    assert set(failed(output)) == {"a/killer.png"}


def test_retry_failed_tries_it_again_and_isolates_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    source, output = source_of(tmp_path / "in", ["a/killer.png"]), tmp_path / "out"
    dies(source, output, monkeypatch)
    assert run(source, output) == 3
    dies(source, output, monkeypatch, retry_failed=True)
    assert len(rows(output)) == 8
    assert run(source, output, retry_failed=True) == 3
    assert set(failed(output)) == {"a/killer.png"}
    assert len(rows(output)) == 9


def test_units_that_all_kill_where_none_was_ever_done_are_laid_to_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    killers = [f"killer-{n:02d}.png" for n in range(2 * quarantine.FEWEST_UNITS)]
    source, output = source_of(tmp_path / "in", killers, good=0), tmp_path / "out"
    dies(source, output, monkeypatch)
    assert run(source, output) == 1
    assert "so no image is to blame" in run_json(output)["runs"][-1]["ended"]
    assert rows(output) == []
    assert run(source, output) == 1
    monkeypatch.setattr(PlayedCell, "kills", "nothing")  # memory was added, say
    assert run(source, output) == 0
    assert len(rows(output)) == len(killers)
    assert begun(output) == []


def test_few_images_that_all_kill_get_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    source, output = (
        source_of(tmp_path / "in", ["killer-1.png", "killer-2.png", "killer-3.png"], good=0),
        tmp_path / "out",
    )
    dies(source, output, monkeypatch)
    assert run(source, output) == 3
    assert len(failed(output)) == 3


def test_more_poison_than_a_run_bears_is_done_by_running_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    monkeypatch.setattr(isolation, "MOST_DIED", 2)
    source, output = source_of(tmp_path / "in", [f"c/killer-{n}.png" for n in range(5)]), tmp_path / "out"
    dies(source, output, monkeypatch)
    assert run(source, output) == 1
    assert "more than 2 images ended their workers" in run_json(output)["runs"][-1]["ended"]
    assert len(failed(output)) == 2
    assert run(source, output) == 1
    assert run(source, output) == 3
    assert (len(failed(output)), len(rows(output))) == (5, 13)


def test_where_no_cell_can_start_the_units_are_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell], said: list[str]
) -> None:
    source, output = source_of(tmp_path / "in", ["a/killer.png"]), tmp_path / "out"
    dies(source, output, monkeypatch)
    monkeypatch.setattr(PlayedCell, "cannot_start", True)
    assert run(source, output) == 0
    assert said[1].endswith("crashed (SIGILL) at its start; doing them in this one")
    assert len(rows(output)) == 9


def test_what_only_this_process_can_see_is_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[PlayedCell]
) -> None:
    from artgen.storage import atomic

    for name, data in {**pictures.files(3), "a/killer.png": pictures.files(1)["a/picture-000.png"]}.items():
        atomic.write(f"memory://{tmp_path.name}/{name}", data)
    source: Any = f"memory://{tmp_path.name}"
    dies(source, tmp_path / "out", monkeypatch)
    assert run(source, tmp_path / "out") == 0
    assert cells == []
