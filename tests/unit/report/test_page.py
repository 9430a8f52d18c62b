from __future__ import annotations

import html.parser
import re
from typing import Any

import numpy as np
import pytest

from artgen.codecs.picture import Picture
from artgen.errors import SourceUnreadable
from artgen.report import page
from tests.outputs import UNIT, Output, failed, row

HOSTILE = "<script>alert(1)</script>/\"'&\n\u202egnp.exe"
CLEAN = np.full((120, 120, 3), 90, np.uint8)
NOISY = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
RUN: dict[str, Any] = {
    "artgen": "0.1.0",
    "versions": {"torch": "2.11"},
    "config": {
        "input": "my scans",
        "output": "out",
        "model": "m.safetensors",
        "to": ["png", "parquet"],
        "strength": 0.5,
    },
    "settings": {"precision": "fp32", "ensemble": False},
    "model": {"name": "default", "sha256": "12" * 32, "facts": {"damage": ["noise"], "licence": "Apache-2.0"}},
    "runs": [{"seconds": 10.0, "pixels": 5_000_000, "engine": "local", "ended": "interrupted"}],
}


class Outline(html.parser.HTMLParser):
    """Tags, attributes and visible text of a page; complains of tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "path", "line"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def made(output: Output, **options: Any) -> tuple[str, Outline]:
    where = page.write(output.uri, sources=output.readers, **options)
    assert where == f"{output.uri}/report.html"
    text = (output.folder / "report.html").read_text("utf-8")
    return text, Outline(text)


def test_a_run_is_told_with_its_pictures_failures_and_settings(output: Output) -> None:
    for index in range(3):
        output.picture(f"{index}.png", CLEAN, NOISY, change_mean=float(index))
    output.rows.append(failed("bad.tif"))
    text, outline = made(output.commit(RUN))
    assert "<h1>3 pictures restored, 1 failed.</h1>" in text
    assert len(outline.all("article")) == 3
    assert [a["aria-label"] for a in outline.all("input")] == [
        f"Compare before and restored: {index}.png" for index in (2, 1, 0)
    ]
    for expected in (
        "bad.tif",
        "Decode failed",
        "truncated: 252 bytes missing",
        "12" * 32,
        "Apache-2.0",
        "2.11",
        "0.5",
    ):
        assert expected in outline.text
    assert "noise 20.0 → 2.0" in outline.text
    command = (
        "artgen restore 'my scans' out --to png --to parquet --model m.safetensors --strength 0.5 --retry-failed"
    )
    assert command in outline.text


def test_the_page_asks_nothing_of_a_network(output: Output) -> None:
    output.picture("a.png", CLEAN, NOISY)
    text, outline = made(output.commit(RUN))
    assert all((image["src"] or "").startswith("data:image/webp;base64,") for image in outline.all("img"))
    assert all(image["alt"] for image in outline.all("img"))
    assert not re.search(r"https?://|url\(|@import|<link|<iframe", re.sub(r"data:[^\"]*", "", text))
    assert "default-src 'none'" in text


def test_names_and_reasons_are_data_not_markup(output: Output) -> None:
    output.picture(HOSTILE, CLEAN, NOISY, notes="<b>note</b>")
    output.rows.append(failed(HOSTILE + "2", "DecodeFailed", "<img src=x onerror=alert(2)>"))
    _, outline = made(output.commit({**RUN, "config": {"input": "</code><script>alert(3)</script>"}}))
    assert len(outline.all("script")) == 1
    assert all("onerror" not in image for image in outline.all("img"))
    assert "<script>alert(1)</script>/\"'&␊\\u202egnp.exe" in outline.text
    assert "<b>note</b>" in outline.text


@pytest.mark.parametrize(
    ("restored", "failures", "headline"),
    [
        (0, 0, "There was nothing to restore."),
        (1, 0, "One picture restored."),
        (2, 0, "2 pictures restored."),
        (0, 1, "The picture could not be restored."),
        (0, 12, "None of 12 pictures were restored."),
    ],
)
def test_pages_of_any_outcome(output: Output, restored: int, failures: int, headline: str) -> None:
    for index in range(restored):
        output.picture(f"{index}.png", CLEAN, NOISY)
    output.rows += [failed(f"bad{index}") for index in range(failures)]
    _, outline = made(output.commit())
    assert headline in outline.text
    assert len(outline.all("article")) == restored
    assert len(outline.all("tr")) == (failures + 1 if failures else 0)
    assert len(outline.all("svg")) == (2 if restored > 1 else 0)
    assert any(item.get("id") == "search" for item in outline.all("input")) == (failures > 8)


def test_an_output_of_nothing_at_all_still_has_a_page(output: Output) -> None:
    _, outline = made(output)
    assert "There was nothing to restore." in outline.text
    assert f"artgen restore INPUT {output.uri} --retry-failed" in outline.text


def test_grey_alpha_and_16_bit_pictures_are_shown(output: Output) -> None:
    grey, alpha = NOISY[..., 0], np.dstack([NOISY, NOISY[..., :1]])
    output.picture("grey.png", grey, grey[::-1].copy(), mode=None)
    output.picture("alpha.png", alpha, alpha[::-1].copy())
    output.picture("deep.png", grey.astype(np.uint16) * 257, grey[::-1].astype(np.uint16) * 257, bits=16)
    output.picture("tiny.png", CLEAN[:1, :1], NOISY[:1, :1])
    _, outline = made(output.commit())
    assert len(outline.all("article")) == 4
    assert sum("Before" in (image["alt"] or "") for image in outline.all("img")) == 4
    assert "16 bit" in outline.text


def test_a_source_that_is_gone_or_broken_is_said_and_the_result_shown(output: Output) -> None:
    for name in ("gone.png", "broken.png", "unreadable.png"):
        output.picture(name, CLEAN, NOISY)
    output.sources.pop("gone.png")
    output.sources["broken.png"] = b"not a picture"
    output.commit()

    def unreadable() -> bytes:
        raise SourceUnreadable("the bucket is closed")

    page.write(output.uri, sources=lambda keys: {**output.readers(keys), "unreadable.png": unreadable})
    outline = Outline((output.folder / "report.html").read_text("utf-8"))
    assert "The source is no longer at hand: only the result is shown." in outline.text
    assert "the bucket is closed" in outline.text
    assert len(outline.all("img")) == 3
    assert outline.all("input") == []
    page.write(output.uri)
    assert (output.folder / "report.html").read_text("utf-8").count("no longer at hand") == 3


def test_a_result_that_is_gone_is_said(output: Output) -> None:
    output.picture("a.png", CLEAN, NOISY)
    output.commit()
    (output.folder / "images" / "0.png").unlink()
    _, outline = made(output)
    assert "The restored picture cannot be shown" in outline.text
    assert outline.all("img") == []


def test_pictures_in_parquet_and_shards_are_found(output: Output) -> None:
    from artgen.sinks import manifest, parquet, shards
    from tests.outputs import png

    rows = []
    for index, module in enumerate((parquet, shards)):
        sink = module.open(output.uri, UNIT)
        where = sink.add(f"{index}.png", png(index, (60, 60)), row(str(index)))
        sink.commit()
        rows.append(row(str(index), output_uri=where))
    manifest.write(output.uri, UNIT, rows)
    _, outline = made(output)
    assert len(outline.all("img")) == 2


def test_the_same_output_makes_the_same_page(output: Output) -> None:
    for index in range(5):
        output.picture(f"{index}.png", CLEAN, np.roll(NOISY, index))
    output.commit(RUN)
    assert made(output, sample=3)[0] == made(output, sample=3)[0]


def test_many_pictures_stay_within_the_bytes_of_a_page(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PICTURES_BYTES", 60_000)
    for index in range(6):
        output.picture(f"{index}.png", np.roll(NOISY, index), NOISY)
    text, outline = made(output.commit())
    assert len(outline.all("article")) == 6
    assert len(text) < 120_000


@pytest.mark.parametrize(
    ("most", "scale", "problem"),
    [
        (14_400, 1, ""),
        (14_399, 1, "The restored picture cannot be shown"),
        (3_600, 2, "The source can no longer be read"),
        (3_599, 2, "The restored picture cannot be shown"),
        (10**9, 1, ""),
    ],
)
def test_no_more_pixels_are_decoded_than_the_run_allowed(
    output: Output, monkeypatch: pytest.MonkeyPatch, most: int, scale: int, problem: str
) -> None:
    """An upscaler's results may have as many more as it makes. The limit of the run counts above the default too."""
    asked: list[int] = []
    real = page.decode

    def told(data: bytes, *, max_pixels: int) -> Picture:
        asked.append(max_pixels)
        return real(data, max_pixels=max_pixels)

    monkeypatch.setattr(page, "decode", told)
    output.picture("a.png", CLEAN, NOISY)
    _, outline = made(output.commit({"config": {"max_pixels": most}, "model": {"facts": {"scale": scale}}}))
    assert problem in outline.text
    assert "shown" in problem or len(outline.all("img")) >= (1 if problem else 2)
    assert ("shown" in problem) == (outline.all("img") == [])
    assert asked[0] == most * scale**2
    assert asked[1:] in ([], [most])


@pytest.mark.parametrize("content", [b"not json", b"[]", b'{"runs": [3], "model": null}'])
def test_a_broken_run_json_costs_only_the_settings(output: Output, content: bytes) -> None:
    output.picture("a.png", CLEAN, NOISY)
    output.commit()
    (output.folder / "_artgen").mkdir()
    (output.folder / "_artgen" / "run.json").write_bytes(content)
    _, outline = made(output)
    assert "One picture restored." in outline.text
    assert "ef" * 32 in outline.text
