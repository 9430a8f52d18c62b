from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artgen.errors import UsageError
from artgen.storage.names import Names


def named(keys, extension=".png", taken=()):
    with Names(extension, taken) as names:
        for key in keys:
            names.add(key)
        return [names.name(key) for key in keys]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("foo.jpg", "foo.png"),
        ("a/b/foo.TIFF", "a/b/foo.png"),
        ("foo", "foo.png"),
        ("foo.bin", "foo.bin.png"),
        ("v1.2", "v1.2.png"),
        ("../../escape.png", "__/__/escape.png"),
        ("a/../../escape.png", "a/__/__/escape.png"),
        ("/etc/passwd.png", "etc/passwd.png"),
        ("./a//b.png", "a/b.png"),
        ("new\nline.png", "new_line.png"),
        ("back\\slash.png", "back_slash.png"),
        ('quo"te?*|<>:.png', "quo_te______.png"),
        ("CON.png", "_CON.png"),
        ("nul", "_nul.png"),
        ("com1/lpt9.x.jpg", "_com1/_lpt9.x.png"),
        ("trailing space .png", "trailing space_.png"),
        ("dots../x.png", "dots__/x.png"),
        (".hidden.png", ".hidden.png"),
        (".artgen-x.png", "_.artgen-x.png"),
        ("-rf.png", "-rf.png"),
        ("%2e%2e%2f.png", "%2e%2e%2f.png"),
        ("nfd_e\u0301.png", "nfd_\u00e9.png"),
        ("rtl\u202egnp.jpg", "rtl_gnp.png"),
        ("", "_.png"),
        ("..", "__.png"),
        ("a/", "a/_.png"),
    ],
)
def test_one_key(key, name):
    assert named([key]) == [name]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["foo.jpg", "foo.png"], ["foo.jpg.png", "foo.png"]),
        (["foo.jpg", "foo.gif"], ["foo.jpg.png", "foo.gif.png"]),
        (["A.png", "a.png", "a.PNG"], ["A.png", "a~2.png", "a~3.png"]),
        (["x/A.jpg", "X/a.JPG"], ["x/A.jpg.png", "X/a.JPG~2.png"]),
        (["foo.jpg", "foo.gif", "foo.jpg.png"], ["foo.jpg~2.png", "foo.gif.png", "foo.jpg.png"]),
        (["a:b.png", "a?b.png"], ["a_b.png", "a_b~2.png"]),
        (["foo.jpg", "foo.png/x.jpg"], ["foo.jpg.png", "foo.png/x.png"]),
        (["e\u0301.png", "\u00e9.png"], ["\u00e9.png", "\u00e9~2.png"]),
        (["a.png", "a.png#2"], ["a.png", "a.png#2.png"]),
        (["stra\u00dfe.jpg", "STRASSE.jpg"], ["stra\u00dfe.jpg.png", "STRASSE.jpg~2.png"]),
    ],
)
def test_collisions(keys, names):
    assert named(keys) == names


def test_extension_of_the_source():
    keys = ["a.jpg", "a.jpeg", "b.JPEG", "c.webp", "c.png", "d.tif"]
    assert named(keys, "source") == ["a.jpg", "a.jpeg.jpg", "b.jpg", "c.webp", "c.png", "d.png"]
    assert named(["a.png", "a.jpg"], ".webp") == ["a.png.webp", "a.jpg.webp"]


def test_names_of_earlier_runs_stay_theirs():
    assert named(["foo.gif", "bar.gif"], taken=["foo.png"]) == ["foo.gif.png", "bar.png"]
    assert named(["foo.png"], taken=["FOO.png"]) == ["foo~2.png"]
    assert named(["foo.png/x.jpg", "foo.png/y.jpg"], taken=["foo.png"]) == ["foo.png~/x.png", "foo.png~/y.png"]
    assert named(["foo.jpg"], taken=["foo.png/x.png"]) == ["foo.jpg.png"]


def test_long_components_are_cut_to_different_names():
    keys = [
        "n" * 300 + "1.png",
        "n" * 300 + "2.png",
        "\u4e2d" * 200 + ".png",
        "d/" * 600 + "x.png",
        "d/" * 601 + "x.png",
    ]
    names = named(keys)
    assert len(set(names)) == len(keys)
    assert max(len(part.encode()) for name in names for part in name.split("/")) <= 200
    assert max(len(name.encode()) for name in names) <= 700


def test_a_key_that_was_not_added_is_refused():
    with pytest.raises(UsageError, match=r"'b\.png' was not added"):
        named_missing()


def named_missing():
    with Names() as names:
        names.add("a.png")
        names.name("b.png")


PART = st.one_of(
    st.sampled_from(
        ["a", "A", "a.png", "a.jpg", "a.png.jpg", "..", ".", "con", "a~2.png", " ", "a.png#2", "\u00df", "ss"]
    ),
    st.text(max_size=6),
)


@settings(max_examples=200)
@given(
    st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), unique=True, max_size=30),
    st.sampled_from([".png", ".webp", "source"]),
    st.integers(0, 30),
)
def test_any_listing_gets_safe_names_that_no_file_system_confuses(keys, extension, cut):
    # The second half comes in a later run, beside the names of the first.
    first = named(keys[:cut], extension)
    names = first + named(keys[cut:], extension, taken=first)
    folded = [unicodedata.normalize("NFC", n.casefold()) for n in names]
    assert len(set(folded)) == len(keys)
    folders = {f.rpartition("/")[0][: i or None] for f in folded for i in _slashes(f.rpartition("/")[0])}
    assert not folders & set(folded)
    for name in names:
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert not set(part) & set('<>:"\\|?*')
            assert part.isprintable() or not part.isascii()
            assert part == part.rstrip(" .")
            assert len(part.encode()) <= 200
    assert named(keys[:cut], extension) == first


def _slashes(folder):
    return [i for i, c in enumerate(folder) if c == "/"] + [len(folder)] if folder else []
