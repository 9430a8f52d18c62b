"""What `ray job submit --working-dir .` uploads: the code, small, and nothing of this machine."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]


def test_pictures_and_runs_that_lie_beside_the_code_stay_at_home(tmp_path: Path) -> None:
    tree = tmp_path / "checkout"
    for name in ("artgen/cli.py", "artgen/demo/a.png", "jobs/restore.py", "scans/a.png", "restored/images/a.png",
                 "run/model.safetensors", "scans.tar", "pyproject.toml", "notes.txt"):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    for name in (".rayignore", ".gitignore"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "package.zip"
    create_package(str(tree), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
    assert files == {"artgen/cli.py", "jobs/restore.py", "pyproject.toml"}


def test_the_package_is_small_and_holds_the_code_alone(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"artgen", "jobs", "pyproject.toml"} <= tops
    assert not tops & {".git", ".venv", "tests", "bench", "scratch", "demo-output", "docs"}
    assert not any(name.startswith("artgen/demo/") for name in names)
    assert package.stat().st_size < 12e6  # 10 of them are the two models that ship
