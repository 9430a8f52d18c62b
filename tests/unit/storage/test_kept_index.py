"""Members on the disk: while they wait, and kept for later listings."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from artgen.errors import StorageError
from artgen.records import Source
from artgen.storage import kept_index, kind
from artgen.storage import uri as uris
from artgen.storage.cache import Cache
from artgen.storage.member import Member
from artgen.storage.spool import Spool


def test_what_has_no_version_is_not_kept():
    source = Source("a.tar", "http://127.0.0.1/a.tar", "file", 0, 1234, "", "abc")
    assert kept_index.name_for(source)
    for version in ("", "1234", "None"):
        assert kept_index.name_for(replace(source, version=version)) == ""
    assert uris.tells_version(uris.version_of({"size": 5, "mtime": 7}), 5)
    assert not uris.tells_version(uris.version_of({"size": 5}), 5)
    assert not uris.tells_version(uris.version_of({}), -1)


def test_other_rules_have_another_index(monkeypatch):
    source = Source("a.tar", "s3://b/a.tar", "file", 0, 1234, "", "abc")
    names = {kept_index.name_for(source)}
    for changed in (
        replace(source, version="abd"),
        replace(source, uri="s3://b/b.tar"),
        replace(source, detail='{"raw":"%ff"}'),
    ):
        names.add(kept_index.name_for(changed))
    monkeypatch.setattr(kind, "RULES", "other")
    names.add(kept_index.name_for(source))
    monkeypatch.setattr(kept_index, "FORMAT", 0)
    names.add(kept_index.name_for(source))
    assert len(names) == 6


def test_the_same_members_after_they_were_kept(tmp_path):
    members = [
        Member(
            f'caf\udce9 \u2603 {n} "quoted"\n.png', n << 40, n - 1, '{"a":1}' * n, "skip" * (n % 2), "why" * (n % 3)
        )
        for n in range(3000)
    ]
    spool, again = Spool(), Spool()
    for member in members:
        spool.append(member)
    cache = Cache(str(tmp_path / "cache"))
    kept_index.save(spool, cache, "x", "targz")
    assert kept_index.load(again, cache, "x") == "targz"
    assert kept_index.load(Spool(), cache, "y") is None
    for one in (spool, again):
        one.end()
        assert list(one.members()) == members
        one.close()


def test_a_full_disk_of_the_spool_is_told(monkeypatch):
    spool = Spool()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full:
        flush = write = full
        close = staticmethod(spool._file.close)

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(StorageError, match="free some space"):
        spool.append(Member("a.png"))
    spool.close()
