"""Which errors concern one object, and which all of a store."""

from __future__ import annotations

from typing import Any

import pytest

from artgen.errors import SourceUnreadable, StorageError
from artgen.records import Source
from artgen.storage.reader import Reader

translate = pytest.importorskip("s3fs.errors").translate_boto_error
ClientError = pytest.importorskip("botocore.exceptions").ClientError


class Refusing:
    """A bucket that answers each request with one of S3's own errors, as s3fs hands it on."""

    def __init__(self, code: str) -> None:
        self._code = code

    def unstrip_protocol(self, path: str) -> str:
        return f"s3://{path}"

    def _strip_protocol(self, uri: str) -> str:
        return uri.removeprefix("s3://")

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        raise translate(ClientError({"Error": {"Code": self._code, "Message": self._code}}, "GetObject"))


def read(code: str) -> bytes:
    reader = Reader()
    reader._stores.get("s3://b", lambda: (Refusing(code), ""))
    return reader.read(Source("a.png", "s3://b/a.png", "file", 0, 10, "", "v"))


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "NoSuchBucket"]
)
def test_a_login_that_ended_or_a_bucket_that_is_gone_ends_the_run(code: str) -> None:
    with pytest.raises(StorageError, match="the same command resumes"):
        read(code)


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchKey", "InvalidObjectState"])
def test_an_object_that_is_barred_or_gone_is_a_failed_row(code: str) -> None:
    with pytest.raises(SourceUnreadable):
        read(code)


class Archived(Refusing):
    """A container of Azure, whose client raises an error of its own that is no OSError."""

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        error = RuntimeError(f"This operation is not permitted. ErrorCode:{self._code}")
        error.error_code = self._code  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize(("code", "raised"), [("BlobArchived", SourceUnreadable), ("ServerBusy", StorageError)])
def test_a_blob_of_the_archive_tier_is_a_failed_row(code: str, raised: type[Exception]) -> None:
    reader = Reader()
    reader._stores.get("s3://b", lambda: (Archived(code), ""))
    with pytest.raises(raised, match=code):
        reader.read(Source("a.png", "s3://b/a.png", "file", 0, 10, "", "v"))
