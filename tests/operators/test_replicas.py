"""Replicas of a cascade's models, killed and joined by others in mid-stream: every flow is accounted for."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from edgeserve import DataSource
from tests.broker.workers import until
from tests.operators.processes import Crew, Member, finished, number_of, numbered, until_finished

SIZES = pytest.mark.parametrize(
    ("changes", "flows"), [(6, 3000), pytest.param(20, 20_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)

# A replica that is killed, or one that joins, delays flows; far more than that would be lost for good.
WINDOW_MS = 120_000


class Replicas:
    """The processes of one model."""

    def __init__(self, start: Callable[[], Member], dice: random.Random) -> None:
        self._start = start
        self._dice = dice
        self.living = [start(), start()]
        self.ended: list[Member] = []

    def change(self) -> None:
        """Kill one or have one join, at a moment of no meaning."""
        time.sleep(self._dice.random() / 20)
        if len(self.living) > 2 or (len(self.living) == 2 and self._dice.random() < 0.5):
            victim = self.living.pop(self._dice.randrange(len(self.living)))
            victim.kill()
            self.ended.append(victim)
        else:
            self.living.append(self._start())

    @property
    def all(self) -> list[Member]:
        return self.living + self.ended

    def lines(self) -> int:
        return sum(each.lines() for each in self.all)


@SIZES
@pytest.mark.parametrize("which", ["cheap", "dear"])
@pytest.mark.timeout(180)
def test_every_flow_is_answered_while_replicas_are_killed_and_join(
    broker: str, topic: str, crew: Crew, changes: int, flows: int, which: str
) -> None:
    dice = random.Random(changes)
    sink = crew.start("sink", broker=broker, topic=f"{topic}-out")
    cheap = {"topic_in_data": f"{topic}-data", "topic_out_destination": f"{topic}-out"}
    dear = {**cheap, "topic_in_signal": f"{topic}-asks"}
    cheap |= {"topic_out_signal": f"{topic}-asks"}
    options: dict[str, dict[str, Any]] = {
        "cheap": {"topics": cheap, "model_id": "cheap", "unsure_of": 2},
        "dear": {"topics": dear, "model_id": "dear", "max_time_diff_ms": WINDOW_MS},
    }

    def starter(name: str) -> Callable[[], Member]:
        return lambda: crew.start("model", broker=broker, work_ms=0.5, **options[name])

    other = "dear" if which == "cheap" else "cheap"
    steady = starter(other)()
    replicas = Replicas(starter(which), dice)
    stream = (numbered(number, 100) for number in range(flows))
    with DataSource(stream, broker, "src", topic=f"{topic}-data", flow_id=number_of) as source:
        part = flows // (changes + 1)
        for _ in range(changes):
            quota = replicas.lines() + dice.randrange(1, part // 2)
            for _ in range(part):
                next(source)
            until(lambda quota=quota: replicas.lines() > quota, "they are at work")
            replicas.change()
        for _ in source:
            pass
    until_finished([sink], set(range(flows)))
    assert set(finished([sink])) == set(range(flows))
    began = [member.noted("began") for member in replicas.all]
    assert sum(1 for each in began if each) > 2, "several have worked"
    for member in [*replicas.living, steady]:
        member.end()


@pytest.mark.timeout(120)
def test_a_replica_that_joins_when_the_bounds_are_full_loses_no_flow(broker: str, topic: str, crew: Crew) -> None:
    flows, bound = 2000, 200
    sink = crew.start("sink", broker=broker, topic=f"{topic}-out")
    topics = {"topic_in_data": f"{topic}-data", "topic_out_destination": f"{topic}-out"}
    dear = {**topics, "topic_in_signal": f"{topic}-asks"}
    options: dict[str, Any] = {"model_id": "dear", "max_time_diff_ms": WINDOW_MS, "max_waiting_flows": bound}

    def start() -> Member:
        return crew.start("model", broker=broker, topics=dear, **options)

    replicas = [start(), start()]
    stream = (numbered(number, 100) for number in range(flows))
    with DataSource(stream, broker, "src", topic=f"{topic}-data", flow_id=number_of) as source:
        for _ in source:
            pass
    cheap_topics = {**topics, "topic_out_signal": f"{topic}-asks"}
    cheap = crew.start("model", broker=broker, topics=cheap_topics, model_id="cheap", unsure_of=2, work_ms=0.5)
    until(lambda: sum(each.lines() for each in replicas) > 200, "they are at work")
    replicas.append(start())
    until_finished([sink], set(range(flows)))
    for member in [*replicas, cheap]:
        member.end()


@pytest.mark.timeout(60)
def test_replicas_share_the_flows_and_each_flow_is_with_one(broker: str, topic: str, crew: Crew) -> None:
    sink = crew.start("sink", broker=broker, topic=f"{topic}-out")
    topics = {"topic_in_data": f"{topic}-data", "topic_out_destination": f"{topic}-out"}
    replicas = [crew.start("model", broker=broker, topics=topics, work_ms=0.2) for _ in range(3)]
    numbers = [number % 100 for number in range(1000)]
    stream = (numbered(number) for number in numbers)
    with DataSource(stream, broker, "src", topic=f"{topic}-data", flow_id=number_of) as source:
        for _ in source:
            pass
    until(lambda: sink.lines() >= 1 + 2 * len(numbers), "all are answered")
    for replica in replicas:
        replica.end()
    began = [set(replica.noted("began")) for replica in replicas]
    assert all(began), "each has worked"
    assert sum(map(len, began)) == 100, "no flow was with two"
