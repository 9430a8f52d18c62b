"""Uploads in parts that nobody will end: what a killed process leaves in an S3 store, unseen by listings yet paid for."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)


def abort(fs: Any, path: str, before: float) -> int:
    """Ends the uploads below the folder `path` (BUCKET/KEY) that began at the time `before` or earlier; returns how many.

    fs: s3fs's filesystem. Raises nothing: a store may not know the request, or a role may not grant it, and no run
    depends on it.
    """
    bucket, _, key = path.rstrip("/").partition("/")
    prefix = f"{key}/" if key else ""
    aborted = 0
    try:
        for upload in _uploads(fs, bucket, prefix):
            # Not all that call themselves S3 heed the prefix.
            if upload["Key"].startswith(prefix) and upload["Initiated"].timestamp() <= before:
                which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                fs.call_s3("abort_multipart_upload", Bucket=bucket, **fs.req_kw, **which)
                aborted += 1
    except Exception as error:  # noqa: BLE001
        log.info("unfinished uploads below s3://%s were not looked for: %s", path, type(error).__name__)
    return aborted


def _uploads(fs: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """All of them, before any is ended: a store may go on from one that is gone."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **fs.req_kw, **after)
        found += page.get("Uploads", ())
        going_on = {
            "KeyMarker": page.get("NextKeyMarker", ""),
            "UploadIdMarker": page.get("NextUploadIdMarker", ""),
        }
        if not page.get("IsTruncated") or going_on == after:
            return found
        after = going_on
