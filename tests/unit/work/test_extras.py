from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from artgen.config import GenerateConfig
from artgen.inference.sample import sample
from artgen.models.gans.weights import load_painter
from artgen.work import extras
from artgen.work.generation import GenerateJob
from tests.generators import write_run


@pytest.mark.parametrize("truncation", [0.0, 0.5])
def test_frames_are_truncated_after_the_way_was_laid_out(tmp_path: Path, truncation: float) -> None:
    painter = load_painter(str(write_run(tmp_path / "run")))
    job = GenerateJob("m", painter.sha256, (0, 1, 2), truncation)
    found = list(extras.frames((4, 7), 5, painter, job))
    for frame, seed in ((0, 4), (-1, 7)):
        assert np.array_equal(found[frame], sample(painter, [seed], [1], truncation)[0])
    assert any(not np.array_equal(frame, found[0]) for frame in found) == (truncation > 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_are_made_as_the_animation_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0
    made, real = Image.fromarray, extras.frames

    def watched(*args: Any, **kwargs: Any) -> Image.Image:
        image = made(*args, **kwargs)
        alive.append(weakref.ref(image))
        return image

    def counted(*args: Any) -> Iterator[np.ndarray]:
        nonlocal most
        for frame in real(*args):
            most = max(most, sum(image() is not None for image in alive))
            yield frame

    monkeypatch.setattr(Image, "fromarray", watched)
    monkeypatch.setattr(extras, "frames", counted)
    run = write_run(tmp_path / "run", channels=channels)
    painter = load_painter(str(run))
    config = GenerateConfig(model=str(run), output=str(tmp_path / "out"), interpolate="4,7,1", frames=20)
    job = GenerateJob(model=str(run), model_sha256=painter.sha256, classes=(0, 1, 2))
    extras.write_frames(config, (4, 7, 1), painter, job)
    assert len(alive) >= 39
    assert most <= 3, "images in memory, the first of which the writer is called on"
    folder = tmp_path / "out" / "interpolation"
    with Image.open(folder / "animation.webp") as animation:
        assert getattr(animation, "n_frames", 1) == 39
        for number in range(39):
            animation.seek(number)
            with Image.open(folder / f"frame-{number:05d}.png") as frame:
                assert np.array_equal(np.asarray(animation.convert("RGB")), np.asarray(frame.convert("RGB"))), (
                    number
                )
