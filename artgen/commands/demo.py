"""`artgen demo`: restores the small damaged archive that comes with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

from artgen.commands.restore import restore
from artgen.config import RestoreConfig
from artgen.console import Console


def demo(output: str, console: Console) -> int:
    """Returns 0 if the run came to its end: one of the pictures is broken on purpose, to show a failed row."""
    with as_file(files("artgen") / "demo") as pictures:
        config = RestoreConfig(
            input=str(pictures / "damaged.tar"), output=output, masks=str(pictures / "masks.tar")
        )
        code = restore(config, console)
    return 0 if code == 3 else code
