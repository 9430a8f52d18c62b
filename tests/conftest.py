from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Speed belongs in bench/: a busy machine must not fail a test.
settings.register_profile("artgen", deadline=None)
settings.load_profile("artgen")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's data beside the checkout; a user has none, so tests that need it skip and say so."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder {SHARED.parent.name}/{SHARED.name} beside the checkout")
    return SHARED


@pytest.fixture(autouse=True)
def _no_remembered_stores() -> Iterator[None]:
    """fsspec keeps filesystems by their arguments, not by the environment: a test's endpoint must not outlive it."""
    yield
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_works() -> None:
    """A shell that runs the suite in the background lets it ignore SIGINT, and every process that a test starts with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def toy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A recipe file with the TOML that the test's module has as TOY."""
    path = tmp_path / "toy.toml"
    path.write_text(request.module.TOY)
    return path
