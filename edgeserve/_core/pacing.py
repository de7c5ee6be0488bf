"""When a task may start again."""

from __future__ import annotations

from edgeserve._core.clock import Now


class Pace:
    """At least `min_interval_ms` between one start and the next."""

    def __init__(self, min_interval_ms: float) -> None:
        self._min_interval_ms = min_interval_ms
        self._next_start_steady_ms: float | None = None

    @property
    def next_start_steady_ms(self) -> float | None:
        """When the interval since the last start ends; None before the first start."""
        return self._next_start_steady_ms

    def is_due(self, now: Now) -> bool:
        """Whether a task may start now."""
        return self._next_start_steady_ms is None or now.steady_ms >= self._next_start_steady_ms

    def started(self, now: Now) -> None:
        """A task starts now."""
        self._next_start_steady_ms = now.steady_ms + self._min_interval_ms
