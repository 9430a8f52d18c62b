from __future__ import annotations

import pytest

from artgen import text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain ü 日本.png", "plain ü 日本.png"),
        ("two\nlines\t", "two␊lines␉"),
        ("\x7f\x85", "␡\\u0085"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\u2028c", "a\\u200bb\\u2028c"),
    ],
)
def test_a_name_is_one_visible_line(raw: str, shown: str) -> None:
    assert text.visible(raw) == shown


def test_numbers_are_for_people() -> None:
    assert [text.size(n) for n in (0, 999, 1500, 13_500_000, 5 * 10**15)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "13.5 MB",
        "5000 TB",
    ]
    assert [text.duration(s) for s in (0.04, 59.94, 61, 3700)] == ["0.0 s", "59.9 s", "1 min 1 s", "1 h 1 min"]
    assert [text.megapixels(n) for n in (12, 7_760_000, 1_234_567_890)] == ["0.000012", "7.76", "1,235"]
    assert [text.plural(n, "picture") for n in (1, 0, 2000)] == ["1 picture", "0 pictures", "2,000 pictures"]
    assert [text.measure(v) for v in (None, float("nan"), 2.04)] == ["–", "–", "2.0"]
    assert text.words("TooManyPixels") == "Too many pixels"
