"""Measures the steps of one operator, while somebody wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeserve._core.clock import Clock, steady_s_of, wall_ms_of
from edgeserve._core.histogram import Histogram
from edgeserve._core.observing import Observer
from edgeserve._core.step import Example, Job, Outcome


class Meter(Observer):
    """Counts durations. It may be turned on in the middle of a step, and misses that one.

    Args:
        clock: The operator's.

    Attributes:
        step: From the task's start, its payloads being here, to the return of its gates; of a source, from the item
            to its being handed over. Of what raised there is none.
        fetch: What a task waited for its payloads, where it had to.
        end_to_end: From the capture of an example to the end of the first task that used it, by this machine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.step = Histogram()
        self.fetch = Histogram()
        self.end_to_end = Histogram()
        self._steady_s = steady_s_of(clock)
        self._wall_ms = wall_ms_of(clock)
        self._start_s: float | None = None
        self._fetched_s: float | None = None

    def begin(self) -> None:
        """It is turned on: a step of which it saw the start before it was turned off is not measured."""
        self._start_s = self._fetched_s = None

    def starts(self, job: Job) -> None:
        """See `Observer`."""
        self._start_s = self._steady_s()
        self._fetched_s = None

    def fetched(self, example: Example, payload: Any) -> None:
        """See `Observer`."""
        self._fetched_s = self._steady_s()

    def ran(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """See `Observer`."""
        start_s = self._start_s
        if start_s is None:
            return
        self._start_s = None
        if self._fetched_s is not None:
            self.fetch.add(self._fetched_s - start_s)
            start_s = self._fetched_s
        self.step.add(self._steady_s() - start_s)
        now_ms = self._wall_ms()
        for example in job.examples:
            if example.fate is None:  # else it was used before
                self.end_to_end.add((now_ms - example.capture_ms) / 1000)

    def raised(self, job: Job, error: BaseException) -> None:
        """See `Observer`."""
        self._start_s = None

    def sent(
        self, example_id: bytes, capture_ms: int, taken_ms: float, payload: bytes, flow_id: bytes, *, is_url: bool
    ) -> None:
        """See `Observer`."""
        self.step.add(self._steady_s() - taken_ms / 1000)
