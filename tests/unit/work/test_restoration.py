from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgen.codecs.encode import Encoded
from artgen.codecs.metadata import C2PA_LEFT_OUT
from artgen.codecs.pool import GuardPool
from artgen.errors import RestoreFailed, RunError
from artgen.inference.restore import RestoreOptions
from artgen.models.weights import load
from artgen.records import Entry, Source
from artgen.storage import archive
from artgen.work import restoration
from artgen.work.restoration import Restoration, RestoreJob
from artgen.work.unit import Made

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
HALF = np.zeros((24, 32), bool)
HALF[:, :10] = True


@pytest.fixture(scope="module")
def guards() -> Iterator[GuardPool]:
    pool = GuardPool(1, 10**6, 20.0)
    yield pool
    pool.close()


def maker(guards: GuardPool, **flags: object) -> Restoration:
    job = RestoreJob("identity", "0", RestoreOptions(), max_pixels=10**6, **flags)  # pyright: ignore[reportArgumentType]
    return Restoration(job, load("identity"), guards, 1)


def source(path: Path, data: bytes) -> Source:
    path.write_bytes(data)
    return Source(path.name, str(path), "file", size=len(data))


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def make(guards: GuardPool, folder: Path, mask: bytes) -> Made:
    photo = source(folder / "x.png", png(Image.fromarray(PHOTO)))
    return maker(guards).make([Entry(photo, "x.png", source(folder / "m.png", mask))])[0]


def masks() -> dict[str, Image.Image]:
    grey = np.where(HALF, 255, 0).astype(np.uint8)
    palette = Image.fromarray(HALF.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 255, 255, 255] + [0] * 762)
    palette.putdata(HALF.astype(np.uint8).reshape(-1).tolist())
    clear_white = np.dstack([np.full((24, 32, 3), 255, np.uint8), grey])
    return {
        "grey": Image.fromarray(grey),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 257),
        "1-bit": Image.fromarray(grey).convert("1"),
        "palette": palette,
        "colour": Image.fromarray(np.dstack([grey] * 3)),
        "white where it is opaque": Image.fromarray(clear_white),
    }


@pytest.mark.parametrize("name", masks())
def test_masks_of_every_kind_mark_the_same_pixels(guards: GuardPool, name: str) -> None:
    drawn = guards.decode(png(masks()[name]))
    assert np.array_equal(restoration._white(drawn), HALF)


def test_a_bad_mask_is_told_from_a_bad_image(guards: GuardPool, tmp_path: Path) -> None:
    for mask in (b"not a picture", b"", png(Image.new("L", (5, 5)))):
        row = make(guards, tmp_path, mask).row
        assert row.status == "failed"
        assert "mask 'm.png'" in (row.error_message or "")
        assert row.source_sha256 is not None


def test_a_mask_larger_than_its_image_is_refused_before_it_is_decoded(guards: GuardPool, tmp_path: Path) -> None:
    # its header is sound and its pixels are not: to decode it would be another error
    mask = png(Image.new("L", (40, 30))).replace(b"IDAT", b"tEXt", 1)
    row = make(guards, tmp_path, mask).row
    assert row.error_type == "RestoreFailed"
    assert "mask 'm.png': it has 1,200 pixels and the image 768" in (row.error_message or "")


def test_an_upscaler_asks_for_the_pixels_that_it_makes(
    guards: GuardPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def enter(pixels: int) -> AbstractContextManager[None]:
        asked.append(pixels)
        return nullcontext()

    def restore(*_: object) -> None:
        raise RestoreFailed("far enough")

    monkeypatch.setattr(restoration, "restore", restore)
    mask = source(tmp_path / "m.png", png(Image.fromarray(HALF)))
    entry = Entry(source(tmp_path / "x.png", png(Image.fromarray(PHOTO))), "x.png", mask)
    for scale in (1, 4):
        work = maker(guards)
        monkeypatch.setattr(work._forward, "facts", replace(work._forward.facts, scale=scale))
        monkeypatch.setattr(work._gate, "enter", enter)
        work.make([entry])[0]
    assert asked == [24 * 32, 24 * 32 * 16], "the mask does not wait a second time"


def test_credentials_of_a_source_are_left_out_unless_a_signature_takes_them(
    guards: GuardPool, tmp_path: Path
) -> None:
    class Signs:
        def edited(self, data: bytes, *_: object) -> Encoded:
            return Encoded(data)

    plain = png(Image.fromarray(PHOTO))
    body = b"caBX" + bytes(8) + b"jumb"
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    entry = Entry(source(tmp_path / "x.png", plain[:33] + chunk + plain[33:]), "x.png")
    work = maker(guards)
    assert work.make([entry])[0].row.notes == C2PA_LEFT_OUT
    work._signer = Signs()  # pyright: ignore[reportAttributeAccessIssue]
    assert work.make([entry])[0].row.notes == ""


def test_what_nobody_foresaw_is_a_failed_row(
    guards: GuardPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(restoration.noise, "change", breaks)
    made = maker(guards).make([Entry(source(tmp_path / "x.png", png(Image.fromarray(PHOTO))), "x.png")])[0]
    assert (made.row.status, made.data) == ("failed", None)
    assert "MemoryError: no room" in (made.row.error_message or "")


def test_the_time_that_an_image_waits_for_others_is_not_its_own(guards: GuardPool, tmp_path: Path) -> None:
    import threading

    entry = Entry(source(tmp_path / "x.png", png(Image.fromarray(PHOTO))), "x.png")
    work = maker(guards, image_timeout=1.0)
    made: list[Made] = []
    with work._gate.enter(restoration.PIXELS_A_THREAD):
        thread = threading.Thread(target=lambda: made.append(work.make([entry])[0]))
        thread.start()
        time.sleep(1.5)
    thread.join()
    assert made[0].row.status == "ok", made[0].row.error_message


def test_a_file_larger_than_any_picture_is_not_read(guards: GuardPool, tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(archive.MAX_BYTES + 1)
    row = maker(guards).make([Entry(Source("x.png", str(tmp_path / "x.png"), "file"), "x.png")])[0].row
    assert row.error_type == "SourceUnreadable"
    assert "more than the limit" in (row.error_message or "")


def test_passwords_in_addresses_stay_out_of_rows(guards: GuardPool) -> None:
    address = "memory://user:hidden@host/x.png"
    assert "hidden" not in maker(guards).make([Entry(Source("x.png", address, "file"), "x.png")])[0].row.source_uri


def test_an_image_under_way_ends_soon_when_it_is_stopped(tmp_path: Path) -> None:
    work = maker(GuardPool(1, 10**6, 20.0))  # its own: what is interrupted does not come back
    entry = Entry(source(tmp_path / "x.png", png(Image.fromarray(PHOTO))), "x.png")
    work.stop()
    with pytest.raises(RunError):
        work.make([entry])[0]
    work.close()


def test_a_row_that_fails_later_tells_what_was_known_by_then(guards: GuardPool, tmp_path: Path) -> None:
    small = png(Image.new("L", (5, 5)))
    row = make(guards, tmp_path, small).row
    assert (row.status, row.width, row.height, row.mode, row.bits) == ("failed", 32, 24, "RGB", 8)
    assert row.source_bytes == len((tmp_path / "x.png").read_bytes())
    assert row.output_name is None


@pytest.mark.parametrize(
    ("kind", "name", "note"),
    [("TIFF", "x.png", "TIFF written as PNG"), ("PNG", "x.jpg", "PNG written as JPEG"), ("PNG", "x.png", "")],
)
def test_a_format_that_is_not_the_sources_is_noted(
    guards: GuardPool, tmp_path: Path, kind: str, name: str, note: str
) -> None:
    data = io.BytesIO()
    Image.fromarray(PHOTO).save(data, kind)
    entry = Entry(source(tmp_path / "x", data.getvalue()), name)
    assert maker(guards, as_source=True).make([entry])[0].row.notes == note
    assert "written as" not in maker(guards).make([entry])[0].row.notes


def test_images_with_masks_do_not_wait_for_each_other_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Ray twice as many images are in work as there are decoders. One within the gate needed a decoder for its mask while
    those who wait at the gate held them all.
    """
    monkeypatch.setattr(restoration, "PIXELS_A_THREAD", 1)  # one image at a time
    photo, mask = png(Image.fromarray(PHOTO)), png(Image.fromarray(HALF.astype(np.uint8) * 255))
    entries = [
        Entry(source(tmp_path / f"{n}.png", photo), f"{n}.png", source(tmp_path / f"m{n}.png", mask))
        for n in range(8)
    ]
    pool = GuardPool(2, 10**6, 20.0)
    job = RestoreJob("identity", "0", RestoreOptions(), max_pixels=10**6)
    work = Restoration(job, load("default"), pool, 2)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(work.make, [entry]) for entry in entries]
        done, waiting = wait(futures, timeout=60)
        work.stop()
        pool.close()
    assert not waiting
    assert {future.result()[0].row.status for future in done} == {"ok"}
