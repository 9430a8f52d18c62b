from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np

from artgen.report.summary import MAX_FAILURES, OTHER, summarise
from artgen.sinks import manifest
from tests.outputs import failed, row


def unit(index: int) -> str:
    return f"0123abcd-{index:06d}"


def test_counts_cover_all_parts(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), unit(0), [row("a", width=1000, height=500), failed("b")])
    manifest.write(str(tmp_path), unit(1), [row("c", width=10, height=10, noise_before=None, noise_after=None)])
    summary = summarise(str(tmp_path), sample=9, seed=0)
    assert (summary.images, summary.restored, summary.failed) == (3, 2, 1)
    assert (summary.pixels, summary.output_bytes, summary.seconds) == (500_100, 1800, 1.0)
    assert (summary.noise_before.total, summary.change_mean.total) == (1, 2)
    assert summary.models.most_common() == [(("default", "ef" * 32), 2)]


def test_groups_are_the_extremes_and_a_random_rest_each_picture_once(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    change, before = generator.permutation(300), generator.permutation(300)
    for part in range(3):
        rows = [
            row(f"k{i:03d}", change_mean=float(change[i]), noise_before=float(before[i]), noise_after=0.0)
            for i in range(100 * part, 100 * part + 100)
        ]
        manifest.write(str(tmp_path), unit(part), rows)
    changed, cleaned, drawn = summarise(str(tmp_path), sample=12, seed=0).groups
    assert [item["key"] for item in changed.rows] == [f"k{i:03d}" for i in np.argsort(-change)[:4]]
    taken = {item["key"] for item in changed.rows}
    best = [key for key in (f"k{i:03d}" for i in np.argsort(-before)) if key not in taken]
    assert [item["key"] for item in cleaned.rows] == best[:4]
    keys = [item["key"] for group in (changed, cleaned, drawn) for item in group.rows]
    assert len(set(keys)) == len(keys) == 12


def test_the_random_picks_depend_on_the_seed_alone(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), unit(0), [row(f"k{i}", change_mean=0.0, noise_before=0.0) for i in range(200)])

    def picks(seed: int) -> list[str]:
        return [item["key"] for item in summarise(str(tmp_path), sample=9, seed=seed).groups[-1].rows]

    assert picks(1) == picks(1)
    assert picks(1) != picks(2)


def test_a_picture_that_got_noisier_is_not_among_the_cleaned(tmp_path: Path) -> None:
    rows = [row(f"k{i}", noise_before=1.0, noise_after=2.0, change_mean=float(i)) for i in range(30)]
    manifest.write(str(tmp_path), unit(0), rows)
    titles = [group.title for group in summarise(str(tmp_path), sample=9, seed=0).groups]
    assert titles == ["Changed most", "Drawn at random"]


def test_a_small_run_shows_every_picture_in_one_group(tmp_path: Path) -> None:
    manifest.write(str(tmp_path), unit(0), [row("a", change_mean=1.0), row("b", change_mean=3.0), failed("c")])
    (group,) = summarise(str(tmp_path), sample=24, seed=0).groups
    assert [item["key"] for item in group.rows] == ["b", "a"]
    assert summarise(str(tmp_path), sample=0, seed=0).groups == ()


def test_failures_are_grouped_by_reason_without_what_differs(tmp_path: Path) -> None:
    rows = [failed(f"a{i}", message=f"truncated: {i * 7} bytes missing in 'a{i}'") for i in range(5)]
    manifest.write(str(tmp_path), unit(0), [*rows, failed("z", "TooManyPixels", "30000x20000 pixels")])
    summary = summarise(str(tmp_path), sample=9, seed=0)
    assert summary.reasons.most_common() == [
        (("DecodeFailed", "truncated: … bytes missing in …"), 5),
        (("TooManyPixels", "… pixels"), 1),
    ]
    assert summary.failures[1].message == "truncated: 7 bytes missing in 'a1'"


def test_memory_is_bounded_however_many_fail_in_however_many_ways(tmp_path: Path) -> None:
    def letters(number: int) -> str:
        return "".join(chr(97 + int(digit)) for digit in str(number))

    for part in range(2):
        rows = [failed(f"{part}/{i}", message=f"reason {letters(i)} " + "x" * 2000) for i in range(700)]
        manifest.write(str(tmp_path), unit(part), rows)
    tracemalloc.start()
    summary = summarise(str(tmp_path), sample=9, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert summary.failed == 1400
    assert len(summary.failures) == MAX_FAILURES
    assert sum(summary.reasons.values()) == 1400
    assert summary.reasons[("DecodeFailed", OTHER)] > 0
    assert peak < 12 << 20


def test_notes_are_counted_one_by_one(tmp_path: Path) -> None:
    rows = [row("a", notes="first of 12 frames; palette became RGB"), row("b", notes="first of 3 frames")]
    manifest.write(str(tmp_path), unit(0), rows)
    notes = summarise(str(tmp_path), sample=9, seed=0).notes
    assert notes == {"first of … frames": 2, "palette became RGB": 1}
