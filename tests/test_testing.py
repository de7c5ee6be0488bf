"""What users test their own pipelines with."""

from __future__ import annotations

import pytest

from edgeserve import Compute, DataSource, Materialize, UsageError
from edgeserve.testing import ManualClock, end_memory_broker, memory_broker


def test_a_clock_stands_still_until_it_is_turned() -> None:
    clock = ManualClock(1000)
    assert clock.now() == (1000, 0)
    clock.advance(0.4)
    clock.advance(0.4)
    assert clock.now() == (1001, 0.8)
    assert (clock.slice_ms(0.8), clock.slice_ms(0.9) > 0, clock.slice_ms(None) > 0) == (0, True, True)
    with pytest.raises(ValueError, match="turned back"):
        clock.advance(-1)


def test_a_pipeline_is_tested_on_a_broker_in_memory_without_sleeping(
    edgeserve_broker: str, edgeserve_clock: ManualClock
) -> None:
    with (
        DataSource([b"1", b"2"], edgeserve_broker, "meter", clock=edgeserve_clock) as meter,
        Compute(lambda meter: meter, edgeserve_broker, min_interval_ms=60_000, clock=edgeserve_clock) as compute,
        Materialize(lambda payload: payload, edgeserve_broker) as sink,
    ):
        next(meter)
        assert next(compute) == b"1"
        next(meter)
        assert next(compute) is None
        edgeserve_clock.advance(60_000)
        assert next(compute) == b"2"
        assert [next(sink), next(sink)] == [b"1", b"2"]


def test_a_broker_in_memory_can_be_ended_once_its_operators_are_closed() -> None:
    broker = memory_broker()
    with DataSource([b"1"], broker, "s") as source:
        next(source)
        with pytest.raises(UsageError, match="in use"):
            end_memory_broker(broker)
    end_memory_broker(broker)
    with Materialize(lambda payload: payload, broker, topic="src", idle_timeout_ms=50) as sink:
        assert list(sink) == []


def test_each_broker_in_memory_is_another_one() -> None:
    one, other = memory_broker(), memory_broker()
    with DataSource([b"1"], one, "s") as source:
        next(source)
    with Materialize(lambda payload: payload, other, topic="src", idle_timeout_ms=50) as sink:
        assert list(sink) == []
