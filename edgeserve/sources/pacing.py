"""When the items of a recording leave: at the intervals that it says, whatever happened in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from edgeserve._core.clock import Clock, Now, pause_ms

T = TypeVar("T")


@dataclass(frozen=True)
class Captured(Generic[T]):
    """One item of a source.

    Attributes:
        capture_ms: When it was captured, ms since the epoch.
        value: The item.
    """

    capture_ms: int
    value: T


class Schedule:
    """Real pacing that does not drift: each moment is counted from the start, not from the one before.

    Args:
        clock: What is read, and waited on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start: Now | None = None

    def due(self, offset_ms: float) -> Now:
        """When something `offset_ms` after the start is due; the first call is the start."""
        if self._start is None:
            self._start = self._clock.now()
        return Now(self._start.wall_ms + round(offset_ms), self._start.steady_ms + offset_ms)

    def wait_for(self, offset_ms: float) -> int:
        """Wait until it is due; not at all when that has passed.

        Returns:
            The capture time to give it, ms since the epoch: the moment it was due, so that the intervals
            between capture times are those of the recording even when the reader was late.
        """
        due = self.due(offset_ms)
        wait_until(self._clock, due.steady_ms)
        return due.wall_ms


def wait_until(clock: Clock, steady_ms: float) -> None:
    """Wait until the clock's `steady_ms`, in slices, so that Ctrl-C is seen and a clock turned by hand too."""
    while clock.now().steady_ms < steady_ms:
        pause_ms(clock.slice_ms(steady_ms))
