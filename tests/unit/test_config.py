from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from artgen.commands.places import told
from artgen.config import GenerateConfig, RestoreConfig, load
from artgen.errors import UsageError

PLACES = {"input": "in", "output": "out"}


def test_later_sources_of_a_setting_win(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('tile = 128\noverlap = 16\nquality = 70\nto = "parquet,png"\nunit-images = 2\nworkers = 3\n')
    config = load(RestoreConfig, {**PLACES, "overlap": "24", "quality": "80"}, file=str(file), sets=["quality=85"])
    assert (config.tile, config.overlap, config.quality, config.unit_images) == (128, 24, 85, 2)
    assert (config.to, config.workers) == (("parquet", "png"), "3")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"input": ""}, "input ''"),
        ({"output": ""}, "output ''"),
        ({"to": 5}, "to 5 is not a list"),
        ({"to": []}, "--to png"),
        ({"to": ["gif"]}, "'gif'"),
        ({"tile": True}, "tile True"),
        ({"tile": "12.5"}, "'12.5'"),
        ({"image_timeout": "inf"}, "image_timeout inf"),
        ({"image_timeout": "nan"}, "image_timeout nan"),
        ({"max_pixels": "1e30"}, "max_pixels"),
        ({"max_pixels": "inf"}, "'inf'"),
        ({"strength": "nan"}, "strength nan"),
        ({"strength": 1.5}, "strength 1.5"),
        ({"overlap": -1}, "overlap -1"),
        ({"tile": 100, "overlap": 90}, "overlap 90 is more than three quarters of tile 100"),
        ({"keep_unmasked": True}, "--keep-unmasked needs masks"),
        ({"workers": "0"}, "workers '0'"),
        ({"seed": -1}, "seed -1"),
        ({"c2pa": "cert.pem,,key.pem"}, "'cert.pem,,key.pem' is not CERT,KEY"),
        ({"c2pa": "cert.pem"}, "'cert.pem' is not CERT,KEY"),
        ({"keep_unmasked": True, "masks": "m", "format": "jpeg"}, "--format jpeg, which is lossy"),
        ({"keep_unmasked": True, "masks": "m", "format": "source"}, "--format source, which writes .jpg and .webp"),
    ],
)
def test_what_cannot_be_is_told_with_its_value(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(RestoreConfig, {**PLACES, **values})
    assert said in str(caught.value)


def test_storage_options_are_never_quoted() -> None:
    with pytest.raises(UsageError) as caught:
        load(RestoreConfig, PLACES, sets=["storage_options=hidden"])
    assert "hidden" not in str(caught.value)


def test_the_seed_of_generate_is_checked_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="seed -1 is out of range"):
        load(GenerateConfig, {"model": "m", "output": "o", "seed": -1})


def test_a_class_named_twice_is_twice_as_frequent_and_a_sink_named_twice_is_one() -> None:
    values = {"model": "m", "output": "o", "classes": "0,0,1", "to": ["png", "png", "parquet"]}
    config = load(GenerateConfig, values)
    assert (config.classes, config.to) == (("0", "0", "1"), ("png", "parquet"))


@pytest.mark.parametrize(
    ("values", "said"),
    [({"frames": 5}, "add --interpolate"), ({"quality": 80}, "quality 80 with format png")],
)
def test_flags_of_generate_that_would_do_nothing_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(GenerateConfig, {"model": "m", "output": "o", **values})
    assert said in str(caught.value)
    load(GenerateConfig, {"model": "m", "output": "o", "interpolate": "1,2", "format": "webp", **values})


@pytest.mark.parametrize("values", [{"seed": True}, {"truncation": True}, {"quality": False}])
def test_true_is_no_number(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"is not a (whole )?number"):
        load(GenerateConfig, {"model": "m", "output": "o", **values})


def test_no_part_of_data_is_told_with_its_password() -> None:
    config = GenerateConfig(model="m", output="o", data="a,https://me:SECRET@host/y.zip?sig=SECRET")
    assert told(config)["data"] == f"{Path('a').absolute()},https://host/y.zip"
