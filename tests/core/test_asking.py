"""What is known of asks, and of how far something had got."""

from __future__ import annotations

import math

from edgeserve._core.asking import Ask, Horizon


def test_an_ask_travels_as_it_is() -> None:
    ask = Ask(b"\x00flow\xff", 1_700_000_000_000, 3)
    assert Ask.decode(ask.encode()) == ask
    assert Ask.decode(b"too few") is None


def test_a_horizon_says_how_far_it_was_by_a_time() -> None:
    horizon = Horizon(keep_ms=2000)
    assert horizon.as_of(0) == -math.inf
    horizon.reach(10, 100)
    horizon.reach(20, 1000)
    horizon.reach(15, 1500)
    assert [horizon.as_of(ms) for ms in (99, 100, 999, 1000, 5000)] == [-math.inf, 10, 10, 20, 20]


def test_a_horizon_keeps_no_more_than_it_can_be_asked_for() -> None:
    horizon = Horizon(keep_ms=2000)
    for step in range(100_000):
        horizon.reach(step, step * 10)
    assert len(horizon._seen) < 100
    # In steps of 50 ms, so it may be that much more than it says.
    assert 99_999 - 200 - 10 <= horizon.as_of(999_990 - 2000) <= 99_999 - 200
