"""Whether memory that a pass gives back is there for the next one, asked of real processes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import pytest

from artgen import heap

# A pass takes four blocks of 24 MB, writes to all of them and gives them back; the faults of the last passes are told.
PASSES = """
import json, resource, sys
import numpy as np
from artgen import heap
kept = heap.keep() if sys.argv[1] == "keep" else False
def passes(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        blocks = [np.ones(3_000_000) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
passes(3)
print(json.dumps([kept, passes(10)]))
"""


def told(how: str, **environment: str) -> tuple[bool, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    # numpy would ask for huge pages, of which one fault brings 512 of the others.
    clean["NUMPY_MADVISE_HUGEPAGE"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", PASSES, how],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    kept, faults = json.loads(done.stdout)
    return kept, faults


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_a_pass_finds_the_memory_of_the_one_before() -> None:
    pages = 10 * 4 * 24_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert told("leave")[1] > pages / 4  # what is to be mended; otherwise this test would see nothing
    kept, faults = told("keep")
    assert kept
    assert faults < pages / 100


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_heap_that_the_user_has_set_stays_so(name: str) -> None:
    assert not heap.keep({name: ""})
