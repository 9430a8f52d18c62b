"""The decoder process of `guard`: reads bytes from a socket, answers with a header, leaves pixels in a shared file."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
import warnings

import numpy as np
from PIL import AvifImagePlugin

from artgen.codecs.decode import decode
from artgen.codecs.picture import Picture
from artgen.errors import ImageError

_GRACE_S = 10  # beyond the limit that the parent keeps itself


def main(parent: str, link: str, shared: str, max_pixels: str, memory_bytes: str, timeout_s: str) -> None:
    """Serve until the parent closes its end or dies."""
    threading.Thread(target=_die_with, args=(int(parent),), daemon=True).start()
    _limit(int(memory_bytes))
    warnings.simplefilter("ignore")
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one guard a worker thread: more would fight for the cores
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff talks; the reason goes into the row
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit_s = float(timeout_s)
    with socket.socket(fileno=int(link)) as connection:
        connection.sendall(b"r")
        while (size := _receive(connection, 8)) is not None:
            data = _receive(connection, *struct.unpack(">Q", size))
            if data is None:
                return
            answer = _answer(bytes(data), int(max_pixels), int(shared), Admission(connection, limit_s))
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.sendall(answer)


class Admission:
    """Asks the parent once for an image's pixels and waits for its leave, while no clock runs."""

    def __init__(self, connection: socket.socket, limit_s: float) -> None:
        self._connection, self._limit_s = connection, limit_s
        self._asked = False
        self._wind()

    def __call__(self, pixels: int) -> None:
        if self._asked:  # the same image is tried in another way
            return
        self._asked = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._connection.sendall(_framed({"pixels": pixels}))
        if _receive(self._connection, 1) is None:
            os._exit(1)
        self._wind()

    def _wind(self) -> None:
        """The last resort, should the parent be gone and a decoder hold the interpreter for ever."""
        signal.setitimer(signal.ITIMER_REAL, self._limit_s + _GRACE_S if self._limit_s else 0)


def _answer(data: bytes, max_pixels: int, shared: int, admit: Admission) -> bytes:
    try:
        picture = decode(data, max_pixels=max_pixels, admit=admit)
        _share(picture, shared)
    except ImageError as error:
        return _framed({"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        return _framed({"error": "DecodeFailed", "message": "the image needs more memory than its decoder may use"})
    metadata = picture.metadata
    blobs = (metadata.icc, metadata.exif, metadata.xmp)
    header = {
        "shape": picture.pixels.shape,
        "alpha": picture.alpha is not None,
        "bits": picture.bits,
        "mode": picture.mode,
        "format": picture.format,
        "notes": picture.notes,
        "dpi": metadata.dpi,
        "blobs": [-1 if blob is None else len(blob) for blob in blobs],
    }
    return _framed(header) + b"".join(blob for blob in blobs if blob is not None)


def _framed(header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack(">I", len(text)) + text


def _share(picture: Picture, shared: int) -> None:
    offset = 0
    for array in (picture.pixels, picture.alpha):
        if array is not None:
            view = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            done = 0
            while done < len(view):  # one call moves at most 2 GiB
                done += os.pwrite(shared, view[done:], offset + done)
            offset += len(view)


def _receive(connection: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes; None when the parent has closed its end."""
    data = bytearray(size)
    got = 0
    while got < size:
        count = connection.recv_into(memoryview(data)[got:])
        if not count:
            return None
        got += count
    return data


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Linux counts private memory here, without libraries and the shared file; macOS keeps neither limit
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _die_with(parent: int) -> None:
    """End this process soon after its parent, also in the middle of an image.

    Not PR_SET_PDEATHSIG: that fires when the *thread* that started the child ends.
    """
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
