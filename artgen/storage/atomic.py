"""Writes that are there whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import itertools
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from artgen.errors import StorageError, UsageError
from artgen.storage import s3_uploads, scratch
from artgen.storage import uri as uris
from artgen.storage.owner import is_gone, this_host

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_LIBC = ctypes.CDLL(None, use_errno=True)

PREFIX = ".artgen-"
"""Begins the name of every temporary file, so that `sweep` knows them and listings skip them."""

# A large object goes up in parts of this size, so many at once: 64 MiB of memory for each file under way.
_PART_BYTES, _PARTS_AT_ONCE, _MOST_PARTS = 16 << 20, 4, 9_000
# The disk takes what many threads ask it to keep at once in a third of the time (16 pictures on ext4: 170 ms for 450).
_SYNCS_AT_ONCE = 8
# From so many files on, one call that writes out their whole disk is cheaper than one for each (128 on ext4: 5 ms for 40),
# though it waits for what others have written as well.
_WHOLE_DISK_FROM = 64
# Where that call is known to write everything out; file systems in user space are not even told of it.
_SYNCED_WHOLE = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "tmpfs"}


def write(uri: str, data: bytes | memoryview, options: uris.Options | None = None, *, fsync: bool = False) -> None:
    """Publishes `data` at `uri`, making its folders. Readers see the old file or the whole new one.

    fsync: local only; the data are on the disk before the name is. Raises StorageError.
    """
    if uris.is_local(uri):
        with explained(uri):
            _write_beside(uris.local_path(uri), memoryview(data).cast("B"), fsync)
        return
    fs, path = uris.filesystem(uri, options)
    with explained(uri):
        _make_parents(fs, path)
        fs.pipe_file(path, bytes(data))


@contextmanager
def open_for_commit(
    uri: str, options: uris.Options | None = None, *, fsync: bool = False, buffering: int = -1
) -> Iterator[IO[bytes]]:
    """A local binary file, seekable, that is published at `uri` when the block ends well and removed when it
    does not. Local: a temporary file in the same folder, renamed. Elsewhere: spooled to this machine's
    temporary folder, then one put or multipart upload, which stores publish whole. buffering: as of `open`.
    Raises StorageError.
    """
    if uris.is_local(uri):
        with explained(uri), _file_beside(uris.local_path(uri), fsync, buffering) as file:
            yield file
        return
    with explained(uri):
        fd, spool = tempfile.mkstemp(dir=scratch.folder())
    try:
        with explained(uri):
            with open(fd, "w+b", buffering) as file:
                yield file
            _put(spool, uri, options)
    finally:
        with suppress(FileNotFoundError):  # swept
            os.unlink(spool)


def _number_anew() -> None:
    """From a random number on, as a process that is gone may have had the number of this one."""
    global _numbers
    _numbers = itertools.count(secrets.randbits(60))


_number_anew()
os.register_at_fork(after_in_child=_number_anew)


@contextmanager
def _file_beside(path: str, fsync: bool, buffering: int) -> Iterator[IO[bytes]]:
    """A temporary file in the folder of `path`, which only its owner can read, that gets its name when the block ends well."""
    with _published(path, fsync) as fd:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, 0o600)
        with open(fd, "w+b", buffering, closefd=False) as file:
            yield file
        os.fchmod(fd, mode)


def _write_beside(path: str, rest: memoryview, fsync: bool) -> None:
    """`_file_beside` in fewer calls, for what is here whole: a picture of 4 KB is written by thousands of them."""
    with _published(path, fsync) as fd:
        while len(rest):  # one call takes 2 GiB at most
            rest = rest[os.write(fd, rest) :]


@contextmanager
def _published(path: str, fsync: bool) -> Iterator[int]:
    """A new file in the folder of `path`, open for writing, that gets its name when the block ends well."""
    folder = os.path.dirname(path)
    if fsync:
        _make_folders_to_stay(folder)
    spool = os.path.join(folder, _temporary_name())
    fd = _create(spool)
    try:
        try:
            yield fd
            if fsync:
                _flush(fd)
        finally:
            os.close(fd)
        os.replace(spool, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(spool)
        raise
    if fsync:
        _fsync_folder(folder)


class Disk:
    """The disk of a local folder, opened before files are written there, so that no failure to write them out escapes `sync`:
    Linux tells one to every descriptor that was open by then, once. Of a store there is nothing to open.
    """

    def __init__(self, folder_uri: str) -> None:
        self.folder_uri, self._fd, self.device = folder_uri, -1, -1
        if not uris.is_local(folder_uri) or not hasattr(_LIBC, "syncfs"):
            return
        path = uris.local_path(folder_uri)
        with explained(folder_uri):
            os.makedirs(path, exist_ok=True)
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            device = os.fstat(self._fd).st_dev
        self.device = device if _kind_of_disk(device) in _SYNCED_WHOLE else -1

    def sync(self) -> None:
        """All data and names on it (Linux; errors of writing since 5.8). Raises OSError."""
        if _LIBC.syncfs(self._fd):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), self.folder_uri)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = self.device = -1


@functools.cache
def _kind_of_disk(device: int) -> str:
    """As mounted, such as ext4; "" where the system does not tell."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                fields, _, after = line.partition(" - ")
                if fields.split()[2] == number:
                    return after.split()[0]
    except OSError:
        return ""
    return ""


def sync(folder_uri: str, names: Iterable[str], disk: Disk | None = None) -> None:
    """The files `names`, relative to a local folder and published already, outlive a power cut from here on: their data and
    their names. disk: that of the folder, opened before they were written; many files are then synced by one call.
    Nothing is to be done of stores, which answer a put when they have it. Raises StorageError.
    """
    if not uris.is_local(folder_uri):
        return
    top = uris.local_path(folder_uri)
    paths = [os.path.join(top, name) for name in names]
    folders = {
        top,
        *(folder for lowest in {*map(os.path.dirname, paths)} for folder in _folders_between(top, lowest)),
    }
    with explained(folder_uri):
        if (
            disk is not None
            and len(paths) >= _WHOLE_DISK_FROM
            and {os.stat(f).st_dev for f in folders} == {disk.device}
        ):
            disk.sync()
            return
        with ThreadPoolExecutor(_SYNCS_AT_ONCE, "artgen-sync") as pool:
            list(pool.map(_fsync, paths))
            list(pool.map(_fsync_folder, folders))


def sweep(
    folder_uri: str, options: uris.Options | None = None, older_than_s: float = 24 * 3600, home: str = "_artgen"
) -> int:  # fmt: skip
    """Removes what killed processes left below a folder, and returns how many.

    Local: temporary files of processes of this machine that are gone, and any that have not been written to for
    `older_than_s` seconds; links are not followed. S3: uploads in parts that began so long ago, as far as the store lets
    us (other stores forget theirs by themselves). Stores: what `check_writable` left in the folder `home`.
    """
    before = time.time() - older_than_s
    if uris.is_local(folder_uri):
        return _sweep_files(uris.local_path(folder_uri), before)
    probes = uris.join(folder_uri, home)
    left = [name for name in uris.names(probes, options) if name.startswith(PREFIX) and name.endswith(".tmp")]
    for name in left:
        uris.remove(uris.join(probes, name), options)
    if uris.scheme(folder_uri) in ("s3", "s3a"):
        return len(left) + s3_uploads.abort(*uris.filesystem(folder_uri, options), before)
    return len(left)


def _sweep_files(top: str, before: float) -> int:
    removed = 0
    for folder, _, names in os.walk(top):
        for name in names:
            if name.startswith(PREFIX) and name.endswith(".tmp"):
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):  # another worker sweeps too
                    if _owner_is_gone(name) or os.lstat(path).st_mtime <= before:
                        os.unlink(path)
                        removed += 1
    return removed


def check_writable(folder_uri: str, options: uris.Options | None = None) -> None:
    """Makes the folder and writes and removes one small file in it. Raises UsageError when that fails, so
    that a run with an OUTPUT it cannot write to ends before it starts.
    """
    probe = uris.join(folder_uri, _temporary_name())
    try:
        write(probe, b"artgen", options)
        fs, path = uris.filesystem(probe, options)
        with explained(probe), suppress(FileNotFoundError):  # another run swept it
            fs.rm_file(path)
    except (StorageError, OSError) as error:
        raise UsageError(f"OUTPUT {uris.shown(folder_uri)!r} cannot be written to: {error}") from error


def _owner_is_gone(name: str) -> bool:
    """Whether a temporary file's name says that a process of this machine made it that runs no more."""
    host, _, rest = name.removeprefix(PREFIX).partition("-")
    pid = rest.partition("-")[0]
    return pid.isdigit() and is_gone(host, int(pid))


def _temporary_name() -> str:
    """Says whose it is, so that `sweep` knows whether its owner still runs; no process makes one twice."""
    return f"{PREFIX}{this_host()}-{os.getpid()}-{next(_numbers):016x}.tmp"


def _create(path: str) -> int:
    """A new file and the folders above it; unlike one of mkstemp, its mode follows the umask."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def _put(spool: str, uri: str, options: uris.Options | None) -> None:
    """A local file to a store, in parts where it is large."""
    fs, path = uris.filesystem(uri, options)
    _make_parents(fs, path)
    if not {"s3", "s3a"} & set(uris.protocols(fs)):
        fs.put_file(spool, path)
        return
    part_bytes = max(_PART_BYTES, os.path.getsize(spool) // _MOST_PARTS)
    for last in (False, False, True):
        try:
            fs.put_file(spool, path, chunksize=part_bytes, max_concurrency=_PARTS_AT_ONCE)
            return
        except FileNotFoundError:
            # "No such upload": its completion was repeated because the first answer to it was lost.
            if last:
                raise


def _make_parents(fs: AbstractFileSystem, path: str) -> None:
    """Folders, for filesystems that have them; object stores do not, and s3fs would try to make a bucket."""
    if not {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"} & set(uris.protocols(fs)):
        fs.makedirs(fs._parent(path), exist_ok=True)


def _folders_between(top: str, folder: str) -> Iterator[str]:
    """A folder and those above it, below `top`: any of them may be new."""
    while folder != top:
        yield folder
        folder = os.path.dirname(folder)


def _make_folders_to_stay(folder: str) -> None:
    """Makes a folder and those above it, and syncs the name of each one that is new."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folders_to_stay(above)
    os.makedirs(folder, exist_ok=True)
    _fsync_folder(above)


def _fsync(path: str, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    """fsync down to the platter: that of macOS leaves the data in the drive's cache."""
    if sys.platform == "darwin":
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


def _fsync_folder(folder: str) -> None:
    try:
        _fsync(folder, os.O_DIRECTORY)
    except OSError as error:
        # Network file systems sync no folders, and one that may be written to need not be readable.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Any error of the operating system or the store as StorageError with the place, the reason and a fix."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {uris.shown(uri)!r}: {uris.explain(error)}{_fix(error)}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiohttp", "gcsfs", "google", "azure", "asyncio")):
            raise
        raise StorageError(f"cannot write {uris.shown(uri)!r}: {uris.explain(error)}") from error


def _fix(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "; free some space, then run the same command again"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "; grant write access or choose another OUTPUT"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "; a file lies where a folder is needed, or a folder where the file goes"
    return ""
