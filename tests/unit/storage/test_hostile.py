"""The hostile corpus, unpacked and archive by archive, against what EXPECT.csv says of each."""

from __future__ import annotations

import csv
import subprocess

import pytest

from tests.unit.storage.packs import contents, skipped

pytestmark = pytest.mark.shared

ARCHIVES = {  # images read, failed rows, skipped
    "bomb_zip_1GiB_member.zip": (1, 1, 0),
    "pq_all_null_column.parquet": (0, 4, 0),
    "pq_empty.parquet": (0, 1, 0),
    "pq_large_binary_dict.parquet": (3, 0, 0),
    "pq_null_bytes.parquet": (2, 3, 0),
    "pq_null_type_column.parquet": (0, 1, 0),
    "pq_string_paths_only.parquet": (0, 1, 0),
    "pq_zero_rows.parquet": (0, 0, 0),
    "tar_case_collision.tar": (3, 0, 0),
    "tar_duplicate_names.tar": (4, 0, 0),
    "tar_member_claims_8GiB.tar": (5, 1, 0),
    "tar_slip.tar": (3, 0, 0),
    "tar_unicode_names.tar": (5, 0, 0),
    "tar_zero_bytes.tar": (0, 1, 0),
    "wds_duplicate_keys.tar": (3, 0, 2),
    "zip_bad_crc_member.zip": (19, 1, 0),
    "zip_duplicate_names.zip": (2, 0, 0),
    "zip_not_a_zip.zip": (0, 1, 0),
    "zip_symlink.zip": (1, 0, 1),
    "zip_unicode.zip": (2, 0, 2),
}


@pytest.fixture(scope="module")
def hostile(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    subprocess.run(["tar", "-xf", shared / "hostile" / "hostile.tar", "-C", folder], check=True)
    return folder


def test_every_path_of_the_corpus_has_its_row(shared, hostile):
    found = contents(hostile)
    with (shared / "hostile" / "EXPECT.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    for row in expected:
        path, kind = row["path"], row["cls"]
        if kind in ("archive", "parquet") or path == "corrupt/directory_named.png":
            continue
        assert path in found, path
        assert isinstance(found[path], bytes) or path == "corrupt/empty.png", (path, found[path])
    loose = [key for key in found if not key.startswith("archives/")]
    assert len(loose) == sum(row["cls"] not in ("archive", "parquet") for row in expected) - 1
    assert set(skipped(hostile)) >= {"corrupt/directory_named.png/.keep", "archives/zip_symlink.zip/link.png"}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives(hostile, name):
    found = contents(hostile / "archives" / name)
    read = sum(isinstance(value, bytes) for value in found.values())
    assert (read, len(found) - read, len(skipped(hostile / "archives" / name))) == ARCHIVES[name], found


def test_the_table_is_complete(hostile):
    assert set(ARCHIVES) == {path.name for path in (hostile / "archives").iterdir()}
