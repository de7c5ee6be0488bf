"""Waiting until the time has come."""

from __future__ import annotations

import signal
import sys

import pytest

from edgeserve._core.clock import SYSTEM_CLOCK, Now
from edgeserve.sources.pacing import Schedule, wait_until
from tests.sources.conftest import HandClock


@pytest.mark.parametrize(("until_ms", "waits"), [(4999.0, False), (5000.0, False), (5000.5, True)])
def test_only_what_is_still_to_come_is_waited_for(clock: HandClock, until_ms: float, waits: bool) -> None:
    wait_until(clock, until_ms)
    assert clock.waits_ms == ([until_ms] if waits else [])


def test_a_wait_goes_on_until_the_clock_has_been_turned_far_enough() -> None:
    class Stepping(HandClock):
        def slice_ms(self, until_steady_ms: float | None) -> int:
            self.turn(100)
            return 0

    clock = Stepping()
    wait_until(clock, 5250.0)
    assert clock.now().steady_ms == 5300.0


def test_moments_are_counted_from_the_first() -> None:
    clock = HandClock(wall_ms=1000, steady_ms=50.0)
    schedule = Schedule(clock)
    assert schedule.due(0) == Now(1000, 50.0)
    clock.turn(7)
    assert schedule.due(2.4) == Now(1002, 52.4)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that arrives by itself")
def test_a_real_wait_can_be_interrupted() -> None:
    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_until(SYSTEM_CLOCK, SYSTEM_CLOCK.now().steady_ms + 50_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
