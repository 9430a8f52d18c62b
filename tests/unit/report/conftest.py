from __future__ import annotations

from pathlib import Path

import pytest

from tests.outputs import Output


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")
