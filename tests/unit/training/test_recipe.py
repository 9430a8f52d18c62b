from __future__ import annotations

from math import nan
from pathlib import Path

import pytest

from artgen.errors import UsageError
from artgen.models import registry
from artgen.training.recipe import RestorerRecipe, load_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_names_a_model_that_takes_its_parameters(name):
    recipe = load_recipe(name)
    registry.build(recipe.model, recipe.params)


def test_the_three_recipes_are_there():
    assert recipe_names() == ["article", "default", "dncnn"]


def test_changes_and_files(tmp_path):
    assert load_recipe("default", {"steps": 7}).steps == 7
    file = tmp_path / "mine.toml"
    file.write_text('model = "dncnn"\nbatch_images = 3\n')
    assert load_recipe(str(file)).batch_images == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": "many"}, "must be of type int"),
        ({"damage": "{noise=60}"}, "must be of type dict .as --set: JSON"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"learning_rate": nan}, "learning_rate is nan"),
        ({"clip_norm": 0}, "clip_norm is 0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; use 0 or more"),
        ({"seed": 2**64}, "seed is 18446744073709551616; use"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"minutes": nan}, "minutes is nan"),
        ({"halflife_images": -1}, "halflife_images is -1"),
        ({"grey_share": 1.5}, "grey_share is 1.5; use 0 to 1"),
        ({"damage": {}}, "at least one kind"),
        ({"damage": {"noise": nan}}, "at least one kind"),
        ({"damage": {"noise": "x"}}, "damage is {'noise': 'x'}; give each kind a number"),
        ({"damage": {"noise": True}}, "give each kind a number"),
        ({"damage": {"noise": 2, "jpeg": -1}}, "give each kind a number of 0 or more"),
        ({"damage": {"rain": 1}}, "no training damage is called 'rain'"),
        ({"precision": "fp17"}, "precision is 'fp17'; choose auto, fp32 or bf16"),
        ({"precision": "fp16"}, "train with bf16 or fp32"),
        ({"loss": "l7"}, "choose from l1, l2, huber"),
        ({"turns": 1}, "must be of type bool"),
    ],
)
def test_wrong_values_are_refused_with_the_fix(changes, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("default", changes)


def test_wrong_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no recipe 'nothing'"):
        load_recipe("nothing")
    (tmp_path / "bad.toml").write_text("a = = 2")
    with pytest.raises(UsageError, match="is not TOML"):
        load_recipe(str(tmp_path / "bad.toml"))
    (tmp_path / "latin.toml").write_bytes(b'licence = "\xe9"')
    with pytest.raises(UsageError, match=r"recipe '.*latin.toml' is not TOML"):
        load_recipe(str(tmp_path / "latin.toml"))
    (tmp_path / "closed.toml").write_text("steps = 1")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # root, as whom the tests may run, may read everything
    with pytest.raises(UsageError, match=r"cannot read the recipe '.*closed.toml': Permission denied"):
        load_recipe(str(tmp_path / "closed.toml"))


def test_whole_numbers_stand_for_floats():
    assert RestorerRecipe(minutes=3).minutes == load_recipe("default", {"minutes": 3}).minutes
