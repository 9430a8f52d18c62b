"""The import walls of the README's architecture section, each layer imported in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import artgen

ROOT = Path(artgen.__file__).parent
LAYERS = ["errors records config console text heap child", "storage codecs tiles models metrics", "sinks inference training report",
          "work", "engines", "commands", "cli flags __main__"]  # fmt: skip
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names.split()}


def modules(*folders: str) -> list[str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        ".".join(("artgen", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for path in paths
    ]


@pytest.mark.parametrize(
    ("imported", "banned"),
    [
        (["artgen.cli", "artgen.config", "artgen.commands.restore", *modules("storage", "codecs"), "artgen.tiles.grid"],
         ["torch", "torchvision", "ray", "s3fs", "spandrel"]),
        ([*modules("models", "inference", "sinks", "work", "metrics"), "artgen.engines.local"],
         ["torchvision", "ray", "s3fs", "spandrel", "artgen.engines.cell"]),
        (modules("training", "report"), ["ray"]),
    ],
)  # fmt: skip
def test_layers_do_not_import_what_is_heavy(imported: list[str], banned: list[str]) -> None:
    # The two that are made to be imported late: a process of its own, and foreign architectures.
    imported = [name for name in imported if name not in ("artgen.codecs.guard_child", "artgen.models.spandrel")]
    code = f"import sys, importlib\nfor m in {imported!r}: importlib.import_module(m)\n"
    code += f"print(*[b for b in {banned!r} if b in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_ray_stays_in_engines(path: Path) -> None:
    here = path.relative_to(ROOT)
    name = here.parts[0].removesuffix(".py")
    assert name in (*RANK, "__init__", "recipes"), f"{name} has no layer"
    rank = RANK.get(name, 0)
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ray":
                assert here.match("engines/ray_*.py"), f"{here} imports ray"
            if parts[0] == "artgen" and len(parts) > 1 and parts[1] in RANK:
                assert RANK[parts[1]] <= rank, f"{here} imports {name}, which lies above it"
