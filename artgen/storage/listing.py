"""What lies below an INPUT: files in a fixed order, listed as they are met."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from artgen.errors import StorageError, UsageError
from artgen.storage import s3_listing
from artgen.storage import uri as uris

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Item:
    """A file below an INPUT. `name` is relative to it and `uri` absolute; both are UTF-8, undecodable bytes
    as \\xNN, in which case `raw` is the local path percent-encoded. `skip` or `problem`: why not, if so.
    """

    name: str
    uri: str
    size: int = -1
    version: str = ""
    raw: str = ""
    skip: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Root:
    """An INPUT that exists. `path` is the file, or the folder below which `pattern` (of a glob) selects."""

    path: str
    fs: AbstractFileSystem | None = None
    alone: bool = False
    pattern: re.Pattern[str] | None = None
    levels: int = 0
    prefix: str = ""

    def wants(self, name: str) -> bool:
        """Whether a glob selects `name` or a folder above it."""
        if self.pattern is None:
            return True
        parts = name.split("/")
        depths = [self.levels] if self.levels else range(1, len(parts) + 1)
        return any(self.pattern.match("/".join(parts[:n])) for n in depths if n <= len(parts))


def resolve(input_uri: str, options: uris.Options | None = None, label: str = "INPUT") -> Root:
    """Looks an INPUT up. label: what the command calls it. Raises UsageError, with what lies nearby, when nothing is there."""
    if uris.is_local(input_uri):
        fs, path = None, os.path.abspath(uris.local_path(input_uri))
        found = _local_type(path, label)
    elif "::" in input_uri.partition("://")[0] or "::" in input_uri.rpartition("://")[0]:
        raise UsageError(f"{label} {uris.shown(input_uri)!r} is a chained URL; give the archive itself")
    elif uris.scheme(input_uri) in ("http", "https") and "?" in input_uri:
        raise UsageError(
            f"{label} {uris.shown(input_uri)!r} has a query, which may hold a secret that plan and manifest would tell: download "
            "the file first, or read it from its store (s3://, az://, gs://) with --storage-options"
        )
    elif uris.scheme(input_uri) in ("http", "https") and "@" in input_uri.partition("://")[2].partition("/")[0]:
        raise UsageError(
            f"{label} {uris.shown(input_uri)!r} has a user name or password in its address, which plan and manifest would tell: "
            'give it as --storage-options \'{"client_kwargs": {"headers": {"Authorization": "Basic ..."}}}\''
        )
    else:
        fs, path = uris.filesystem(input_uri, options)
        found = _remote_type(fs, path, input_uri, label)
    if found:
        return Root(path, fs, alone=found == "file")
    if _MAGIC.search(path):
        return _glob(path, fs, label)
    raise UsageError(f"{label} {readable(uris.shown(input_uri))!r} does not exist; {_nearby(path, fs)}")


def items(root: Root, exclude: str = "") -> Iterator[Item]:
    """Every file below `root`, ordered by path (S3: as the store lists), except below the folder `exclude`.

    Memory: one folder of local and other stores, some pages of 1,000 of S3.
    """
    if root.fs is None:
        barred = os.path.realpath(uris.local_path(exclude)) if exclude and uris.is_local(exclude) else None
        yield from (
            [_local_file(root.path, os.path.basename(root.path))] if root.alone else _walk_local(root, barred)
        )
        return
    fs = root.fs
    if root.alone:
        info = fs.info(root.path)
        yield _remote_file(fs, root.path, root.path.rpartition("/")[2], info)
        return
    walk: Any = _objects_s3 if "s3" in uris.protocols(fs) else _walk_remote
    barred = uris.normal(exclude) + "/" if exclude else None
    try:
        for item in walk(fs, root):
            if root.wants(item.name) and not (barred and uris.normal(item.uri).startswith(barred)):
                yield item
    except Exception as error:
        shown = uris.shown(fs.unstrip_protocol(root.path))
        raise StorageError(f"cannot list {shown!r}: {uris.explain(error)}") from error


def _walk_local(root: Root, barred: str | None) -> Iterator[Item]:
    top = os.path.realpath(root.path)
    above = len(root.path.rstrip("/")) + 1
    stack = [iter(_entries(root.path))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        name = entry.path[above:]
        if isinstance(entry, _Unlisted):
            if not name:
                raise UsageError(f"{readable(entry.path)!r}: {entry.reason}")
            yield Item(*_texts(name, entry.path)[:2], problem=entry.reason)
        elif entry.is_dir(follow_symlinks=False):
            deep_enough = root.levels and name.count("/") + 1 >= root.levels and not root.wants(name)
            if not deep_enough and (barred is None or os.path.realpath(entry.path) != barred):
                stack.append(iter(_entries(entry.path)))
        elif root.wants(name):
            yield _local_file(entry.path, name, top if entry.is_symlink() else None)


@dataclass(frozen=True, slots=True)
class _Unlisted:
    path: str
    reason: str


def _entries(folder: str) -> list[Any]:
    """The entries of a folder, in the order of the full paths of the files below them."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entries, key=lambda e: os.fsencode(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name)
            )
    except OSError as error:
        return [_Unlisted(folder, f"the folder cannot be listed: {uris.explain(error)}")]


def _local_file(path: str, name: str, top: str | None = None) -> Item:
    """top: the real path that a link (path is one) must stay below."""
    name, uri, raw = _texts(name, path)
    try:
        target = os.path.realpath(path, strict=True) if top is not None else path
        status = os.stat(target)
    except OSError as error:
        if top is not None:
            return Item(name, uri, skip=f"a broken link: {uris.explain(error)}")
        return Item(name, uri, raw=raw, problem=f"cannot be looked at: {uris.explain(error)}")
    if top is not None and not f"{target}/".startswith(f"{top.rstrip('/')}/"):
        return Item(name, uri, skip="a link that leads outside INPUT; give its target as INPUT to restore it")
    if top is not None and stat.S_ISDIR(status.st_mode):
        return Item(name, uri, skip="a link to a folder of INPUT, whose files are listed where they lie")
    if not stat.S_ISREG(status.st_mode):
        return Item(name, uri, skip="not a regular file")
    return Item(name, uri, status.st_size, f"{status.st_size}-{status.st_mtime_ns}", raw)


def _texts(name: str, path: str) -> tuple[str, str, str]:
    """(name, path, raw): raw is "" when the path is UTF-8, else the path percent-encoded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return readable(name), readable(path), quote_from_bytes(os.fsencode(path))
    return name, path, ""


def readable(name: str) -> str:
    """`name` with surrogates, which stand for bytes that are not UTF-8, as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _objects_s3(fs: Any, root: Root) -> Iterator[Item]:
    """Whatever the folders, by pages: s3fs itself would hold the listing whole."""
    bucket, below, _ = fs.split_path(root.path)
    below = below.rstrip("/") + "/" if below else ""
    for found in s3_listing.objects(fs, bucket, below + root.prefix):
        name = found["Key"][len(below) :]
        if not name.endswith("/") and name:  # a key that ends so marks a folder
            info = {"size": found["Size"], "ETag": found.get("ETag"), "LastModified": found.get("LastModified")}
            yield _remote_file(fs, f"{bucket}/{found['Key']}", name, info)


def _walk_remote(fs: AbstractFileSystem, root: Root) -> Iterator[Item]:
    stack = [iter(_remote_entries(fs, root.path))]
    while stack:
        info = next(stack[-1], None)
        if info is None:
            stack.pop()
        elif info["type"] == "directory":
            stack.append(iter(_remote_entries(fs, info["name"])))
        else:
            yield _remote_file(fs, info["name"], info["name"][len(root.path.rstrip("/")) :].lstrip("/"), info)


def _remote_entries(fs: AbstractFileSystem, folder: str) -> list[dict]:
    entries = [e for e in fs.ls(folder, detail=True) if e["name"].rstrip("/") != folder.rstrip("/")]
    return sorted(entries, key=lambda e: e["name"].rstrip("/") + ("/" if e["type"] == "directory" else ""))


def _remote_file(fs: AbstractFileSystem, path: str, name: str, info: dict) -> Item:
    size = info.get("size")
    return Item(name, fs.unstrip_protocol(path), -1 if size is None else int(size), uris.version_of(info))


def _glob(path: str, fs: AbstractFileSystem | None, label: str) -> Root:
    from fsspec.utils import glob_translate

    magic = _MAGIC.search(path)
    base = path[: magic.start() if magic else len(path)].rpartition("/")[0]
    pattern = path[len(base) :].lstrip("/")
    try:
        regex = re.compile(glob_translate(pattern))
    except ValueError as error:
        raise UsageError(f"{label} {readable(path)!r} is not a pattern: {error}") from error
    literal = _MAGIC.split(pattern)[0]
    levels = 0 if "**" in pattern else pattern.count("/") + 1
    root = Root(base or "/", fs, False, regex, levels, literal)
    if next(items(root), None) is None:
        raise UsageError(f"{label} {readable(path)!r} matches nothing; {_nearby(f'{base}/{literal}', fs)}")
    return root


def _local_type(path: str, label: str) -> str:
    try:
        return "folder" if stat.S_ISDIR(os.stat(path).st_mode) else "file"
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise UsageError(f"{label} {readable(path)!r} cannot be opened: {uris.explain(error)}") from error


def _remote_type(fs: AbstractFileSystem, path: str, shown: str, label: str) -> str:
    try:
        return "file" if fs.info(path)["type"] == "file" else "folder"
    except FileNotFoundError:
        return ""
    except Exception as error:
        raise UsageError(f"{label} {uris.shown(shown)!r} cannot be opened: {uris.explain(error)}") from error


def _nearby(path: str, fs: AbstractFileSystem | None) -> str:
    """What lies where `path` was looked for, the likest names first."""
    from difflib import get_close_matches
    from itertools import islice

    folder, _, wanted = path.rstrip("/").rpartition("/")
    folder = folder or "/"
    try:
        if fs is None:
            names = [e.name for e in islice(os.scandir(folder), 1000)]
        else:
            names = [name.rstrip("/").rpartition("/")[2] for name in _first_names(fs, folder)]
    except Exception as error:  # noqa: BLE001
        return f"neither does {readable(folder)!r} ({uris.explain(error)})"
    likest = get_close_matches(wanted, names, n=3, cutoff=0.5) or sorted(names)[:3]
    held = ", ".join(repr(readable(n)) for n in likest) + (", ..." if len(names) > len(likest) else "")
    return f"{readable(folder)!r} holds {held}" if names else f"{readable(folder)!r} is empty"


def _first_names(fs: Any, folder: str) -> list[str]:
    if "s3" not in uris.protocols(fs):
        return [str(name) for name in fs.ls(folder, detail=False)[:1000]]
    bucket, below, _ = fs.split_path(folder)  # one page; s3fs would list a folder of millions to its end
    below = below.rstrip("/") + "/" if below else ""
    page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=below, Delimiter="/", **fs.req_kw)
    files = [found["Key"] for found in page.get("Contents", ()) if found["Key"] != below]
    return files + [found["Prefix"] for found in page.get("CommonPrefixes", ())]
