"""Classes of pictures: from a list that lies beside them, else from the names of their folders."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from artgen.errors import StorageError, UsageError
from artgen.models.gans.spec import is_text
from artgen.storage import uri

LISTS = ("dataset.json", "metadata.csv")


def read_labels(data: str, options: uri.Options | None = None) -> dict[str, str] | None:
    """Class by key for one INPUT, from `dataset.json` or else `metadata.csv` at the top of a folder or zip.

    dataset.json is StyleGAN's: {"labels": [["a/1.png", 3], ...]}. metadata.csv is that of Hugging Face's image
    folders: a header, `file_name` and `label`. None when there is neither, dataset.json says {"labels": null}, or
    metadata.csv has a `file_name` and no `label`, as a list of captions has.
    Raises UsageError for a list of another form.
    """
    for name in LISTS:
        content = _content(data, name, options)
        if content is None:
            continue
        where = f"{name} of {uri.shown(data)!r}"
        found = _from_json(content, where) if name.endswith(".json") else _from_csv(content, where)
        if found is not None:
            return found
    return None


def classes_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Every class once: numbers in their order, and after them names in theirs."""
    return tuple(
        sorted(set(labels), key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text))
    )


def _from_json(content: bytes, where: str) -> dict[str, str] | None:
    try:
        labels: Any = json.loads(content)["labels"]
        if labels is None:
            return None
        if any(isinstance(label, list | dict | float) for _, label in labels):
            raise ValueError("classes are numbers or names")
        if wrong := [label for _, label in labels if not is_text(str(label))]:
            raise ValueError(f"the class {wrong[0]!r} is no text")
        return {str(key): str(label) for key, label in labels if label is not None}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f'{where} is not understood ({type(error).__name__}: {error}); write {{"labels": [["a/1.png", 3], ...]}}, '
            "or set classes = false"
        ) from error


def _from_csv(content: bytes, where: str) -> dict[str, str] | None:
    try:
        table = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
        rows, columns = list(table), table.fieldnames or ()
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{where} is not a table in UTF-8 ({error}); save it so, or set classes = false"
        ) from error
    if "file_name" not in columns:
        raise UsageError(
            f"{where} has the columns {', '.join(columns) or 'none'}; it needs file_name and label, "
            "or set classes = false"
        )
    if "label" not in columns:
        return None
    return {row["file_name"]: row["label"] for row in rows if row["label"]}


def _content(data: str, name: str, options: uri.Options | None) -> bytes | None:
    if not data.lower().endswith(".zip"):
        folder = uri.is_local(data) and not uri.exists(uri.join(data, name))
        return None if folder else uri.read_or_none(uri.join(data, name), options)
    fs, path = uri.filesystem(data, options)
    try:
        with fs.open(path, "rb") as file, zipfile.ZipFile(file) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
            return archive.read(name) if name in archive.namelist() else None
    except (OSError, zipfile.BadZipFile) as error:
        raise StorageError(f"cannot read {uri.shown(data)!r}: {uri.explain(error)}") from error
