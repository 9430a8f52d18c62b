"""`--to webdataset`: OUTPUT/shards/<unit>.tar, a picture and a JSON file for each sample.

A WebDataset sample is the members whose names agree up to the first dot of the last component, so the
sample key has no dot there; it ends in a hash of the image's key, so it is unique in the whole OUTPUT.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import tarfile
from collections.abc import Mapping, Set
from typing import IO, Any, cast

from artgen.errors import StorageError
from artgen.records import Row
from artgen.sinks.base import picture_facts, remedy
from artgen.sinks.spool import Spool
from artgen.storage import atomic, ledger, uri

FOLDER = "shards"


class Shard:
    """Spools members as they come; headers are deterministic (time 0, owner 0), so bytes are too."""

    def __init__(self, output_uri: str, unit_id: str, options: Mapping[str, Any] | None) -> None:
        self._where = f"{FOLDER}/{unit_id}.tar"
        self._uri = uri.join(output_uri, self._where)
        self._options = options
        self._spool = Spool(self._uri, options)
        self._members = 0

    def add(self, name: str, data: bytes, row: Row) -> str:
        """Returns `shards/<unit>.tar#<member of the picture>`. Raises StorageError."""
        sample, extension = sample_key(name, row.key), posixpath.splitext(name)[1].lower()
        self.append(sample + extension, data)
        self.append(sample + ".json", _json(picture_facts(row)))
        return f"{self._where}#{sample}{extension}"

    def append(self, member: str, data: bytes) -> None:
        """Adds one member as it is. Raises StorageError."""
        header = tarfile.TarInfo(member)
        header.size = len(data)
        # What TarFile.addfile does in three times the time, and it keeps every header: memory must stay flat.
        block = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        with atomic.explained(self._uri):
            for part in (block, data, bytes(-len(data) % tarfile.BLOCKSIZE)):
                self._spool.file.write(part)
        self._members += 1

    def commit(self) -> None:
        """Publishes the shard; one without members is none, and an earlier one of the unit goes. Raises StorageError."""
        if not self._members:
            # Whatever an earlier attempt at this unit left: it has no pictures now.
            self.abort()
            uri.remove(self._uri, self._options)
            return
        with atomic.explained(self._uri):
            end = 2 * tarfile.BLOCKSIZE  # of zeros, and on to a whole record
            rest = -(self._spool.file.tell() + end) % tarfile.RECORDSIZE
            self._spool.file.write(bytes(end + rest))
        self._spool.publish()

    def abort(self) -> None:
        self._spool.discard()


def unit_of(name: str) -> str | None:
    """The unit of a file of this folder; None for what is not ours."""
    unit = name.removesuffix(".tar")
    return unit if name.endswith(".tar") and ledger.is_unit(unit) else None


def open(output_uri: str, unit_id: str, options: Mapping[str, Any] | None = None) -> Shard:
    """The sink of one unit; nothing is seen of it before its `commit`. Raises StorageError."""
    return Shard(output_uri, unit_id, options)


def sample_key(name: str, key: str) -> str:
    """`a/b.c.png` and its key -> `a/b_c-<12 hex digits>`: no dot in the last component, unique by the key."""
    folder, file = posixpath.split(posixpath.splitext(name)[0])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return posixpath.join(folder, f"{file.replace('.', '_')}-{digest}")


def read(output_uri: str, where: str, options: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the picture at `shards/<unit>.tar#<member>`. Raises StorageError when it is gone."""
    name, _, member = where.partition("#")
    fs, path = uri.filesystem(uri.join(output_uri, name), options)
    try:
        with cast(IO[bytes], fs.open(path, "rb")) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for header in tar:
                if header.name == member:
                    return _data(tar, header)
    except (OSError, tarfile.TarError) as error:
        raise StorageError(f"cannot read {where!r} in {uri.shown(output_uri)!r}: {uri.explain(error)}") from error
    raise StorageError(f"{where!r} in {uri.shown(output_uri)!r} has no such member: the shard has changed since")


def drop(output_uri: str, unit_id: str, keys: Set[str], options: Mapping[str, Any] | None = None) -> int:
    """Rewrites a shard without the samples of `keys`, atomically; returns how many samples went. Raises StorageError, with
    nothing changed, for a shard that is damaged.
    """
    place = uri.join(output_uri, FOLDER, f"{unit_id}.tar")
    if not uri.exists(place, options):
        return 0
    fs, path = uri.filesystem(place, options)
    sink = open(output_uri, unit_id, options)
    try:
        with cast(IO[bytes], fs.open(path, "rb")) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            doomed = _samples_of(keys, tar, file)
            for header in tar if doomed else ():
                if posixpath.splitext(header.name)[0] not in doomed:
                    sink.append(header.name, _data(tar, header))
    except (OSError, tarfile.TarError, ValueError, KeyError) as error:
        sink.abort()
        raise StorageError(f"cannot read {uri.shown(place)!r}: {uri.explain(error)}; {remedy(unit_id)}") from error
    except BaseException:
        sink.abort()
        raise
    if doomed:
        sink.commit()
    else:
        sink.abort()
    return len(doomed)


def _samples_of(keys: Set[str], tar: tarfile.TarFile, file: IO[bytes]) -> set[str]:
    samples = set()
    for header in tar:
        if header.name.endswith(".json") and json.loads(_data(tar, header))["key"] in keys:
            samples.add(header.name.removesuffix(".json"))
    # tarfile takes a broken header for the end, and a shard rewritten so would lose what comes behind it.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member begins at byte {tar.offset}, where one should, nor is it the end")
    return samples


def _data(tar: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    member = tar.extractfile(header)
    if member is None:
        raise StorageError(f"{header.name!r} is not a file in its shard: the shard was not written by artgen")
    return member.read()


def _json(facts: dict[str, Any]) -> bytes:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    return json.dumps(finite, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
