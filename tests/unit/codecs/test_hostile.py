"""Every image of the hostile set, in this process and in the guard."""

from __future__ import annotations

import codecs
import csv
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from artgen.codecs.decode import decode
from artgen.codecs.guard import Guard
from artgen.errors import ImageError

pytestmark = pytest.mark.shared

MAX_PIXELS = 64_000_000
SLOW_S = 5.0  # for everything but the picture that is made to be slow


@pytest.fixture(scope="module")
def rows(shared, tmp_path_factory) -> list[tuple[dict[str, str], bytes]]:
    folder = tmp_path_factory.mktemp("hostile")
    with tarfile.open(shared / "hostile" / "hostile.tar") as tar:
        tar.extractall(folder, filter="data")
    found = []
    with (shared / "hostile" / "EXPECT.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            name = row["path"].encode()
            path = Path(os.fsdecode(os.fsencode(folder) + b"/" + codecs.escape_decode(name)[0]))  # type: ignore[attr-defined]
            if not path.exists():
                path = folder / row["path"]
            if row["cls"] not in ("archive", "parquet") and path.is_file():
                found.append((row, path.read_bytes()))
    assert len(found) > 150
    return found


def judge(row: dict[str, str], data: bytes, decode_one) -> str | None:
    """What is wrong with the outcome, or None."""
    began = time.monotonic()
    try:
        picture = decode_one(data)
    except ImageError as error:
        wrong = row["cls"] == "good" and f"refused: {error}"
        wrong = wrong or (len(str(error)) < 10 and f"no reason: {error}")
    else:
        height, width = picture.pixels.shape[:2]
        wrong = row["cls"] in ("bomb", "corrupt") and f"accepted as {width} x {height}"
        if not wrong and row["width"] and (width, height) != (int(row["width"]), int(row["height"])):
            wrong = f"{width} x {height}, not {row['width']} x {row['height']}"
    took = time.monotonic() - began
    if not wrong and took > SLOW_S and "slow" not in row["path"]:
        wrong = f"took {took:.1f} s"
    return f"{row['path']} ({row['cls']}): {wrong}" if wrong else None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_decode(rows):
    wrong = [judge(row, data, lambda data: decode(data, max_pixels=MAX_PIXELS)) for row, data in rows]
    assert [words for words in wrong if words] == []


@pytest.mark.slow
def test_guard_in_bounded_memory(rows):
    with Guard(MAX_PIXELS, 60) as guard:
        guard.decode(rows[-1][1])
        child = guard._child.pid
        wrong = [judge(row, data, guard.decode) for row, data in rows]
        assert [words for words in wrong if words] == []
        assert guard._child.pid == child, "no file of the set may crash or hang the decoder"
        if sys.platform == "linux":
            status = Path(f"/proc/{child}/status").read_text()
            peak_kib = int(status.split("VmHWM:")[1].split()[0])
            assert peak_kib < 400 * 1024, f"the decoder's memory peaked at {peak_kib / 1024:.0f} MiB"


def test_guard_with_a_short_limit_gives_up_on_the_slow_one(rows):
    slow = next(data for row, data in rows if "slow_progressive" in row["path"])
    with Guard(MAX_PIXELS, 0.5) as guard:
        began = time.monotonic()
        with pytest.raises(ImageError, match=r"longer than 0\.5 s"):
            guard.decode(slow)
        assert time.monotonic() - began < 4
