"""The C heap keeps what a forward pass gives back, for the next pass."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# <malloc.h> of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MMAP_THRESHOLD_BYTES = (
    32 << 20
)  # glibc's own largest, from the start; larger tensors are mapped, and given back, one by one
_TRIM_THRESHOLD_BYTES = 512 << 20
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep(environment: Mapping[str, str] = os.environ) -> bool:
    """Lets this process keep up to half a GiB that nobody uses, where the C library is glibc and the environment does not
    set its heap; returns whether it does.

    By default glibc gives the activations of every pass back to the system, which clears them page by page for the next
    one: a tenth of a CPU's time in the shipped restorer, next to nothing in the small generator (bench/heap.py).
    """
    if any(name in environment for name in _USERS_OWN):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # macOS, musl
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    )
