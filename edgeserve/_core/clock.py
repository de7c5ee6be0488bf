"""Time, read in one place: steps take a `Now`, operators hold one `Clock`, tests turn theirs by hand.

No other module of the package imports `time`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol


class Now(NamedTuple):
    """One reading of both clocks.

    Attributes:
        wall_ms: ms since the epoch; for the age of captures. It may jump.
        steady_ms: ms since some moment; for intervals. It never goes back.
    """

    wall_ms: int
    steady_ms: float


class Clock(Protocol):
    """What an operator knows of time, and how long it may wait at a stretch."""

    def now(self) -> Now:
        """Read both clocks."""

    def slice_ms(self, until_steady_ms: float | None) -> int:
        """How many real ms a wait until `until_steady_ms` (None: for ever) may block before it looks again."""


class SystemClock:
    """The machine's clocks."""

    # Waits are cut into slices so that Ctrl-C and `close()` are seen in time.
    longest_slice_ms = 200

    def now(self) -> Now:
        """Read both clocks of the machine."""
        return Now(time.time_ns() // 1_000_000, time.monotonic() * 1000)

    def slice_ms(self, until_steady_ms: float | None) -> int:
        """The time left, rounded up to a ms and at most `longest_slice_ms`."""
        if until_steady_ms is None:
            return self.longest_slice_ms
        left_ms = until_steady_ms - time.monotonic() * 1000
        return max(0, min(self.longest_slice_ms, int(left_ms) + 1)) if left_ms > 0 else 0


SYSTEM_CLOCK = SystemClock()


def wall_ms() -> int:
    """The machine's time in ms since the epoch."""
    return time.time_ns() // 1_000_000


steady_s = time.monotonic
"""The same in seconds, at half the cost, for what is asked twice a step."""


def steady_ms() -> float:
    """Ms since some moment; never goes back."""
    return time.monotonic() * 1000


def pause_ms(duration_ms: float) -> None:
    """Sleep in this thread."""
    time.sleep(duration_ms / 1000)


def steady_ms_of(clock: Clock) -> Callable[[], float]:
    """What reads a clock's steady time alone, which costs a quarter of reading both."""
    return steady_ms if clock is SYSTEM_CLOCK else lambda: clock.now().steady_ms


def steady_s_of(clock: Clock) -> Callable[[], float]:
    """The same in seconds."""
    return steady_s if clock is SYSTEM_CLOCK else lambda: clock.now().steady_ms / 1000


def wall_ms_of(clock: Clock) -> Callable[[], int]:
    """What reads a clock's wall time alone."""
    return wall_ms if clock is SYSTEM_CLOCK else lambda: clock.now().wall_ms
