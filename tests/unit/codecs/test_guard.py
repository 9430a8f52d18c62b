from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from artgen.codecs.decode import decode
from artgen.codecs.guard import Guard
from artgen.errors import DecodeFailed, DecoderCrashed, ImageTimeout, TooManyPixels, UnsupportedImage

from .samples import exif, photo, saved

MAX_PIXELS = 64_000_000


@pytest.fixture(scope="module")
def guard():
    with Guard(MAX_PIXELS, 60) as made:
        yield made


@pytest.fixture(scope="module")
def slow() -> bytes:
    """A sound picture that takes a good second: Pillow reads plain PPM digit by digit in Python."""
    return b"P3 900 900 255\n" + b"1 2 3 " * 810_000


def same(one, other) -> None:
    assert np.array_equal(one.pixels, other.pixels)
    assert one.pixels.dtype == other.pixels.dtype
    assert (one.alpha is None) == (other.alpha is None)
    assert one.alpha is None or np.array_equal(one.alpha, other.alpha)
    for name in ("metadata", "mode", "bits", "format", "notes"):
        assert getattr(one, name) == getattr(other, name)


def test_gives_what_decode_gives(guard):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgba = np.concatenate([photo(), photo()[..., :1]], axis=2)
    deep = Image.fromarray(photo(dtype=np.uint16)[..., 0].copy())
    files = [
        saved(photo(), "JPEG", icc_profile=srgb, exif=exif(6), dpi=(300, 300)),
        saved(rgba, "PNG"),
        saved(deep, "PNG"),
        saved(Image.fromarray(photo()).convert("CMYK"), "TIFF"),
        saved(Image.new("RGB", (6000, 4000), (1, 2, 3)), "JPEG"),
        saved(photo(), "WEBP", lossless=True, xmp=b"<x:xmpmeta/>"),
    ]
    for data in files + files[::-1]:
        same(guard.decode(data), decode(data))


def test_pictures_stay_after_the_next_one(guard):
    first = guard.decode(saved(photo(), "PNG"))
    guard.decode(saved(np.zeros_like(photo()), "PNG"))
    assert np.array_equal(first.pixels, photo())
    first.pixels[:] = 0  # and may be written to


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", DecodeFailed),
        (b"<html>", DecodeFailed),
        (b"%PDF-1.4", UnsupportedImage),
        (saved(photo(), "PNG")[:-500], DecodeFailed),
        (saved(Image.new("1", (9000, 9000)), "PNG"), TooManyPixels),
    ],
)
def test_errors_cross_with_their_words(guard, data, error):
    child = guard._child.pid
    with pytest.raises(error) as here:
        decode(data, max_pixels=MAX_PIXELS)
    with pytest.raises(error) as there:
        guard.decode(data)
    assert str(here.value) == str(there.value)
    assert guard._child.pid == child, "a bad file is no reason for a new process"


def test_time_limit_ends_the_work_and_the_next_image_is_done(slow):
    with Guard(MAX_PIXELS, 0.2) as guard:
        guard.decode(saved(photo(), "PNG"))
        child, began = guard._child.pid, time.monotonic()
        with pytest.raises(ImageTimeout, match=r"longer than 0\.2 s .*--image-timeout"):
            guard.decode(slow)
        assert time.monotonic() - began < 1
        assert not Path(f"/proc/{child}").exists()
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_one_picture_may_get_less_time(slow):
    with Guard(MAX_PIXELS, 600) as guard, pytest.raises(ImageTimeout, match=r"longer than 0\.2 s"):
        guard.decode(slow, within_s=0.2)


def test_memory_is_asked_for_before_it_is_taken_and_the_wait_is_not_the_images_own():
    asked = []
    with Guard(MAX_PIXELS, 1.0) as guard:

        def admit(pixels: int) -> None:
            asked.append((pixels, os.fstat(guard._shared).st_size))
            time.sleep(1.2)

        data = saved(photo(), "PNG")
        assert np.array_equal(guard.decode(data, admit).pixels, photo())
        height, width = photo().shape[:2]
        assert asked == [(height * width, 0)], "no pixel is there yet"
        with pytest.raises(TooManyPixels):
            guard.decode(saved(Image.new("L", (8001, 8000)), "PNG"), admit)
        assert len(asked) == 1
        # A file that is tried in two ways asks once.
        broken = data.replace(b"IDAT", b"tEXt", 1)
        with pytest.raises(DecodeFailed):
            guard.decode(broken, admit)
        assert len(asked) == 2


def test_an_image_that_is_not_let_in_leaves_a_decoder_that_works():
    def refuse(pixels: int) -> None:
        raise UnsupportedImage("not this one")

    with Guard(MAX_PIXELS, 5.0) as guard:
        with pytest.raises(UnsupportedImage, match="not this one"):
            guard.decode(saved(np.zeros_like(photo()), "PNG"), refuse)
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_whoever_gives_up_waiting_leaves_a_decoder_that_works():
    def give_up(pixels: int) -> None:
        raise KeyboardInterrupt

    with Guard(MAX_PIXELS, 5.0) as guard:
        with pytest.raises(KeyboardInterrupt):
            guard.decode(saved(photo(), "PNG"), give_up)
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_a_decoder_that_hangs_is_ended():
    with Guard(MAX_PIXELS, 0.3) as guard:
        guard.decode(saved(photo(), "PNG"))
        os.kill(guard._child.pid, signal.SIGSTOP)
        with pytest.raises(ImageTimeout):
            guard.decode(saved(photo(), "PNG"))
        assert guard.decode(saved(photo(), "PNG")).bits == 8


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_one_failed_image(slow, number):
    with Guard(MAX_PIXELS, 60) as guard:
        guard.decode(saved(photo(), "PNG"))
        threading.Timer(0.2, os.kill, (guard._child.pid, number)).start()
        with pytest.raises(DecoderCrashed, match=f"{number.name}.* on these {len(slow)} bytes"):
            guard.decode(slow)
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_a_child_killed_between_images_is_not_the_next_images_fault():
    with Guard(MAX_PIXELS, 60) as guard:
        guard.decode(saved(photo(), "PNG"))
        guard._child.kill()
        guard._child.wait()
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


@pytest.mark.skipif(sys.platform != "linux", reason="macOS keeps no memory limit")
def test_memory_limit_is_a_failed_image():
    with Guard(MAX_PIXELS, 60, memory_bytes=150 << 20) as guard:
        with pytest.raises(DecodeFailed, match="more memory than its decoder may use"):
            guard.decode(saved(Image.new("RGB", (7000, 7000)), "PNG"))
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_an_interrupt_does_not_mix_up_answers(slow):
    with Guard(MAX_PIXELS, 60) as guard:
        guard.decode(saved(photo(), "PNG"))
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            guard.decode(slow)
        assert np.array_equal(guard.decode(saved(photo(), "PNG")).pixels, photo())


def test_close_leaves_no_process_and_no_file():
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    guard = Guard(MAX_PIXELS, 60)
    guard.decode(saved(photo(), "PNG"))
    child = guard._child
    guard.close()
    guard.close()
    assert child.returncode is not None
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) <= before


PARENT = """
import io, sys, time
import numpy as np
from PIL import Image
from artgen.codecs.guard import Guard
out = io.BytesIO()
Image.fromarray(np.full((40, 50, 3), 7, np.uint8)).save(out, "PNG")
guard = Guard(64_000_000, 600)
assert guard.decode(out.getvalue()).pixels.shape == (40, 50, 3)
print(guard._child.pid, flush=True)
if len(sys.argv) > 1:
    guard.decode(b"P3 3000 3000 255\\n" + b"1 2 3 " * 9_000_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_outlives_a_killed_parent():
    shm = set(os.listdir("/dev/shm"))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, "busy"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    ended = time.monotonic() + 8  # it is in the middle of a picture that takes longer
    while Path(f"/proc/{child}").exists() and time.monotonic() < ended:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists(), "the decoder outlived its parent"
    assert set(os.listdir("/dev/shm")) <= shm
    parent.stdout.close()


@pytest.mark.parametrize("how", ["-c", "-"])
def test_works_whatever_the_main_module_is(how, tmp_path):
    arguments = [sys.executable, how] + ([PARENT] if how == "-c" else [])
    done = subprocess.run(
        arguments, input=PARENT, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    assert int(done.stdout) > 0
    assert not done.stderr


def test_the_constructor_does_not_wait():
    began = time.monotonic()
    guard = Guard(MAX_PIXELS, 60)
    took = time.monotonic() - began
    guard.decode(saved(photo(), "PNG"))
    ready = time.monotonic() - began
    guard.close()
    assert took < ready / 2
