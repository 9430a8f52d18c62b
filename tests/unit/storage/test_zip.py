from __future__ import annotations

import stat
import struct
import zipfile

import pytest

from artgen.commands import restore
from artgen.config import RestoreConfig
from artgen.records import Source
from artgen.storage import archive
from tests.unit.storage import packs
from tests.unit.storage.packs import PNG, contents, skipped, sources


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods(tmp_path, method):
    files = packs.bytes_of(4)
    assert contents(packs.zipped(tmp_path / "a.zip", files, method)) == files


def test_large_extra_field_streamed_sizes_and_zip64(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("a.png")
        info.extra = struct.pack("<HH", 0x7777, 3000) + bytes(3000)
        archive.writestr(info, PNG * 100)
        with archive.open(zipfile.ZipInfo("b.png"), "w", force_zip64=True) as member:
            member.write(PNG)
    with (tmp_path / "b.zip").open("wb") as file:
        pipe = type("Pipe", (), {"write": file.write, "flush": file.flush})()  # not seekable: sizes follow the data
        with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("c.png", PNG * 50)
    assert contents(tmp_path / "a.zip") == {"a.png": PNG * 100, "b.png": PNG}
    assert contents(tmp_path / "b.zip") == {"c.png": PNG * 50}


def test_links_folders_repeats_and_forks(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.png/") if hasattr(archive, "mkdir") else archive.writestr("folder.png/", b"")
        archive.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", b"2")
        archive.writestr("__MACOSX/._a.png", b"x")
        archive.writestr("../up.png", b"3")
        archive.writestr("readme", b"hello")
        archive.writestr("noext", PNG)
    assert contents(tmp_path / "a.zip") == {"a.png": b"1", "a.png#2": b"2", "../up.png": b"3", "noext": PNG}
    assert set(skipped(tmp_path / "a.zip")) == {"link.png", "__MACOSX/._a.png", "readme"}


def test_utf8_names_without_their_flag(tmp_path):
    data = packs.zipped(tmp_path / "a.zip", {"caf?????.png": b"1"}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data.replace(b"caf?????", "caf\u00e9\u4e2d".encode()))
    assert contents(tmp_path / "a.zip") == {"caf\u00e9\u4e2d.png": b"1"}


def test_bombs_are_refused_by_their_declared_size(tmp_path):
    packs.zipped(tmp_path / "a.zip", {"bomb.png": bytes(70_000_000), "ok.png": PNG})
    found = contents(tmp_path / "a.zip")
    assert "a zip bomb: 70000000 bytes" in str(found["bomb.png"])
    assert found["ok.png"] == PNG
    small = contents(packs.zipped(tmp_path / "b.zip", {"big.png": bytes(5000)}), max_bytes=4999)
    assert small == {
        "big.png": "the zip member declares 5000 bytes, more than the limit of 4999 (raise --max-pixels to allow it)"
    }


def test_restore_allows_members_as_large_as_max_pixels(tmp_path):
    path = packs.zipped(tmp_path / "a.zip", {"big.png": PNG})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<LL", 2 << 20, archive.MAX_BYTES + 1)  # packed and unpacked bytes
    path.write_bytes(data)
    for max_pixels, problem in ((1 << 20, "raise --max-pixels"), (1 << 28, "")):
        config = RestoreConfig(input=str(path), output=str(tmp_path / "out"), max_pixels=max_pixels)
        (found,) = restore._scan(config.input, config, str(tmp_path / "cache"), "INPUT")
        assert isinstance(found, Source)
        assert problem in found.problem
        assert bool(problem) == bool(found.problem)


def test_a_member_that_lies_about_its_size_is_never_inflated_beyond_it(tmp_path):
    path = packs.zipped(tmp_path / "a.zip", {"a.png": bytes(60_000_000)})
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<L", 1000)
    path.write_bytes(data)
    (reason,) = contents(path).values()
    assert reason == "the zip member holds 1001 bytes and declares 1000; it is damaged"


def test_bad_crc_encrypted_and_unknown_method(tmp_path):
    path = packs.zipped(tmp_path / "a.zip", packs.bytes_of(4), zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    found = sources(path)
    data[found[0].offset + 100] ^= 1
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    data[entries[1] + 8] |= 1
    data[entries[2] + 10] = 97
    path.write_bytes(data)
    reasons = contents(path)
    assert reasons["000.png"] == "the zip member is damaged: bad CRC-32"
    assert "encrypted" in str(reasons["001.png"])
    assert "method 97" in str(reasons["002.png"])
    assert isinstance(reasons["003.png"], bytes)


def test_truncated_or_no_zip(tmp_path):
    path = packs.zipped(tmp_path / "a.zip", packs.bytes_of(4))
    whole = path.read_bytes()
    for data, reason in (
        (whole[:-30], "not a readable zip"),
        (b"hello", "not a readable zip"),
        (b"", "empty file"),
    ):
        path.write_bytes(data)
        (found,) = contents(path).items()
        assert found[0] == "a.zip"
        assert reason in str(found[1])
    path.write_bytes(b"#!/bin/sh\n" * 50 + whole)  # bytes before the archive, as in a self-extracting one
    assert len([v for v in contents(path).values() if isinstance(v, bytes)]) == 4
