from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artgen.errors import UsageError
from artgen.work.seeds import LARGEST_SEED, Seeds, seed_entries

sets = st.sets(st.integers(0, 60)).map(sorted)


def of(numbers: list[int]) -> Seeds:
    return Seeds.of((number, number + 1) for number in numbers)


@pytest.mark.parametrize(
    ("text", "seeds", "told"),
    [
        ("7", [7], "7"),
        ("0-3", [0, 1, 2, 3], "0-3"),
        ("0-1,5, 9-10", [0, 1, 5, 9, 10], "0-1,5,9-10"),
        ("5,3,4,3-4", [3, 4, 5], "3-5"),
        (str(LARGEST_SEED), [LARGEST_SEED], str(LARGEST_SEED)),
        ("0" * 5000 + "7", [7], "7"),
        ("000", [0], "0"),
        ("", [], ""),
    ],
)
def test_lists_and_ranges(text: str, seeds: list[int], told: str) -> None:
    found = Seeds.parse(text)
    assert (list(found), len(found), str(found)) == (seeds, len(seeds), told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,,2", "'' is no seed and no range"),
        ("-5", "'-5' is no seed"),
        ("a-b", "'a-b' is no seed"),
        ("1.5", "'1.5' is no seed"),
        ("1-2-3", "'1-2-3' is no seed"),
        ("9-3", "runs backwards; use 3-9"),
        (str(2**63), "is too large"),
        ("9" * 5000, r"9{57}\.\.\. is too large; use 0 to 9223372036854775807"),
        ("3-" + "9" * 5000, "is too large"),
        ("1x" + "9" * 5000, r"'1x9{55}\.\.\.' is no seed"),
        ("0-1000000000", "names 1000000001 seeds, more than 1000000000"),
    ],
)
def test_errors_in_a_list_quote_it_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Seeds.parse(text)


@given(sets, sets)
def test_without_is_the_difference(some: list[int], others: list[int]) -> None:
    assert list(of(some).without(of(others))) == sorted(set(some) - set(others))


@given(sets, st.integers(0, 70), st.integers(0, 70))
def test_parts_are_slices(some: list[int], start: int, stop: int) -> None:
    assert list(of(some).part(start, stop)) == some[start:stop]


@given(sets)
def test_the_text_says_all(some: list[int]) -> None:
    assert list(Seeds.parse(str(of(some)))) == some


def test_a_billion_seeds_take_no_memory() -> None:
    tracemalloc.start()
    seeds = Seeds.parse("0-499999999,600000000-1099999999")
    assert len(seeds) == 10**9
    assert list(seeds.part(499_999_999, 500_000_001)) == [499_999_999, 600_000_000]
    assert len(seeds.without(Seeds.parse("5,10-19"))) == 10**9 - 11
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_entries_name_their_seed() -> None:
    entries = seed_entries(Seeds.parse("9998-10001,12345678901"), ".webp")
    assert [entry.source.key for entry in entries[:2]] == ["seed-000009998", "seed-000009999"]
    assert [entry.name for entry in entries[1:3]] == ["00000/seed-000009999.webp", "00001/seed-000010000.webp"]
    assert entries[-1].source.offset == 12345678901
    assert entries[-1].name == "1234567/seed-12345678901.webp"
