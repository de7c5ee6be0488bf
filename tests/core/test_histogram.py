from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve._core.histogram import BOUNDS_S, COARSE_BOUNDS_S, Histogram

DURATIONS_S = st.lists(st.floats(0, 900), min_size=1)


def histogram(*durations_s: float) -> Histogram:
    made = Histogram()
    for duration_s in durations_s:
        made.add(duration_s)
    return made


@pytest.mark.parametrize(("duration_s", "at_most_1_ms"), [(0.001, 1), (math.nextafter(0.001, 1), 0), (0, 1), (-5, 1)])
def test_a_bucket_has_its_upper_end_and_what_is_below_zero_is_zero(duration_s: float, at_most_1_ms: int) -> None:
    found = histogram(duration_s)
    assert found.cumulative([0.001]) == [at_most_1_ms]
    assert (found.count, found.total_s) == (1, max(0, duration_s))


def test_what_takes_longer_than_any_bound_is_counted_all_the_same() -> None:
    found = histogram(1e9, 0.5)
    assert found.cumulative(COARSE_BOUNDS_S)[-1] == 1
    assert found.count == 2
    assert found.quantile_s(1) == BOUNDS_S[-1]


def test_of_nothing_there_are_no_quantiles() -> None:
    assert Histogram().quantile_s(0.5) is None


@given(DURATIONS_S, st.sampled_from([0.0, 0.5, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_duration_that_it_stands_for(
    durations_s: list[float], share: float
) -> None:
    found = histogram(*durations_s).quantile_s(share)
    real = sorted(durations_s)[max(0, math.ceil(share * len(durations_s)) - 1)]
    upper = next(bound for bound in BOUNDS_S if real <= bound)
    lower = max((bound for bound in BOUNDS_S if bound < upper), default=0.0)
    assert found is not None
    assert lower <= found <= upper


@given(DURATIONS_S, DURATIONS_S)
def test_what_came_since_is_what_was_added(earlier: list[float], later: list[float]) -> None:
    found = histogram(*earlier)
    before = found.copy()
    for duration_s in later:
        found.add(duration_s)
    assert found.since(before).counts == histogram(*later).counts
    assert before.plus(found.since(before)).counts == found.counts


def test_the_coarse_bounds_are_1_2_and_5_of_each_decade() -> None:
    assert COARSE_BOUNDS_S[:5] == (0.00001, 0.00002, 0.00005, 0.0001, 0.0002)
    assert COARSE_BOUNDS_S[-3:] == (200, 500, 1000)
    assert len(COARSE_BOUNDS_S) == 3 * 8 + 1
