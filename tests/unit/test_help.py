"""What --help promises is there; it is written by hand where reading it from the code would import torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from artgen.training.gan_recipe import gan_recipe_names
from artgen.training.recipe import recipe_names
from tests.runs import artgen_here


@pytest.mark.parametrize(("kind", "names"), [("gan", gan_recipe_names), ("restorer", recipe_names)])
def test_every_recipe_that_ships_is_named(kind: str, names: Callable[[], list[str]]) -> None:
    text = " ".join(artgen_here("train", kind, "--help").stdout.split())
    assert f"{', '.join(names())} or a TOML file" in text


def test_a_jobs_server_is_promised_where_one_is_taken() -> None:
    for command in (["restore"], ["generate"]):
        assert "http://HOST:8265" in artgen_here(*command, "--help").stdout
    for kind in ("restorer", "gan"):
        text = artgen_here("train", kind, "--help").stdout
        assert "HOST:6379" in text
        assert "http://" not in text


def test_training_promises_no_number_type_that_it_refuses() -> None:
    for kind in ("restorer", "gan"):
        assert "fp16" not in artgen_here("train", kind, "--help").stdout
    assert "fp16" in artgen_here("restore", "--help").stdout


def test_help_imports_no_torch() -> None:
    code = "import sys; from artgen.cli import main; main(['train', 'gan', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
