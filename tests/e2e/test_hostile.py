"""Odd, corrupt and hostile files: every path ends as EXPECT.csv says, in bounded memory, with nothing outside OUTPUT."""

from __future__ import annotations

import csv
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runs import ARTGEN, artgen_here, environment, rows, tree

pytestmark = [pytest.mark.shared, pytest.mark.slow]
PEAK_MB = 2048
ARCHIVES: dict[str, tuple[int | None, int | None]] = {  # images restored, failed rows; None: either is allowed
    "bomb_zip_1GiB_member.zip": (1, 1),
    "pq_all_null_column.parquet": (0, 4),
    "pq_empty.parquet": (0, 1),
    "pq_large_binary_dict.parquet": (3, 0),
    "pq_null_bytes.parquet": (2, 3),
    "pq_null_type_column.parquet": (0, 1),
    "pq_string_paths_only.parquet": (0, 1),
    "pq_zero_rows.parquet": (0, 0),
    "tar_case_collision.tar": (3, 0),
    "tar_duplicate_names.tar": (4, 0),
    "tar_member_claims_8GiB.tar": (5, 1),
    "tar_slip.tar": (3, None),
    "tar_unicode_names.tar": (5, 0),
    "tar_zero_bytes.tar": (0, 1),
    "wds_duplicate_keys.tar": (None, 0),
    "zip_bad_crc_member.zip": (19, 1),
    "zip_duplicate_names.zip": (2, 0),
    "zip_not_a_zip.zip": (0, 1),
    "zip_symlink.zip": (1, 0),
    "zip_unicode.zip": (2, 0),
}


@pytest.fixture(scope="module")
def hostile(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    with tarfile.open(shared / "hostile" / "hostile.tar") as archive:
        archive.extractall(folder, filter="fully_trusted")
    return folder


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, dict[str, str]]:
    with open(shared / "hostile" / "EXPECT.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def restore(source: Path, output: Path, model: str) -> tuple[int, str, float]:
    """Exit code, stderr, and the peak of the memory (MB) of the process and its children together."""
    process = subprocess.Popen(
        [*ARTGEN, "restore", source, output, "--model", model, "--max-pixels", "64e6"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True,
    )  # fmt: skip
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    _, err = process.communicate(timeout=400)
    watcher.join()
    return process.returncode, err, peak[0]


def _watch(process: subprocess.Popen[str], peak: list[float]) -> None:
    while process.poll() is None:
        pss_kb = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if stat.read_text().rpartition(")")[2].split()[2] == str(process.pid):  # its process group
                    rollup = (stat.parent / "smaps_rollup").read_text()
                    pss_kb += int(rollup.partition("\nPss:")[2].split()[0])
            except (OSError, IndexError, ValueError):  # it ended meanwhile
                continue
        peak[0] = max(peak[0], pss_kb / 1024)
        time.sleep(0.05)


def test_folder_of_hostile_files(hostile: Path, expected: dict[str, dict[str, str]], tmp_path: Path) -> None:
    before = tree(hostile.parent)
    code, err, peak_mb = restore(hostile, tmp_path / "out", "identity")
    assert code == 3, err
    assert "Traceback" not in err
    assert peak_mb < PEAK_MB
    assert tree(hostile.parent) == before
    found = {row["key"]: row for row in rows(tmp_path / "out")}
    wrong = []
    for path, row in expected.items():
        if row["cls"] in ("archive", "parquet"):
            continue
        got = found.get(path)
        if path.endswith("directory_named.png"):
            if got is not None:
                wrong.append(f"{path}: a folder was read as an image")
        elif got is None:
            wrong.append(f"{path}: no row")
        elif row["cls"] == "good":
            size = (int(row["width"]), int(row["height"]))
            if got["status"] != "ok" or (got["width"], got["height"]) != size:
                wrong.append(
                    f"{path}: {got['status']} {got['width']}x{got['height']}, due {size}: {got['error_message']}"
                )
        elif row["cls"] in ("corrupt", "bomb") and got["status"] != "failed":
            wrong.append(f"{path}: restored")
    assert wrong == []
    for row in found.values():
        assert row["status"] == "ok" or len(row["error_message"]) > 8, row["key"]
    names = [row["output_name"].casefold() for row in found.values() if row["status"] == "ok"]
    assert len(names) == len(set(names))
    assert {path.parts[0] for path in map(Path, tree(tmp_path))} == {"out"}


def check_archive(name: str, found: list[dict[str, Any]]) -> None:
    told = [(row["key"], row["error_message"]) for row in found]
    for status, due in zip(("ok", "failed"), ARCHIVES[name], strict=True):
        assert due is None or sum(row["status"] == status for row in found) == due, (name, status, told)


def test_every_archive_of_the_corpus_is_here(expected: dict[str, dict[str, str]]) -> None:
    packed = [path for path, row in expected.items() if row["cls"] in ("archive", "parquet")]
    assert sorted(packed) == [f"archives/{name}" for name in sorted(ARCHIVES)]


def test_all_archives_at_once_by_the_model_that_ships(hostile: Path, tmp_path: Path) -> None:
    code, err, peak_mb = restore(hostile / "archives", tmp_path / "out", "default")
    assert code == 3, err
    assert "Traceback" not in err
    assert 100 < peak_mb < PEAK_MB  # less would be a watcher that saw nothing
    found = rows(tmp_path / "out")
    assert {row["key"].partition("/")[0] for row in found} == ARCHIVES.keys() - {"pq_zero_rows.parquet"}
    for name in ARCHIVES:
        check_archive(name, [row for row in found if row["key"].partition("/")[0] == name])
    assert {path.parts[0] for path in map(Path, tree(tmp_path))} == {"out"}


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archive(hostile: Path, tmp_path: Path, name: str) -> None:
    flags = ("--model", "identity", "--max-pixels", "64e6", "--workers", "1")
    result = artgen_here("restore", hostile / "archives" / name, tmp_path / "out", *flags)
    code, err = result.returncode, result.stderr
    found = rows(tmp_path / "out")
    check_archive(name, found)
    assert "Traceback" not in err
    assert code == (3 if any(row["status"] == "failed" for row in found) else 0), err
    assert {path.parts[0] for path in map(Path, tree(tmp_path))} == {"out"}
    outputs = [row["output_name"].casefold() for row in found if row["status"] == "ok"]
    assert (
        len(outputs)
        == len(set(outputs))
        == len([p for p in (tmp_path / "out" / "images").rglob("*") if p.is_file()])
    )
