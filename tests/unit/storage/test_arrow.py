from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from artgen.storage.arrow import leave_pandas_out
leave_pandas_out()
import pyarrow as pa
assert pa.array(["a", None]).to_pylist() == ["a", None]
assert "pandas" not in sys.modules
import pandas
assert pa.table({"n": [1]}).to_pandas().equals(pandas.DataFrame({"n": [1]}))
assert pa.Table.from_pandas(pandas.DataFrame({"n": [1]})).num_rows == 1
leave_pandas_out()
assert sys.modules["pandas"] is pandas
"""


def test_arrays_import_no_pandas_and_whoever_wants_it_still_gets_it() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True)
