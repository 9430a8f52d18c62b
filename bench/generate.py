"""What generating costs beside its forward passes: images a second of `artgen generate` over those of the model alone.

    python bench/generate.py [MODEL | --preset NAME] [--images N] [--rounds N]

MODEL: a run folder or .safetensors file. Without one: the architecture of a preset (default: `default`) at 64 px, RGB,
random weights: speed does not depend on them. Alone and each sink take turns in one process, whose heap is kept as `artgen`
keeps it: the model alone makes the same passes from the same latent numbers and nothing else, with all threads in one pass
and with one thread in each of as many passes, and the faster of the two counts; the sinks are timed from the first unit to
the last commit, latents, encoding, marks, rows and files included. To reach: 0.8 for PNG. Run it on an idle machine, with
TMPDIR on a RAM disk (/dev/shm): ext4 takes 0.5 ms instead of 0.01 to make a file where many were deleted minutes ago, as
the rounds before have done.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch

from artgen import heap
from artgen.child import cores
from artgen.commands.generate import make_job, settings_of, unit_images
from artgen.commands.places import check_output
from artgen.config import GenerateConfig
from artgen.console import Console
from artgen.engines.local import LocalEngine
from artgen.inference.sample import FORWARD_IMAGES, latents
from artgen.models.gans.registry import build_generator
from artgen.models.gans.spec import GanFacts, Painter
from artgen.models.gans.weights import load_painter, to_bytes
from artgen.storage.ledger import Ledger
from artgen.training.gan_recipe import load_gan_recipe
from artgen.work import plan as plans
from artgen.work.seed_listing import SeedListing
from artgen.work.seeds import Seeds
from artgen.work.unit import Publish

SINKS = ("png", "parquet", "webdataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    heap.keep()
    with tempfile.TemporaryDirectory(prefix="artgen-bench-") as name:
        model = args.model or random_model(args.preset, Path(name) / "run")
        painter = load_painter(model)
        facts = painter.facts
        print(f"{facts.architecture}, {facts.width} x {facts.height}, {args.images} images, {cores()} cores")
        times: dict[str, list[tuple[float, float]]] = {label: [] for label in ("alone", *SINKS)}
        alone(painter, FORWARD_IMAGES)
        engine(
            model, Path(name) / "warm", "png", 10 * FORWARD_IMAGES
        )  # what a first run pays once: imports, memory, threads
        for turn in range(args.rounds):
            times["alone"].append(timed_alone(painter, args.images))
            for sink in SINKS:
                times[sink].append(engine(model, Path(name) / f"{sink}-{turn}", sink, args.images))
        print(f"{'':12}{'images/s':>10}{'CPU ms an image':>17}{'over alone':>12}{'(CPU)':>8}")
        for label, some in times.items():
            rate = args.images / statistics.median(wall for wall, _ in some)
            cpu_ms = 1e3 * statistics.median(cpu for _, cpu in some) / args.images
            ratios = [
                statistics.median(base[i] / one[i] for base, one in zip(times["alone"], some, strict=True))
                for i in (0, 1)
            ]
            print(f"{label:12}{rate:10.1f}{cpu_ms:17.2f}{ratios[0]:12.3f}{ratios[1]:8.3f}")


def random_model(preset: str, folder: Path) -> str:
    recipe = load_gan_recipe(preset)
    facts = GanFacts(recipe.model, 64, 64, 3, recipe.latent, params=dict(recipe.generator))
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(to_bytes(build_generator(facts), facts))
    return str(folder)


def alone(painter: Painter, images: int, passes: int = 1) -> None:
    labels = torch.zeros(FORWARD_IMAGES, dtype=torch.int64) if painter.facts.classes else None

    def one(start: int) -> None:
        with torch.no_grad():
            painter(latents(range(start, start + FORWARD_IMAGES), painter.facts.latent), labels)

    with ThreadPoolExecutor(passes) as pool:
        list(pool.map(one, range(0, images, FORWARD_IMAGES)))


def timed_alone(painter: Painter, images: int) -> tuple[float, float]:
    """Seconds by the clock and of the CPU of the faster way to use all cores."""
    found = []
    for passes, threads in ((1, cores()), (cores(), 1)):
        torch.set_num_threads(threads)
        wall, cpu = time.perf_counter(), time.process_time()
        alone(painter, images, passes)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def engine(model: str, output: Path, sink: str, images: int) -> tuple[float, float]:
    """Seconds by the clock and of the CPU from the first unit to the last commit."""
    config = GenerateConfig(model=model, output=str(output), to=(sink,), engine="local")  # type: ignore[arg-type]
    with closing(LocalEngine(config, images)) as carrier:
        painter, job = make_job(config, carrier.devices())
        check_output(config)
        listed, size = SeedListing(Seeds.parse(f"0-{images - 1}")), unit_images(images)
        plan = plans.prepare(listed, config.output, settings_of(config, job), unit_images=size)
        refs = list(plan.pending(Ledger(config.output)))
        outcomes = carrier.run(plan, refs, job, Publish(config.output, config.to), painter, Console(quiet=True))
        wall, cpu = time.perf_counter(), time.process_time()
        made = sum(outcome.images for outcome in outcomes)
        took = time.perf_counter() - wall, time.process_time() - cpu
    if made != images:
        raise SystemExit(f"{made} of {images} images were made")
    return took


if __name__ == "__main__":
    main()
