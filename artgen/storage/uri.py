"""Addresses: local paths and fsspec URLs. Local paths never import fsspec; nothing here opens data."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import has_magic
from typing import TYPE_CHECKING, Any

from artgen.errors import ArtgenError, StorageError, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Options = Mapping[str, Any]
"""Keyword arguments of the fsspec filesystem (credentials, endpoint). They never appear in a message."""

_LOCAL = ("", "file", "local")
_S3 = ("s3", "s3a")
# How often S3 is asked again after throttling, resets, time-outs and truncated bodies: s3fs waits 0.1 s and 1.7 times
# longer each time (10 s in all), and within each of these botocore repeats what it can with jitter. An outage ends a run
# after about 40 s; a store that fails every third request stops one request in ten thousand runs.
ATTEMPTS = 8
_S3_CONFIG = {"max_pool_connections": 64}
_S3_RETRIES = {"mode": "standard", "max_attempts": 3}
_USERS_RETRIES = {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
_SAME = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Names of stores that mean the same as another."""
_QUERY = re.compile(r"\?[\w-]+=.*", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def scheme(uri: str) -> str:
    """The protocol of a URL (`s3`, `file`, ...), or "" for a plain path."""
    head, sep, _ = uri.partition("://")
    return head if sep and "/" not in head else ""


def is_local(uri: str) -> bool:
    """Whether `uri` is a plain path or a `file://` URL."""
    return scheme(uri) in _LOCAL


def local_path(uri: str) -> str:
    """The absolute path of a local `uri`, `~` expanded and `..` resolved by its text, so that every look at it finds the
    same place whatever exists. Raises UsageError for any other protocol.
    """
    name = scheme(uri)
    if name not in _LOCAL:
        raise UsageError(f"{shown(uri)!r} is not on this machine; give a local path or a file:// URL")
    return os.path.abspath(os.path.expanduser(uri[len(name) + 3 :] if name else uri))


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it, joined by one slash each. Parts are taken as they are."""
    for part in parts:
        uri = uri + part.lstrip("/") if uri.endswith("/") else f"{uri}/{part.lstrip('/')}"
    return uri


def filesystem(uri: str, options: Options | None = None) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of `uri` and the path within it.

    `options` go to the filesystem; without them fsspec's own configuration (files in
    ~/.config/fsspec, FSSPEC_* variables) and the store's own environment apply. Local paths take no
    options. Listings are never cached, so that a second look sees what another process wrote.
    Raises UsageError when the protocol is unknown, its package is missing or the options do not fit.
    """
    if is_local(uri):
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), os.path.abspath(local_path(uri))
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    protocol = scheme(uri).split("::", 1)[0]
    settings = dict(options or {})
    if protocol in _EXTRAS:
        settings.setdefault("use_listings_cache", False)
    if protocol in _S3:
        given = settings.get("config_kwargs") or conf.get(protocol, {}).get("config_kwargs")
        retries = {} if _USERS_RETRIES & os.environ.keys() else {"retries": _S3_RETRIES}
        settings["config_kwargs"] = {**_S3_CONFIG, **retries, **(given or {})}
    try:
        fs, path = url_to_fs(uri, **settings)
        if protocol in _S3:
            _make_patient(fs)
    except ImportError as error:
        raise UsageError(f"{shown(uri)!r}: reading {protocol}:// needs {_cure(protocol, error)}") from error
    except (ValueError, TypeError) as error:
        if "rotocol" in str(error):
            raise UsageError(
                f"{shown(uri)!r}: no storage is known as {protocol}://; use a local path, s3://, gs:// or az://"
            ) from None
        # The text of this error may quote option values, so only the names are told.
        names = ", ".join(sorted(settings)) or "none"
        raise UsageError(
            f"{shown(uri)!r}: {protocol}:// does not open with these storage options: {names}"
        ) from None
    except Exception as error:
        raise UsageError(f"{shown(uri)!r} cannot be reached: {explain(error)}") from error
    return fs, str(path)


def protocols(fs: AbstractFileSystem) -> tuple[str, ...]:
    """Every name that a filesystem goes by, such as ("s3", "s3a")."""
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _make_patient(fs: Any) -> None:
    """s3fs by itself gives up at once on what a store answers under load unless its text says SlowDown (an answer to HEAD
    has no text), and on a connection that breaks in the middle of a body.
    """
    from aiohttp import ClientError as ConnectionBroke
    from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError
    from s3fs.core import set_custom_error_handler

    def passes(error: BaseException) -> bool:
        if isinstance(error, ClientError):
            return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (429, 500, 502, 503, 504)
        # Nobody listens at the endpoint: a server or balancer that is being restarted comes back within seconds.
        broke = (ConnectionBroke, HTTPClientError, EndpointConnectionError, ConnectionError, TimeoutError)
        # s3fs reads whole objects in a loop around this one, which would go through all attempts once for each of its own.
        told, error.artgen_told = getattr(error, "artgen_told", False), True  # pyright: ignore[reportAttributeAccessIssue]
        return isinstance(error, broke) and not told

    set_custom_error_handler(passes)
    fs.retries = ATTEMPTS


def exists(uri: str, options: Options | None = None) -> bool:
    """Whether a file or folder lies at `uri`."""
    if is_local(uri):
        return os.path.lexists(local_path(uri))
    fs, path = filesystem(uri, options)
    try:
        return bool(fs.exists(path))
    except Exception as error:
        raise StorageError(f"cannot look at {shown(uri)!r}: {explain(error)}") from error


def shown(uri: str) -> str:
    """`uri` fit for a message: user names, passwords and signed query strings left out, also of `zip://a::https://...`.

    In a bucket `?` is a letter of a name or a pattern, and `container@account` an address: there only `key:secret@` goes, and
    what reads as a query, `?key=value`.
    """
    outer, chain, inner = uri.partition("::")
    if chain and "://" in inner:
        return f"{shown(outer)}::{shown(inner)}"
    if is_local(uri):
        return uri
    head, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    user, at, place = host.rpartition("@")
    if scheme(uri).lower() in _EXTRAS:
        return f"{head}://{place if ':' in user else user + at + place}{slash}{_QUERY.sub('', path)}"
    return f"{head}://{place}{slash}{path.partition('?')[0]}"


def options_for(place: str, options: Options | None, others: Iterable[str]) -> Options | None:
    """`options` as far as they are meant for `place`, that lies beside the `others` of a command: those of the stores of
    the others are not for another store, which would refuse them.
    """
    stores = {scheme(normal(other)) for other in others if not is_local(other)}
    return options if not stores or scheme(normal(place)) in stores else None


def explain(error: BaseException) -> str:
    """One line on an error of the operating system or a store, for the end of a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" (errno {error.errno})" if error.errno else "")
    name = type(error).__name__
    # What a store says may quote the whole address, its signature too.
    text = _URL.sub(lambda found: shown(found[0]), " ".join(str(error).split()))[:300]
    if name == "NoCredentialsError":
        return "no credentials found; set the store's environment variables or profile, or give storage options"
    return f"{text} ({name})" if text else name


def version_of(info: Mapping[str, Any]) -> str:
    """The version of a stored object from fsspec's info: its etag, else its size and a time."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return str(etag).strip('"')
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        time = info.get(name)
        if time is not None:  # a store's listing and its info may tell the same time in different types
            time = time.timestamp() if hasattr(time, "timestamp") else time
            return f"{info.get('size')}-{time:.3f}" if isinstance(time, float) else f"{info.get('size')}-{time}"
    return str(info.get("size"))


def tells_version(version: str, size: int) -> bool:
    """Whether `version_of` an object of `size` bytes (-1: not known) is more than its size, so that a change shows."""
    return version not in ("", str(None), str(size))


def _cure(protocol: str, error: ImportError) -> str:
    if protocol in _EXTRAS:
        return f"an extra package; run: pip install 'artgen[{_EXTRAS[protocol]}]'"
    return f"a package that is not installed: {error}"


def names(folder: str, options: Options | None = None) -> list[str]:
    """Names of the files and folders directly in `folder`, sorted; none if it does not exist."""
    if is_local(folder):
        try:
            return sorted(os.listdir(local_path(folder)))
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise UsageError(f"{shown(folder)} is a file where a folder is due") from error
        except OSError as error:
            raise StorageError(f"cannot list {shown(folder)!r}: {explain(error)}") from error
    return list(sizes(folder, options))


def sizes(folder: str, options: Options | None = None) -> dict[str, int | None]:
    """What `names` tells of a folder of a store, with the sizes of its files; None: the store does not tell."""
    fs, path = filesystem(folder, options)
    try:
        found = {str(item["name"]).rstrip("/"): item.get("size") for item in fs.ls(path, detail=True)}
    except FileNotFoundError:
        return {}
    except Exception as error:
        raise StorageError(f"cannot list {shown(folder)!r}: {explain(error)}") from error
    # Object stores list a marker of the folder itself as a member of it.
    return {item.rpartition("/")[2]: found[item] for item in sorted(found) if item != path.rstrip("/")}


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Any error of the operating system or the store as StorageError: nothing that is read within is an image."""
    try:
        yield
    except ArtgenError:
        raise
    except Exception as error:
        raise StorageError(
            f"cannot read {shown(uri)!r}: {explain(error)}; the same command resumes the run"
        ) from error


def read_or_none(uri: str, options: Options | None = None) -> bytes | None:
    """The bytes of a small file, None if it does not exist. Raises StorageError."""
    fs, path = filesystem(uri, options)
    # Otherwise s3fs asks for the size first, and does not read a large body again when it breaks off.
    whole = {"max_concurrency": 1} if scheme(uri) in _S3 else {}
    try:
        return fs.cat_file(path, **whole)  # pyright: ignore[reportReturnType]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:
        raise StorageError(f"cannot read {shown(uri)!r}: {explain(error)}") from error


def remove(uri: str, options: Options | None = None) -> None:
    """Removes a file or a folder with all that is in it; what does not exist is removed already. Raises StorageError."""
    fs, path = filesystem(uri, options)
    try:
        if is_local(uri) or not has_magic(path):
            fs.rm(path, recursive=True)
            return
        # fsspec takes names for patterns: `a [1].png` would remove `a 1.png`, and stay.
        for found in fs.find(path):
            fs.rm_file(found)
    except FileNotFoundError:
        return
    except Exception as error:
        raise StorageError(f"cannot remove {shown(uri)!r}: {explain(error)}") from error


def normal(uri: str) -> str:
    """One spelling for each place, to compare two: local paths absolute with links resolved, stores by one name."""
    if is_local(uri):
        return os.path.realpath(local_path(uri))
    name, path = scheme(uri), uri.partition("://")[2]
    return f"{_SAME.get(name, name)}://{(path.lstrip('/') if name == 'memory' else path).rstrip('/')}"
