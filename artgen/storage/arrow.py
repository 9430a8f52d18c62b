"""What artgen asks of pyarrow before its first array, and how its errors are told apart."""

from __future__ import annotations

import sys
from typing import Any


class _NoPandas:
    """A finder of modules that finds no pandas, and leaves all others to those after it."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out by artgen", name=name)


def tells_damage(error: Exception) -> bool:
    """Whether what reading Parquet raised says that its bytes are damaged: ArrowInvalid, or an OSError of Arrow's own
    ("ZSTD decompression failed"), which unlike those of the system and of stores bears no number.
    """
    import pyarrow as pa

    return isinstance(error, pa.ArrowInvalid) or (type(error) is OSError and error.errno is None)


def leave_pandas_out() -> None:
    """Keeps pyarrow from importing pandas in this process, a third of the time that torch takes to import.

    Arrow looks for pandas once, at its first array, to know a data frame when it is given one; artgen gives it none. Here
    it looks while there is none to be found. For the program alone: who imports artgen may have data frames of their own.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)  # pyright: ignore[reportArgumentType]
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)  # pyright: ignore[reportArgumentType]
