"""The `artgen` command. Parsing only: each command lives in `artgen.commands`, imported when it is called."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from artgen import __version__, heap
from artgen.console import Console
from artgen.errors import ArtgenError, RunError, UsageError
from artgen.flags import Parser, add_storage, json_table
from artgen.flags import add_command as _command
from artgen.flags import add_flag as _flag
from artgen.flags import add_job as _add_job
from artgen.flags import add_settings as _add_settings
from artgen.flags import add_shared as _add_shared
from artgen.flags import add_switch as _switch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Exit codes: 0 done, 1 can be resumed, 2 wrong usage, 3 done with failed images."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a path may hold any bytes, and is told of as stderr does
    try:
        args = vars(parser().parse_args(argv))
    except SystemExit as stop:  # argparse has printed --help or --version
        return int(stop.code or 0)
    except UsageError as error:
        return _fail(Console(as_json="--json" in (sys.argv[1:] if argv is None else argv)), error, 2)
    console = Console(as_json=args.pop("json"), quiet=args.pop("quiet"))
    run = args.pop("run")
    signal.signal(signal.SIGTERM, _interrupt)
    heap.keep()
    try:
        if "storage_options" in args:
            args["storage_options"] = json_table(args["storage_options"])
        return run(args, console)
    except UsageError as error:
        return _fail(console, error, 2)
    except ArtgenError as error:
        return _fail(console, error, 1)
    except KeyboardInterrupt:
        return _fail(console, RunError("interrupted; give the same command again: what it had finished is kept"), 1)
    except BrokenPipeError:  # the reader of stdout went away, as in `artgen ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 (with --json there must be an object, whatever happens)
        return _fail(console, RunError(_told_of(error)), 1)


def _told_of(error: Exception) -> str:
    """An error that nobody foresaw, in words; what is no fault of the machine is shown whole, on stderr, to be reported."""
    kind = f"{type(error).__module__}.{type(error).__name__}".removeprefix("builtins.")
    if isinstance(error, OSError) or kind.startswith("sqlite3."):
        return (
            f"{kind}: {error}; see that the disk of the temporary folder (TMPDIR) has room and may be written to, then run the "
            "same command again"
        )
    traceback.print_exc()
    return f"{kind}: {error}; this is a mistake of artgen: please report it with the lines above"


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _fail(console: Console, error: ArtgenError, code: int) -> int:
    if console.as_json:
        console.result({"error": type(error).__name__, "message": str(error), "exit_code": code})
    else:
        console.error(str(error))
    return code


def parser() -> Parser:
    top = Parser(prog="artgen", description="Restore image archives; generate image sets.")
    top.add_argument("--version", action="version", version=f"artgen {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_restore(commands)
    _add_generate(commands)
    _add_damage(commands)
    _add_report(commands)
    _add_status(commands)
    _add_evaluate(commands)
    _add_train(commands)
    _add_demo(commands)
    return top


def _add_restore(commands: Any) -> None:
    command = _command(
        commands, "restore", _restore, "Restore an image, a folder, a tar, a zip, a Parquet file, or a bucket."
    )
    command.add_argument("input", help="path or URL of an image, folder, glob, .tar(.gz), .zip or .parquet")
    command.add_argument("output", help="folder or URL for the results")
    _flag(command, "--model", "registry name, path or URL of weights", metavar="NAME|PATH|URL")
    _flag(command, "--to", "kind of output (repeatable)", action="append", metavar="png|parquet|webdataset")
    _flag(command, "--masks", "masks with the same relative paths (white = repair)", metavar="URI")
    _switch(command, "--mask-from-alpha", "repair what the image's own alpha hides")
    _switch(command, "--keep-unmasked", "leave pixels outside the mask bit for bit")
    _flag(command, "--tile", "largest tile side (default: by device)", metavar="PX")
    _flag(command, "--overlap", "pixels that neighbouring tiles share (default: the model's)", metavar="PX")
    _flag(command, "--batch", "tiles per forward pass; on a CPU more than 1 only costs time", metavar="N")
    _flag(command, "--unit-images", "images per unit of work", metavar="N")
    _flag(command, "--on-error", "what a bad image does: record a failed row, or stop", metavar="record|stop")
    _switch(command, "--retry-failed", "do failed images again")
    _switch(command, "--overwrite", "clear images/ and all else that artgen made in OUTPUT, and start anew")
    _flag(command, "--max-pixels", "refuse images that claim more", metavar="N")
    text = "give up on an image after this time, from its header on; a pass or an encoding under way ends first (0: never)"
    _flag(command, "--image-timeout", text, metavar="S")
    _flag(command, "--format", "file format of the pictures", metavar="png|jpeg|webp|source")
    _flag(command, "--quality", "quality of jpeg and webp, 1-100", metavar="Q")
    _flag(command, "--c2pa", "sign every picture with this certificate chain and key (PEM)", metavar="CERT,KEY")
    _flag(command, "--strength", "blend with the input: 0 input, 1 restored", metavar="0..1")
    _switch(command, "--ensemble", "average over flips and turns: 8 times the work, a little better")
    _add_job(command)
    _add_shared(command)


def _restore(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.restore import restore
    from artgen.config import RestoreConfig

    return _run("restore", restore, RestoreConfig, args, console)


def _run(name: str, command: Any, kind: type[Any], args: dict[str, Any], console: Console) -> int:
    """Here, or as a job of the cluster whose jobs server --address names (of the commands that have such a flag)."""
    from artgen.config import load

    dry_run = args.pop("dry_run", False)
    file, sets = args.pop("config", None), args.pop("set", None)
    detach, interrupt = args.pop("detach", False), args.pop("on_interrupt", "ask")
    config = load(kind, args, file=file, sets=sets)
    if (getattr(config, "address", None) or "").startswith(("http://", "https://")):
        from artgen.engines.ray_jobs import submit

        return submit([name], config, console, detach=detach, interrupt=interrupt, dry_run=dry_run)
    if getattr(config, "engine", "local") != "ray":
        from artgen.storage.arrow import leave_pandas_out

        leave_pandas_out()
    if detach:
        raise UsageError("--detach is for jobs: give the jobs server of a cluster as --address http://HEAD:8265")
    return command(config, console, dry_run=dry_run)


def _add_generate(commands: Any) -> None:
    command = _command(
        commands, "generate", _generate, "Generate pictures from a trained generator, one for each seed."
    )
    command.add_argument(
        "model", help="run folder of train gan, .safetensors file, path or URL, or a name that ships"
    )
    command.add_argument("output", help="folder or URL for the results")
    _flag(command, "--seeds", "seeds, up to a billion (default: 0-63)", metavar="0-9999,20000")
    _flag(command, "--classes", "names or numbers; seed modulo their number chooses", metavar="NAME,NAME")
    _flag(command, "--truncation", "0: the mean picture, 1: all variety", metavar="0..1")
    _flag(command, "--to", "kind of output (repeatable)", action="append", metavar="png|parquet|webdataset")
    _flag(command, "--grid", "grid.png of the first N pictures (64)", nargs="?", const=64, metavar="N")
    _flag(command, "--interpolate", "frames that lead from seed to seed", metavar="A,B")
    _flag(command, "--frames", "frames from one seed to the next", metavar="N")
    _flag(command, "--data", "training pictures: the report shows the nearest of each sample", metavar="URI")
    _flag(command, "--unit-images", "images per unit of work", metavar="N")
    _switch(command, "--overwrite", "clear images/ and all else that artgen made in OUTPUT, and start anew")
    _flag(command, "--format", "file format of the pictures", metavar="png|jpeg|webp")
    _flag(command, "--quality", "quality of jpeg and webp, 1-100", metavar="Q")
    _flag(command, "--c2pa", "sign every picture with this certificate chain and key (PEM)", metavar="CERT,KEY")
    _add_job(command)
    _add_shared(command)


def _generate(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.generate import generate
    from artgen.config import GenerateConfig

    return _run("generate", generate, GenerateConfig, args, console)


def _add_damage(commands: Any) -> None:
    text = "Damage images in known ways, to test restorers; masks of missing parts are written beside them."
    command = _command(commands, "damage", _damage, text)
    command.add_argument("input", help="as for restore")
    command.add_argument("output", help="folder or URL; images/, and masks/ where parts are missing")
    _flag(command, "--noise", "Gaussian noise, standard deviation 0-255", metavar="SIGMA", type=float)
    _flag(command, "--salt-pepper", "share of pixels set to black or white", metavar="P", type=float)
    _flag(command, "--missing", "share of pixels removed", metavar="P", type=float)
    _switch(command, "--holes", "round and square holes")
    _switch(command, "--scratches", "long thin scratches")
    _flag(command, "--jpeg", "JPEG at this quality", metavar="Q", type=int)
    _switch(command, "--blur", "Gaussian blur")
    _switch(command, "--fade", "faded, yellowed colours")
    _switch(command, "--mixture", "two or three kinds with random strengths and order")
    _flag(command, "--seed", "seed of everything random", metavar="N", type=int)
    _flag(command, "--max-pixels", "leave out images that claim more", metavar="N", type=float)
    _flag(command, "--image-timeout", "give up on an image after this time (0: never)", metavar="S", type=float)
    _add_settings(command)
    add_storage(command)


def _damage(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.damage import DamageConfig, damage

    return _run("damage", damage, DamageConfig, args, console)


def _add_report(commands: Any) -> None:
    command = _command(commands, "report", _report, "Write OUTPUT/report.html anew.")
    command.add_argument("output", help="OUTPUT of an earlier run")
    _flag(command, "--sample", "pictures to show", metavar="N", type=int)
    add_storage(command)


def _report(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.report import report

    return report(console=console, **args)


def _add_status(commands: Any) -> None:
    command = _command(commands, "status", _status, "Say how far the run in OUTPUT is, from any machine.")
    command.add_argument("output", help="OUTPUT of a run, under way or not")
    add_storage(command)


def _status(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.status import status

    return status(console=console, **args)


def _add_evaluate(commands: Any) -> None:
    text = "Measure a model on pictures that it has not seen."
    kinds = commands.add_parser("evaluate", help=text, description=text).add_subparsers(
        required=True, metavar="KIND"
    )
    command = _command(kinds, "restorer", _evaluate, "PSNR and SSIM by damage, beside classical peers.")
    command.set_defaults(kind="restorer")
    command.add_argument("model", help="registry name, path, URL or run folder")
    command.add_argument("data", help="undamaged pictures: any INPUT of restore")
    damage = "as noise=15,25,50 (repeatable; default: the published kinds and strengths)"
    _flag(command, "--damage", damage, action="append", metavar="NAME=S,S")
    _flag(command, "--protocol", "published: float noise; file: 8-bit files", metavar="published|file")
    _flag(command, "--images", "only the first N pictures", metavar="N")
    _switch(command, "--no-peers", "leave the classical peers out")
    _flag(command, "--max-pixels", "leave out images that claim more (32e6)", metavar="N")
    _flag(command, "--image-timeout", "give up on an image after this time (0: never)", metavar="S")
    _flag(command, "--out", "folder for evaluation.json and panel.png", metavar="FOLDER")
    _flag(command, "--seed", "seed of the damage", metavar="N")
    _flag(command, "--device", "where the model runs", metavar="auto|cpu|cuda|mps")
    _add_settings(command)
    add_storage(command)

    command = _command(kinds, "gan", _evaluate, "How near generated pictures are to real ones, and how varied.")
    command.set_defaults(kind="gan")
    command.add_argument("model", help="a generator as for generate, or pictures of one: any INPUT or OUTPUT")
    command.add_argument("data", help="real pictures: any INPUT of restore; several with commas between them")
    _flag(command, "--samples", "pictures of MODEL (10000)", metavar="N", type=int)
    _flag(command, "--images", "pictures of DATA (default: as --samples)", metavar="N", type=int)
    _flag(command, "--truncation", "as for generate", metavar="0..1", type=float)
    seen_by = "what sees the pictures (random); NAME: inception or a classifier of torchvision, PATH: its weights"
    _flag(command, "--extractor", seen_by, metavar="random|classifier|NAME:PATH")
    _flag(command, "--classifier", "a classifier.safetensors of an earlier --out", metavar="PATH")
    _flag(command, "--cache", "folder of what is kept of DATA (default: the user's cache)", metavar="FOLDER")
    _flag(command, "--out", "folder for evaluation.json and the classifier", metavar="FOLDER")
    _flag(command, "--seed", "first seed", metavar="N", type=int)
    _flag(command, "--device", "where the models run", metavar="auto|cpu|cuda|mps")
    _flag(command, "--precision", "of the generator; auto: fp32", metavar="auto|fp32|bf16|fp16")
    _add_settings(command)
    add_storage(command)


def _evaluate(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.evaluate import evaluate_restorer
    from artgen.commands.evaluate_gan import evaluate_gan

    return {"restorer": evaluate_restorer, "gan": evaluate_gan}[args.pop("kind")](args, console)


def _add_train(commands: Any) -> None:
    text = "Train a network; the same command goes on after an interruption."
    kinds = commands.add_parser("train", help=text, description=text).add_subparsers(required=True, metavar="KIND")
    for kind, recipes, use in (
        ("restorer", "article, default, dncnn", "artgen restore --model RUN uses it"),
        ("gan", "article, dcgan, dcgan-tuned, default, r3", "artgen generate RUN draws from it"),
    ):
        command = _command(kinds, kind, _train, f"Train a {kind}: pictures in, a run folder out.")
        command.set_defaults(kind=kind)
        command.add_argument("data", help="as INPUT of restore; several with commas between them")
        command.add_argument("folder", help=f"folder or URL of the run; {use}", metavar="RUN")
        _flag(command, "--recipe", f"{recipes} or a TOML file of recipe keys", metavar="NAME|FILE.toml")
        _flag(command, "--preset", "the same as --recipe", dest="recipe", metavar="NAME|FILE.toml")
        _add_shared(command, trains=True)


def _train(args: dict[str, Any], console: Console) -> int:
    from artgen.commands import train

    return {"restorer": train.train_restorer, "gan": train.train_gan}[args.pop("kind")](args, console)


def _add_demo(commands: Any) -> None:
    command = _command(
        commands, "demo", _demo, "Damage the pictures that come along, restore them, and say how near they come."
    )
    command.add_argument(
        "output", nargs="?", default="demo-output", help="folder for the results (default: demo-output)"
    )


def _demo(args: dict[str, Any], console: Console) -> int:
    from artgen.commands.demo import demo

    return demo(args["output"], console)


if __name__ == "__main__":
    sys.exit(main())
