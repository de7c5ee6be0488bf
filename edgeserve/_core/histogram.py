"""How long things took: counts by fixed logarithmic buckets, cheap enough for every step."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

# Ten a decade, from 1 µs to 1000 s: the preferred numbers R10, each about a quarter more than the one before it. They
# have 1, 2 and 5 among them, which are enough for who exports a series for each.
_DECADE = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
BOUNDS_S = (*(float(f"{digits}e{power}") for power in range(-6, 3) for digits in _DECADE), 1000.0)
"""The upper end of each bucket but the last, which has none; in seconds, the end included."""

COARSE_BOUNDS_S = tuple(bound for bound in BOUNDS_S if f"{bound:e}"[:3] in ("1.0", "2.0", "5.0") and bound >= 1e-5)
"""Those of them that begin with 1, 2 or 5, from 10 µs on."""


class Histogram:
    """Durations of one kind. One thread adds to it; copies may be made from any.

    Attributes:
        counts: How many fell into each bucket.
        total_s: Their sum.
    """

    __slots__ = ("counts", "total_s")

    def __init__(self, counts: Sequence[int] = (), total_s: float = 0.0) -> None:
        self.counts = list(counts) or [0] * (len(BOUNDS_S) + 1)
        self.total_s = total_s

    def add(self, duration_s: float) -> None:
        """Count one duration; one below zero, as clocks that differ give it, is zero."""
        if duration_s < 0:
            duration_s = 0.0
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.total_s += duration_s

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def copy(self) -> Histogram:
        """How it is now."""
        return Histogram(self.counts, self.total_s)

    def plus(self, other: Histogram) -> Histogram:
        """Both together."""
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram([one + another for one, another in pairs], self.total_s + other.total_s)

    def since(self, earlier: Histogram) -> Histogram:
        """What was added after `earlier` was copied of it."""
        pairs = zip(self.counts, earlier.counts, strict=True)
        return Histogram([one - before for one, before in pairs], self.total_s - earlier.total_s)

    def quantile_s(self, share: float) -> float | None:
        """What so many of them (0 to 1) took at most, to a quarter or less; None if there were none."""
        if not self.count:
            return None
        rank = share * self.count
        sums = list(accumulate(self.counts))
        place = next(place for place, sum_so_far in enumerate(sums) if sum_so_far >= rank and self.counts[place])
        if place == len(BOUNDS_S):
            return BOUNDS_S[-1]
        lower_s = BOUNDS_S[place - 1] if place else 0.0
        below = sums[place] - self.counts[place]
        return lower_s + (BOUNDS_S[place] - lower_s) * max(0.0, rank - below) / self.counts[place]

    def cumulative(self, bounds_s: Sequence[float]) -> list[int]:
        """How many took at most as long as each of some of `BOUNDS_S`."""
        sums = list(accumulate(self.counts))
        return [sums[bisect_left(BOUNDS_S, bound_s)] for bound_s in bounds_s]
