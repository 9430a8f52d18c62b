from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's data beside the checkout; a user has none, so tests that need it skip and say so."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder {SHARED.parent.name}/{SHARED.name} beside the checkout")
    return SHARED
