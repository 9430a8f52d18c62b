"""The objects below a prefix of an S3 store, in its order, listed with several requests at once.

A store tells 1,000 keys a request and the place to go on from, so one listing is one request after another. Folders can
be listed beside each other; but a request for each of a million small folders would take longer than one plain listing.
So a prefix is divided only where its first page does not hold it all and shows few folders, that is, large ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

PAGE_KEYS = 1000  # the most that a store gives
AT_ONCE = 16
LARGE_FOLDERS = 4
"""A prefix is divided if its first page of PAGE_KEYS keys lies in no more folders than this."""

Found = dict[str, Any]


class _Listed(NamedTuple):
    """What a prefix holds: the objects of its first page, and where it goes on if that is not all; or its parts."""

    objects: list[Found]
    prefix: str = ""
    token: str = ""
    parts: tuple[str | Found, ...] = ()


def objects(fs: Any, bucket: str, prefix: str) -> Iterator[Found]:
    """Every object whose key begins with `prefix`, ordered by key, as the store tells it (Key, Size, ETag...).

    fs: s3fs's filesystem. Memory: some AT_ONCE pages. Raises what s3fs raises.
    """
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="artgen-list")
    try:
        yield from _in_order(fs, bucket, prefix, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(fs: Any, bucket: str, prefix: str, pool: ThreadPoolExecutor) -> Iterator[Found]:
    # Prefixes to look at, those that are being looked at, and single objects between them.
    todo: deque[str | Future[_Listed] | Found] = deque([prefix])
    while todo:
        for place in range(min(AT_ONCE, len(todo))):
            if isinstance(part := todo[place], str):
                todo[place] = pool.submit(_look, fs, bucket, part)
        first = todo.popleft()
        if isinstance(first, Future):
            listed = first.result()
            yield from listed.objects
            yield from _rest(fs, bucket, listed, pool)
            todo.extendleft(reversed(listed.parts))
        elif isinstance(first, dict):
            yield first


def _look(fs: Any, bucket: str, prefix: str) -> _Listed:
    """The first page, or the parts of `prefix` where it is better divided."""
    page = _page(fs, bucket, Prefix=prefix)
    found = page.get("Contents", [])
    if not page.get("IsTruncated"):
        return _Listed(found)
    above = prefix.rfind("/") + 1
    if len({item["Key"][above:].partition("/")[0] for item in found}) <= LARGE_FOLDERS:
        level = _page(fs, bucket, Prefix=prefix, Delimiter="/")
        below = [entry["Prefix"] for entry in level.get("CommonPrefixes", ())]
        if below and not level.get("IsTruncated"):
            parts = [*below, *level.get("Contents", ())]
            parts.sort(key=lambda part: (part if isinstance(part, str) else part["Key"]).encode())
            return _Listed([], parts=tuple(parts))
    return _Listed(found, prefix, page["NextContinuationToken"])


def _rest(fs: Any, bucket: str, listed: _Listed, pool: ThreadPoolExecutor) -> Iterator[Found]:
    """The pages after the first, each asked for while the one before it is used."""
    token = listed.token
    coming = pool.submit(_page, fs, bucket, Prefix=listed.prefix, ContinuationToken=token) if token else None
    while coming:
        page = coming.result()
        token = page["NextContinuationToken"] if page.get("IsTruncated") else ""
        coming = pool.submit(_page, fs, bucket, Prefix=listed.prefix, ContinuationToken=token) if token else None
        yield from page.get("Contents", ())


def _page(fs: Any, bucket: str, **which: str) -> dict[str, Any]:
    return fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=PAGE_KEYS, **fs.req_kw, **which)
