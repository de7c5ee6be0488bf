"""Runs of operators that leave logs, for the tests of what reads them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeserve import BatchCompute, Compute, DataSource, Model
from edgeserve._log.reading import LoggedRun, find_runs
from edgeserve._log.records import ARRIVED, SERVED, Arrived, ServedMany
from edgeserve._operator import Operator
from edgeserve.testing import ManualClock, end_memory_broker, memory_broker

START_MS = 1_700_000_000_000


def arrived(
    number: int,
    at_ms: float,
    example_id: bytes,
    capture_ms: int,
    *,
    source: str = "a",
    publish_ms: int | None = None,
    payload: bytes | None = None,
) -> Arrived:
    """The record of one example that came in a message of its own, on the topic "in"; published when it came."""
    return Arrived(
        ARRIVED,
        float(at_ms),
        "in",
        int(at_ms) if publish_ms is None else publish_ms,
        number,
        False,
        example_id,
        [capture_ms],
        source,
        None,
        [50],
        None,
        None if payload is None else [payload],
        None,
    )


def served(number: int, start_s: float, finish_s: float, output_id: bytes = b"", size: int = 0) -> ServedMany:
    """The record of one run of a task on what asked no join."""
    return ServedMany(SERVED, [number, start_s, finish_s, output_id, size])


class RestlessClock(ManualClock):
    """A clock that goes on, by leaps, whenever someone waits by it."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(START_MS)
        self._dice = dice

    def slice_ms(self, until_steady_ms: float | None) -> int:
        self.advance(self._dice.choice([0.25, 1, 4]))
        return 1


class Captured:
    """A stream of one source: numbers, each with a capture time."""

    def __init__(self, broker: str, topic: str, source: str, clock: ManualClock, **options: Any) -> None:
        self._items: list[tuple[bytes, int]] = []
        self._source = DataSource(
            iter(self._next, None),
            broker,
            source,
            lambda item: item[0],
            topic,
            event_time=lambda item: item[1],
            clock=clock,
            packing=False,
            **options,
        )

    def _next(self) -> tuple[bytes, int]:
        return self._items.pop()

    def send(self, payload: bytes, capture_ms: int) -> None:
        """Send one example."""
        self._items.append((payload, capture_ms))
        next(self._source)

    def close(self) -> None:
        self._source.close()


def step_through(operator: Operator[Any], clock: ManualClock, dice: random.Random) -> None:
    """Make every step that something is there for."""
    while True:
        try:
            next(operator)
        except StopIteration:
            return
        except ZeroDivisionError:
            continue
        if dice.random() < 0.2:
            clock.advance(dice.choice([0.25, 1, 7]))


def only_run(path: Path, operator: str) -> LoggedRun:
    """The one run of an operator that is logged there."""
    (run,) = [run for run in find_runs(path) if run.head.operator == operator]
    return run


POISON = 7
"""Numbers that end with that make tasks and gates raise."""


def poisonous(payload: bytes) -> bytes:
    """Raises on poison."""
    if int(payload) % 10 == POISON:
        raise ZeroDivisionError(f"{payload!r} can't be served")
    return payload


def join_both(left: bytes, right: bytes) -> bytes | None:
    """A task of two sources, that sends something of most of them."""
    return left + b"&" + right if (int(left) + int(right)) % 10 else None


def join_or_fail(left: bytes, right: bytes) -> bytes | None:
    """The same, but that poison may raise."""
    return join_both(poisonous(left), poisonous(right))


def some(payload: bytes) -> bytes | None:
    """A gate that drops some."""
    return payload if int(payload) % 6 else None


def random_compute(
    path: Path, seed: int, task: Callable[[bytes, bytes], bytes | None] = join_or_fail, **options: Any
) -> LoggedRun:
    """The log of a join of two sources that lag, come in disorder, and are stepped at odd times."""
    dice = random.Random(seed)
    broker, clock = memory_broker(), RestlessClock(dice)
    sources = [Captured(broker, name, name, clock) for name in ("left", "right")]

    def slow(left: bytes, right: bytes) -> bytes | None:
        clock.advance(dice.choice([0, 0, 3, 20]))
        return task(left, right)

    compute = Compute(
        slow,
        broker,
        "joined",
        topic_in=["left", "right"],
        topic_out="out",
        log_path=path,
        clock=clock,
        idle_timeout_ms=30,
        **options,
    )
    try:
        for number in range(100):
            clock.advance(dice.choice([0, 1, 5, 30]))
            late_ms = dice.choice([0, 0, 2, 40, 200])
            dice.choice(sources).send(b"%d" % number, clock.now().wall_ms - late_ms)
            if dice.random() < 0.25:
                step_through(compute, clock, dice)
        clock.advance(1000)
        step_through(compute, clock, dice)
    finally:
        compute.close()
        for source in sources:
            source.close()
        end_memory_broker(broker)
    return only_run(path, "joined")


def random_single(
    path: Path,
    seed: int,
    make: Callable[..., Operator[Any]],
    task: Callable[[bytes], Any],
    **options: Any,
) -> LoggedRun:
    """The log of an operator of one source, of the name "source"; each of its examples is a flow of its own."""
    dice = random.Random(seed)
    broker, clock = memory_broker(), RestlessClock(dice)
    stream = Captured(broker, "in", "source", clock, flow_id=lambda item: item[0])

    def slow(source: Any) -> Any:
        clock.advance(dice.choice([0, 1, 6]))
        return task(source)

    operator = make(slow, broker, log_path=path, clock=clock, idle_timeout_ms=30, **options)
    try:
        for number in range(60):
            clock.advance(dice.choice([0, 1, 5]))
            stream.send(b"%d" % number, clock.now().wall_ms - dice.choice([0, 20]))
            if dice.random() < 0.25:
                step_through(operator, clock, dice)
        step_through(operator, clock, dice)
    finally:
        operator.close()
        stream.close()
        end_memory_broker(broker)
    return only_run(path, operator.name)


Flow = Callable[[bytes, bytes], tuple[bool, bytes]]


def answer(data: bytes, signal: bytes) -> tuple[bool, bytes]:
    """A task of a model that is asked, and is not sure of everything."""
    return int(data) % 4 > 0, data + b"&" + signal


def answer_or_fail(data: bytes, signal: bytes) -> tuple[bool, bytes]:
    """The same, but that poison raises."""
    return answer(poisonous(data), signal)


Flows = Mapping[bytes, tuple[bytes, bytes]]


def for_each(task: Flow) -> Callable[[Flows], tuple[dict[bytes, bool], dict[bytes, bytes]]]:
    """The same task for a batch of flows."""

    def many(flows: Flows) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        answers = {flow: task(*both) for flow, both in flows.items()}
        return {f: each[0] for f, each in answers.items()}, {f: each[1] for f, each in answers.items()}

    return many


def random_flows(
    path: Path, seed: int, make: Callable[..., Operator[Any]] = Model, task: Flow = answer, **options: Any
) -> LoggedRun:
    """The log of a dear model whose data and signals come in any order."""
    dice = random.Random(seed)
    broker, clock = memory_broker(), RestlessClock(dice)
    sources = {
        topic: Captured(broker, topic, topic, clock, flow_id=lambda item: item[0]) for topic in ("data", "signal")
    }

    def one(data: bytes, signal: bytes) -> tuple[bool, bytes]:
        clock.advance(dice.choice([0, 2, 11]))
        return task(data, signal)

    def many(flows: Flows) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        clock.advance(dice.choice([0, 2, 11]))
        return for_each(task)(flows)

    model = make(
        one if make is Model else many,
        broker,
        "data",
        "answers",
        topic_in_signal="signal",
        topic_out_signal="unsure",
        model_id="dear",
        log_path=path,
        clock=clock,
        idle_timeout_ms=30,
        max_time_diff_ms=300,
        **options,
    )
    try:
        asked: list[tuple[bytes, int]] = []
        for number in range(100):
            clock.advance(dice.choice([0, 1, 5, 30]))
            flow, capture_ms = b"%d" % number, clock.now().wall_ms - dice.choice([0, 0, 20])
            sources["data"].send(flow, capture_ms)
            if dice.random() < 0.3:
                asked.append((flow, capture_ms))
            while asked and dice.random() < 0.5:
                sources["signal"].send(*asked.pop(dice.randrange(len(asked))))
            if dice.random() < 0.25:
                step_through(model, clock, dice)
        clock.advance(1000)
        step_through(model, clock, dice)
    finally:
        model.close()
        for source in sources.values():
            source.close()
        end_memory_broker(broker)
    return only_run(path, "dear")


def listed(items: list[bytes]) -> bytes:
    """The task of a batch."""
    return b",".join(items)


def listed_or_fail(items: list[bytes]) -> bytes:
    """The same, but that poison raises."""
    return listed([poisonous(item) for item in items])


def random_batches(
    path: Path, seed: int, task: Callable[[list[bytes]], bytes | None] = listed, **options: Any
) -> LoggedRun:
    """The log of batches whose examples come in bursts."""
    dice = random.Random(seed)
    broker, clock = memory_broker(), RestlessClock(dice)
    source = Captured(broker, "in", "source", clock)

    def slow(items: list[bytes]) -> bytes | None:
        clock.advance(dice.choice([0, 5, 40]))
        return task(items)

    common: dict[str, Any] = {"log_path": path, "clock": clock, "idle_timeout_ms": 30}
    batches = BatchCompute(slow, broker, "batches", topic_in="in", topic_out="out", **common, **options)
    try:
        for number in range(100):
            clock.advance(dice.choice([0, 0, 0, 1, 15]))
            source.send(b"%d" % number, clock.now().wall_ms - dice.choice([0, 50]))
            if dice.random() < 0.3:
                step_through(batches, clock, dice)
        clock.advance(1000)
        step_through(batches, clock, dice)
    finally:
        batches.close()
        source.close()
        end_memory_broker(broker)
    return only_run(path, "batches")
