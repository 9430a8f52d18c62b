"""Classes from dataset.json, metadata.csv and folders, of folders and zips."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artgen.errors import UsageError
from artgen.training.gan_data import load_real
from artgen.training.gan_labels import classes_of
from artgen.training.gan_recipe import GanRecipe

RECIPE = GanRecipe(batch_images=2, shards=1, classes=True)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    dice = np.random.default_rng(0)
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dice.integers(0, 256, (28, 28), np.uint8)).save(path)
    return tmp_path / "data"


def found(data: Path) -> tuple[tuple[str, ...], list[int]]:
    real = load_real(str(data), RECIPE)
    assert real.labels_N is not None
    return real.classes, real.labels_N.tolist()


def zipped(data: Path) -> Path:
    with zipfile.ZipFile(data.with_suffix(".zip"), "w") as archive:
        for path in sorted(data.rglob("*.*")):
            archive.write(path, str(path.relative_to(data)))
    return data.with_suffix(".zip")


def test_dataset_json_of_stylegan_in_a_folder_and_in_a_zip(data: Path) -> None:
    labels = [["a/1.png", 10], ["a/2.png", 2], ["b/1.png", 10], ["b/2.png", 2]]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert found(data) == found(zipped(data)) == (("2", "10"), [1, 0, 1, 0])


def test_metadata_csv_and_pictures_without_a_class(data: Path) -> None:
    (data / "metadata.csv").write_text("file_name,text,label\na/1.png,x,cat\na/2.png,y,dog\nb/1.png,z,cat\n")
    assert found(data) == found(zipped(data)) == (("cat", "dog"), [0, 1, 0])
    unusable = load_real(str(data), RECIPE).unusable
    assert unusable == {"b/2.png": "it has no class in the dataset.json or metadata.csv of DATA"}


def test_null_in_dataset_json_is_no_class(data: Path) -> None:
    labels = [["a/1.png", 0], ["a/2.png", 1], ["b/1.png", None], ["b/2.png", 1]]
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    assert found(data) == found(zipped(data)) == (("0", "1"), [0, 1, 1])
    assert list(load_real(str(data), RECIPE).unusable) == ["b/1.png"]


def test_folders_where_there_is_no_list_or_an_empty_one(data: Path) -> None:
    assert found(data) == found(zipped(data)) == (("a", "b"), [0, 0, 1, 1])
    (data / "dataset.json").write_text('{"labels": null}')
    assert found(data) == (("a", "b"), [0, 0, 1, 1])


def test_folders_where_metadata_csv_holds_captions_alone(data: Path) -> None:
    (data / "metadata.csv").write_text("file_name,text\na/1.png,a cat\n")
    assert found(data) == found(zipped(data)) == (("a", "b"), [0, 0, 1, 1])
    (data / "metadata.csv").write_text("file_name,text\n")
    assert found(data) == (("a", "b"), [0, 0, 1, 1])


def test_pictures_beside_the_class_folders_are_left_out(data: Path) -> None:
    Image.new("L", (28, 28), 7).save(data / "cover.png")
    assert found(data) == found(zipped(data)) == (("a", "b"), [0, 0, 1, 1])
    assert load_real(str(data), RECIPE).unusable == {"cover.png": "it lies in no class folder"}
    with pytest.raises(UsageError, match=r"holds 0 usable pictures .*'1\.png': it lies in no class folder"):
        load_real(str(data / "a"), RECIPE)


def test_each_part_of_data_has_its_own_list(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("L", (28, 28), 7).save(other / "1.png")
    Image.new("L", (28, 28), 9).save(other / "2.png")
    (other / "metadata.csv").write_text("file_name,label\n1.png,b\n2.png,c\n")
    real = load_real(f"{data},{other}", RECIPE)
    assert real.classes == ("a", "b", "c")
    assert real.labels_N is not None
    assert real.labels_N.tolist() == [0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("dataset.json", "{", "dataset.json of .* is not understood"),
        ("dataset.json", '{"labels": [["a/1.png", [0, 1]]]}', "classes are numbers or names"),
        ("dataset.json", '{"label": []}', "KeyError: 'labels'"),
        ("metadata.csv", "file,class\na/1.png,cat\n", "has the columns file, class; it needs file_name and label"),
        ("metadata.csv", "", "has the columns none"),
        ("metadata.csv", "file_name,label\na/1.png,cat\na/2.png,cat\n", "all pictures have one, 'cat'"),
        ("metadata.csv", "file_name,label\nx.png,cat\n", "holds 0 usable pictures .4 cannot be used, such as 'a/1.png'"),
    ],
)  # fmt: skip
def test_a_list_of_another_form_is_refused(data: Path, name: str, text: str, message: str) -> None:
    (data / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        load_real(str(data), RECIPE)


def test_numbers_come_first_in_their_order() -> None:
    assert classes_of(["10", "9", "cat", "9", "ant"]) == ("9", "10", "ant", "cat")
    assert classes_of(["²", "10"]) == ("10", "²"), "a digit, but no number"
