"""A pipeline on a clock that the test turns, with logs of all its operators: what is to be told of it is known."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, Materialize
from edgeserve.testing import ManualClock, end_memory_broker, memory_broker
from tests.replay.recorded import START_MS, Captured

TASK_MS = 4
_IDLE_MS = 30


class WaitingClock(ManualClock):
    """A clock that goes on by 1 ms whenever someone waits by it, unless what they wait for is on its way."""

    stands_still = False

    def slice_ms(self, until_steady_ms: float | None) -> int:
        if not self.stands_still:
            self.advance(1)
        return 1


def log_pipeline(path: Path, count: int = 12, name: str = "joined", sources: Sequence[str] = ("left", "right")) -> None:
    """A join of `count` pairs, after each of them one example that is too old, and a sink.

    The last example of the first source finds no partner, and expires.
    """
    broker, clock = memory_broker(), WaitingClock(START_MS)
    topics = [f"in-{place}" for place in range(len(sources))]
    streams = [
        Captured(broker, topic, source, clock, log_path=path) for topic, source in zip(topics, sources, strict=True)
    ]

    def task(left: bytes, right: bytes) -> bytes:
        clock.advance(TASK_MS)
        return left + right

    options: dict[str, Any] = {"log_path": path, "clock": clock, "idle_timeout_ms": _IDLE_MS}
    inputs = dict(zip(("left", "right"), sources, strict=True))
    compute = Compute(
        task, broker, name, topic_in=topics, topic_out="out", inputs=inputs, join="nearest",
        max_time_diff_ms=10, drop_if_older_than_ms=5000, **options,
    )  # fmt: skip
    sink = Materialize(len, broker, topic="out", sink_id="sink", **options)
    try:
        for number in range(count):
            for stream in streams:
                clock.advance(1)
                stream.send(b"%d" % number, clock.now().wall_ms)
            streams[0].send(b"old", clock.now().wall_ms - 9000)
            _step(compute, clock, (number + 1) * (len(streams) + 1))
            _step(sink, clock, compute.stats.sent)
        streams[0].send(b"alone", clock.now().wall_ms)
        _step(compute, clock, count * (len(streams) + 1) + 1)
    finally:
        for operator in (compute, sink, *streams):
            operator.close()
        end_memory_broker(broker)


def on_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is logged from now on is of this host."""
    monkeypatch.setattr(socket, "gethostname", lambda: name)


def _step(operator: Any, clock: WaitingClock, received: int) -> None:
    """Make every step that something is there for, and before that those for so many arrivals."""
    clock.stands_still = True
    while operator.stats.received < received:
        next(operator, None)
    clock.stands_still = False
    while True:
        try:
            next(operator)
        except StopIteration:
            return
