"""Sinks, manifest and report on a real S3 server."""

from __future__ import annotations

import pytest

from artgen.report import page
from artgen.sinks import base, files, manifest, parquet, shards
from artgen.storage import uri
from tests.outputs import UNIT, png, row
from tests.s3 import S3Server, s3_server

__all__ = ["s3_server"]
pytestmark = pytest.mark.slow


def test_what_sinks_write_to_a_bucket_is_read_dropped_and_reported(s3_server: S3Server) -> None:
    output, options = s3_server.bucket() + "/out", s3_server.options
    rows = []
    for name, module in (("files", files), ("parquet", parquet), ("shards", shards)):
        sink = module.open(output, UNIT, options)
        where = sink.add("a.png", png(1), row("a"))
        sink.commit()
        assert base.read(output, where, options) == png(1)
        rows.append(row(name, output_uri=where))
    manifest.write(output, UNIT, rows, options)
    assert page.write(output, options=options) == output + "/report.html"
    assert (uri.read_or_none(output + "/report.html", options) or b"").count(b"<article") == 3
    for module in (parquet, shards):
        assert module.drop(output, UNIT, {"a"}, options) == 1
        assert uri.names(uri.join(output, module.FOLDER), options) == []
    assert manifest.drop(output, UNIT, {"parquet", "shards"}, options) == 2
    assert manifest.totals(output, options) == {"ok": 1, "failed": 0}
