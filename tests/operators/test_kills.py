"""Processes killed at random moments of one stream; every example is accounted for by its number."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeserve import DataSource
from edgeserve.address import LocalAddress, PulsarAddress
from tests.broker.local.test_kills import check_files
from tests.broker.workers import until
from tests.operators.conftest import CODEC, Wire
from tests.operators.processes import LAST, Crew, Member, finished, numbered, until_finished

SIZES = pytest.mark.parametrize(
    ("kills", "examples"), [(5, 4000), pytest.param(20, 20_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])]
)

# How many examples follow one another at once, so that packs of about so many leave.
BURST = 40
BATCH = 200


class Feed:
    """A stream that is sent in parts, by one source."""

    def __init__(self, broker: str, topic: str, examples: int, parts: int) -> None:
        self._source = DataSource((numbered(number) for number in range(examples)), broker, "only", topic=topic)
        self._part = -(-examples // parts)

    def send_part(self) -> None:
        for burst in range(0, self._part, BURST):
            for _ in range(min(BURST, self._part - burst)):
                next(self._source, None)
            time.sleep(0.01)  # so that what leaves in packs can be shared out among replicas

    def close(self) -> None:
        self._source.close()


def send_last(wire: Wire, topic: str) -> None:
    """Send what ends the sinks."""
    wire.send_raw(CODEC.encode(bytes(16), "only", numbered(LAST)), topic=topic)


@pytest.fixture
def feed(broker: str, wire: Wire, kills: int, examples: int) -> Iterator[Feed]:
    feed = Feed(broker, wire.src, examples, kills + 1)
    yield feed
    feed.close()


@SIZES
@pytest.mark.parametrize("replicas", [1, 2])
def test_every_example_passes_a_compute_that_is_killed_and_a_deduplicating_sink_takes_it_once(
    broker: str, wire: Wire, crew: Crew, feed: Feed, kills: int, examples: int, replicas: int
) -> None:
    dice = random.Random(replicas)
    plain = crew.start("sink", broker=broker, topic=wire.dst, sink_id="plain")
    once = crew.start("sink", broker=broker, topic=wire.dst, sink_id="once", deduplicate=True)

    def start() -> Member:
        return crew.start("compute", broker=broker, topic_in=wire.src, topic_out=wire.dst, work_ms=0.8)

    computes = [start() for _ in range(replicas)]
    for _ in range(kills):
        # Of both together, as the one that is there first may have fetched all; counted before the part is sent, of
        # which they may have served everything when it is.
        quota = sum(compute.lines() for compute in computes) + dice.randrange(1, examples // kills // 2)
        feed.send_part()
        until(lambda quota=quota: sum(compute.lines() for compute in computes) > quota, "they are at work")
        victim = dice.randrange(replicas)
        time.sleep(dice.random() / 100)  # a moment of no meaning
        computes[victim].kill()
        computes[victim] = start()
    feed.send_part()
    feed.close()
    until_finished([plain], set(range(examples)))
    for compute in computes:
        compute.end()
    send_last(wire, wire.dst)
    for sink in (plain, once):
        sink.wait(60)
    assert set(finished([plain])) == {*range(examples), LAST}
    assert Counter(finished([once])) == Counter([*range(examples), LAST])


def inside_at_the_end(life: Member) -> set[int]:
    """The example that a sink was in the middle of, or had just finished, when it was killed."""
    return set(life.noted("began")[-1:])


def taken_again(lives: Sequence[Member]) -> Counter[int]:
    """What later lives began once more, and how often, that was not inside the callable when an earlier one ended."""
    began = Counter(number for life in lives for number in life.noted("began"))
    forgiven = Counter(number for life in lives for number in inside_at_the_end(life))
    return Counter({number: count - 1 for number, count in began.items() if count > 1}) - forgiven


@SIZES
@pytest.mark.parametrize(
    ("deduplicate", "standbys"), [(False, 0), (True, 0), (True, 1)], ids=["plain", "once", "once with a stand-by"]
)
def test_a_sink_that_is_killed_gets_every_example_and_takes_only_those_twice_that_it_had_in_hand(
    broker: str, wire: Wire, crew: Crew, feed: Feed, kills: int, examples: int, deduplicate: bool, standbys: int
) -> None:
    dice = random.Random(standbys)
    lives: list[Member] = []

    def start() -> Member:
        lives.append(crew.start("sink", broker=broker, topic=wire.src, deduplicate=deduplicate, work_ms=0.8))
        return lives[-1]

    sinks = [start() for _ in range(1 + standbys)]
    for _ in range(kills):
        feed.send_part()
        quota = 1 + dice.randrange(1, examples // kills // 2)
        until(lambda quota=quota: any(sink.lines() > quota for sink in sinks), "one is at work")
        time.sleep(dice.random() / 100)  # a moment of no meaning
        (victim,) = [sink for sink in sinks if sink.lines() > quota]
        victim.kill()
        sinks.remove(victim)
        sinks.append(start())
    feed.send_part()
    feed.close()
    send_last(wire, wire.src)
    until_finished(lives, {*range(examples), LAST})
    assert set(finished(lives)) == {*range(examples), LAST}
    if deduplicate:
        assert taken_again(lives) == Counter()
    for life in lives:  # what was taken is in the order of the sends
        assert life.noted("began") == sorted(life.noted("began"))


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_what_was_confirmed_survives_when_all_processes_are_killed_at_once(
    address: LocalAddress | PulsarAddress, broker: str, wire: Wire, crew: Crew, tmp_path: Path, kills: int
) -> None:
    dice = random.Random(kills)
    sources: list[Member] = []
    sinks: list[Member] = []

    def start_readers() -> list[Member]:
        compute = crew.start("compute", wait=False, broker=broker, topic_in=wire.src, topic_out=wire.dst)
        sinks.append(crew.start("sink", wait=False, broker=broker, topic=wire.dst, deduplicate=True))
        return [compute, sinks[-1]]

    for kill in range(kills):
        members = start_readers()
        first = kill * 10**6
        sources.append(crew.start("batches", broker=broker, topic=wire.src, first=first, batch=BATCH, pause_ms=20))
        for member in (*members, sources[-1]):
            member.until_lines(2)
        time.sleep(dice.random() / 5)  # a moment of no meaning: it may be within a commit
        for member in (*members, sources[-1]):
            member.process.kill()
        for member in (*members, sources[-1]):
            assert member.process.wait() < 0
        check_whole(address, tmp_path)
    confirmed = {
        number
        for kill, source in enumerate(sources)
        for number in range(kill * 10**6, source.noted("confirmed")[-1] + 1)
    }
    assert len(confirmed) >= kills * BATCH
    compute, _ = start_readers()
    until_finished(sinks, confirmed)
    compute.end()
    send_last(wire, wire.dst)
    sinks[-1].wait(60)
    assert taken_again(sinks) == Counter()


def check_whole(address: LocalAddress | PulsarAddress, folder: Path) -> None:
    """The files of a local broker and of the sinks are in order; another broker's are its own."""
    if isinstance(address, LocalAddress) and address.folder is not None:
        check_files(address.folder)
    for path in folder.glob("home/served/*.db"):
        file = sqlite3.connect(path)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
        file.close()
