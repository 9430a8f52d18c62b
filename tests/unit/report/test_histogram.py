from __future__ import annotations

import re

import numpy as np
import pytest

from artgen.report.histogram import Histogram, chart


def filled(*values: float) -> Histogram:
    histogram = Histogram()
    histogram.add(np.array(values))
    return histogram


def test_quantiles_are_those_of_the_values_to_a_tenth() -> None:
    values = np.random.default_rng(0).gamma(2.0, 8.0, 5001)
    histogram = Histogram()
    for part in np.array_split(values, 7):
        histogram.add(part)
    assert histogram.quantile(0.5) == pytest.approx(np.median(values), abs=0.11)
    assert histogram.total == 5001


def test_what_was_not_measured_is_not_counted() -> None:
    histogram = filled(float("nan"), 1.0, float("inf"))
    assert (histogram.total, histogram.quantile(0.5)) == (1, 1.0)
    assert Histogram().quantile(0.5) is None
    assert chart({"before": Histogram()}) is None


def test_a_chart_holds_every_value_even_beyond_its_axis() -> None:
    drawn = chart({"before": filled(*[float(v) for v in range(40)], 255.0), "after": filled(0.0, 300.0)})
    assert drawn is not None
    before, after = drawn.series
    assert (sum(before.heights), sum(after.heights)) == (41, 2)
    assert len(before.heights) == len(after.heights) <= 32
    assert drawn.top == max(before.heights)
    assert (before.label, before.median) == ("before", 20.0)


def test_ticks_run_from_zero_to_the_end_of_the_axis() -> None:
    drawn = chart({"change": filled(*np.linspace(0, 47.9, 500))})
    assert drawn is not None
    labels = [float(label) for _, label in drawn.ticks]
    assert labels[0] == 0
    assert labels[-1] >= 47.9
    assert np.allclose(np.diff(labels), labels[1])


def test_one_value_makes_one_bar_that_reaches_the_top() -> None:
    drawn = chart({"change": filled(0.0)})
    assert drawn is not None
    (series,) = drawn.series
    assert series.heights[0] == 1
    assert sum(series.heights) == 1
    assert re.match(r"M0 100V0\.00H", series.path)
