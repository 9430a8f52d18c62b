"""Decoding in a process that can be killed, so that one file can neither hang, crash nor exhaust a run.

Compressed bytes go over a socket; pixels come back through one anonymous file in memory (memfd, or a
temporary file without a name where there is none) that both sides hold open, so nothing is left behind
whoever is killed. Linux and macOS.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import tempfile
import time
from types import TracebackType

import numpy as np

from artgen import child, errors
from artgen.codecs.metadata import Metadata
from artgen.codecs.picture import Admit, Picture

_BOOT_TIMEOUT_S = 120.0  # a busy machine may take long to start Python; no image is to blame for that
_CHILD_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would give the memory of each image back and fault it in again for the next: 1 ms at 768x512
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
_KEEP_BYTES = 64 << 20  # what the shared file may keep between images


class Guard:
    """One decoder process. Not thread-safe: make one for each worker thread.

    The constructor returns at once; the child starts meanwhile. `timeout_s` bounds the decoding of one image
    (None: no limit). `memory_bytes` bounds the child's own memory; by default half a GiB and 20 bytes for each
    of `max_pixels`, which is what the greediest mode takes.
    """

    def __init__(self, max_pixels: int, timeout_s: float | None, memory_bytes: int | None = None) -> None:
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes or (512 << 20) + 20 * max_pixels
        self._shared = _anonymous_file()
        self._start()

    def decode(self, data: bytes, admit: Admit | None = None, within_s: float | None = None) -> Picture:
        """As `decode.decode`, and: raises ImageTimeout when it takes longer than `within_s` (default timeout_s), without the
        time that `admit` waits, DecoderCrashed when the process dies of it. Either way the next image finds a new process.
        RunError: no process can start. `admit` is called at most once.
        """
        if self._child.poll() is not None:  # killed from outside between two images
            self._restart()
        self._await_ready()
        limit_s = self._timeout_s if within_s is None else within_s
        deadline = None if limit_s is None else time.monotonic() + limit_s
        try:
            self._send(data, deadline)
            answer = self._answer(deadline)
            if "pixels" in answer:
                if admit is not None:
                    asked = time.monotonic()
                    try:
                        admit(answer["pixels"])
                    except errors.ImageError:
                        self._restart()  # this one waits for leave
                        raise
                    deadline = None if deadline is None else deadline + time.monotonic() - asked
                self._set_timeout(deadline)
                self._socket.sendall(b"g")
                answer = self._answer(deadline)
            if "error" in answer:
                raise getattr(errors, answer["error"])(answer["message"])
            blobs = [self._receive(size, deadline) if size >= 0 else None for size in answer["blobs"]]
            return self._picture(answer, blobs)
        except errors.ImageError:
            raise
        except TimeoutError:
            self._restart()
            raise errors.ImageTimeout(
                f"decoding {len(data)} bytes took longer than {limit_s:g} s (raise --image-timeout to allow it)"
            ) from None
        except (ConnectionError, EOFError):
            how = child.how_it_died(self._stop(grace_s=5))
            self._start()
            raise errors.DecoderCrashed(f"the decoder {how} on these {len(data)} bytes") from None
        except BaseException:  # Ctrl-C and the like: an answer may be under way, so this process is of no more use
            self._restart()
            raise

    def interrupt(self) -> None:
        """Ends the image under way, and the child with it; may be called from another thread."""
        self._child.kill()

    def close(self) -> None:
        """End the child and give the shared memory back. May be called again."""
        self._stop()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        numbers = [os.getpid(), theirs.fileno(), self._shared, self._max_pixels, self._memory_bytes]
        args = [*map(str, numbers), str(self._timeout_s or 0)]
        try:
            self._child = subprocess.Popen(
                child.command("artgen.codecs.guard_child", *args, flags=("-I", "-S")),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._shared),
                env=os.environ | _CHILD_ENV,
                start_new_session=True,  # Ctrl-C is for this process alone, which ends the child in its own time
            )
        finally:
            theirs.close()
        self._ready = False

    def _await_ready(self) -> None:
        if self._ready:
            return
        try:
            self._receive(1, time.monotonic() + _BOOT_TIMEOUT_S)
        except (OSError, EOFError) as error:
            how = child.how_it_died(self._stop(grace_s=5))
            raise errors.RunError(f"the decoder process {how} at its start; what it wrote stands above") from error
        self._ready = True

    def _stop(self, grace_s: float = 0.1) -> int:
        """End and reap the child; its exit code is its own if it ends within `grace_s`."""
        self._socket.close()
        try:
            return self._child.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()

    def _restart(self) -> None:
        self._child.kill()
        self._stop()
        self._start()

    def _answer(self, deadline: float | None) -> dict:
        return json.loads(self._receive(*struct.unpack(">I", self._receive(4, deadline)), deadline))

    def _send(self, data: bytes, deadline: float | None) -> None:
        self._set_timeout(deadline)
        self._socket.sendall(struct.pack(">Q", len(data)))
        self._set_timeout(deadline)
        self._socket.sendall(data)

    def _receive(self, size: int, deadline: float | None) -> bytes:
        parts = bytearray(size)
        got = 0
        while got < size:
            self._set_timeout(deadline)
            count = self._socket.recv_into(memoryview(parts)[got:])
            if not count:
                raise EOFError
            got += count
        return bytes(parts)

    def _set_timeout(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _picture(self, answer: dict, blobs: list[bytes | None]) -> Picture:
        dtype = np.dtype(np.uint8 if answer["bits"] == 8 else np.uint16)
        pixels = np.empty(answer["shape"], dtype)
        _read_into(self._shared, pixels, 0)
        alpha = None
        if answer["alpha"]:
            alpha = np.empty(answer["shape"][:2], dtype)
            _read_into(self._shared, alpha, pixels.nbytes)
        if pixels.nbytes > _KEEP_BYTES:
            os.ftruncate(self._shared, 0)
        dpi = tuple(answer["dpi"]) if answer["dpi"] else None
        metadata = Metadata(*blobs, dpi=dpi)  # type: ignore[arg-type]
        return Picture(
            pixels, alpha, metadata, answer["mode"], answer["bits"], answer["format"], tuple(answer["notes"])
        )


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("artgen-pixels", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _read_into(file: int, array: np.ndarray, offset: int) -> None:
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):  # one call moves at most 2 GiB
        count = os.preadv(file, [view[done:]], offset + done)
        if not count:
            raise EOFError
        done += count
