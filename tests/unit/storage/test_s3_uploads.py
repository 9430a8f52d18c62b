"""Against stores that are odd; tests/e2e/test_storage_s3.py has the real one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from artgen.storage import s3_uploads


class Store:
    """Lists two uploads a page, whatever the prefix."""

    req_kw: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, keys: list[str], broken: str = "") -> None:
        self.keys, self.broken = keys, broken
        self.ended: list[str] = []

    def call_s3(self, method: str, **which: Any) -> dict[str, Any]:
        if method == self.broken:
            raise PermissionError("AccessDenied")
        if method == "abort_multipart_upload":
            self.ended.append(which["Key"])
            self.keys.remove(which["Key"])
            return {}
        start = self.keys.index(which["KeyMarker"]) + 1 if which.get("KeyMarker") else 0
        page = self.keys[start : start + 2]
        uploads = [{"Key": key, "UploadId": key, "Initiated": datetime.fromtimestamp(100, UTC)} for key in page]
        following = {"NextKeyMarker": page[-1], "NextUploadIdMarker": page[-1]} if page else {}
        return {"Uploads": uploads, "IsTruncated": start + 2 < len(self.keys), **following}


def test_all_pages_are_looked_at_and_only_what_is_below_the_folder_is_ended():
    store = Store(["a/1", "out/1", "out/2", "out/3", "out2/1"])
    assert s3_uploads.abort(store, "bucket/out", before=100) == 3
    assert store.ended == ["out/1", "out/2", "out/3"]
    assert s3_uploads.abort(store, "bucket", before=99) == 0
    assert s3_uploads.abort(store, "bucket", before=100) == 2


def test_a_store_that_refuses_is_left_alone():
    for method in ("list_multipart_uploads", "abort_multipart_upload"):
        store = Store(["out/1"], broken=method)
        assert s3_uploads.abort(store, "bucket/out", before=100) == 0
