"""--image-timeout is one limit for all that is done to an image."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artgen.codecs.picture import Admit, Picture
from artgen.codecs.pool import GuardPool
from artgen.inference.restore import RestoreOptions
from artgen.models.weights import load
from artgen.records import Entry, Row, Source
from artgen.work import restoration
from artgen.work.restoration import Clock, Restoration, RestoreJob

LIMIT_S = 4.0


class SlowGuards:
    """A pool that is its own guard: decodes, and takes a second more for it. limits: the time it was given for each."""

    def __init__(self, guards: GuardPool) -> None:
        self._guards = guards
        self.limits: list[float | None] = []

    def decode(self, data: bytes, admit: Admit | None = None, within_s: float | None = None) -> Picture:
        self.limits.append(within_s)
        picture = self._guards.decode(data, admit, within_s)
        time.sleep(1.0)
        return picture

    @contextmanager
    def borrowed(self) -> Iterator[SlowGuards]:
        yield self


@pytest.fixture(scope="module")
def guards() -> Iterator[GuardPool]:
    pool = GuardPool(1, 10**6, 20.0)
    yield pool
    pool.close()


def made(guards: Any, folder: Path, mask: bool = False, limit_s: float = LIMIT_S) -> Row:
    data = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(data, "PNG")
    (folder / "x.png").write_bytes(data.getvalue())
    job = RestoreJob("identity", "0", RestoreOptions(), max_pixels=10**6, image_timeout=limit_s)
    source = Source("x.png", str(folder / "x.png"), "file", size=len(data.getvalue()))
    entry = Entry(source, "x.png", source if mask else None)
    return Restoration(job, load("identity"), guards, 1).make([entry])[0].row


@pytest.mark.parametrize("mask", [False, True])
def test_decoding_and_restoring_share_one_limit(
    guards: GuardPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: bool
) -> None:
    left: list[float] = []
    true = restoration.restore

    def note(pixels: Any, drawn: Any, forward: Any, options: RestoreOptions) -> Any:
        assert options.deadline is not None
        left.append(options.deadline - time.monotonic())
        return true(pixels, None, forward, options)

    monkeypatch.setattr(restoration, "restore", note)
    slow = SlowGuards(guards)
    row = made(slow, tmp_path, mask)
    assert len(left) == 1, row.error_message
    assert left[0] < LIMIT_S - (2.0 if mask else 1.0)
    if mask:
        assert slow.limits[1] is not None
        assert slow.limits[1] < LIMIT_S - 1.0


def test_a_mask_gets_the_time_that_its_image_has_left(guards: GuardPool, tmp_path: Path) -> None:
    row = made(SlowGuards(guards), tmp_path, mask=True, limit_s=0.9)
    assert (row.error_type, row.error_message) == (
        "ImageTimeout",
        "not decoded within 0.9 s: raise --image-timeout",
    )


def test_what_is_late_is_not_encoded(guards: GuardPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = restoration.noise.change

    def slow(*pictures: Any) -> Any:
        time.sleep(2.0)
        return true(*pictures)

    monkeypatch.setattr(restoration.noise, "change", slow)
    monkeypatch.setattr(restoration, "encode", lambda *_, **__: pytest.fail("it was encoded"))
    row = made(guards, tmp_path, limit_s=2.0)
    assert (row.error_type, row.error_message) == ("ImageTimeout", "not restored within 2 s: raise --image-timeout")
    assert (row.width, row.height, row.mode, row.bits) == (32, 24, "RGB", 8)


def test_no_limit_is_no_limit() -> None:
    clock = Clock(0.0)
    assert clock.deadline is None
    clock.check("restored")
