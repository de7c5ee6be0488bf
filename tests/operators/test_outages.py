"""The broker out of reach for a while, full, or killed: what becomes of what sources send meanwhile."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from edgeserve import DataSource, DeliveryError, Fate
from tests.apache_pulsar import ApachePulsar
from tests.broker.local.test_full_disk import ballast
from tests.broker.workers import until
from tests.operators.outages import CutLine, FullTopic, Line, Outage, SilentLine
from tests.operators.processes import LAST, Crew, Member, finished, numbered, until_finished

KILOBYTE = 1000
UNCONFIRMED = 100
CAP = 500_000
DURATIONS = pytest.mark.parametrize(
    "outage_s", [2, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(240)])]
)


class OwnPulsar:
    """An Apache Pulsar of these tests' own, at the end of a line that can be cut."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.line = Line(port)
        self.url = f"pulsar://127.0.0.1:{self.line.port}"
        # Otherwise it would tell its clients to connect past the line.
        self.broker = ApachePulsar(folder, port, settings={"advertisedListeners": f"internal:{self.url}"})


@pytest.fixture(scope="module")
def own_pulsar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPulsar]:
    if not request.config.getoption("--apache-pulsar"):
        pytest.skip("it starts and kills an Apache Pulsar: only with --apache-pulsar")
    own = OwnPulsar(tmp_path_factory.mktemp("own-pulsar"))
    with closing(own.line), own.broker:
        yield own


@pytest.fixture(params=["local", "apache", "silent apache"])
def outage(request: pytest.FixtureRequest, tmp_path: Path, topic: str) -> Iterator[Outage]:
    if request.param == "local":
        outage: Outage = FullTopic(f"local://{tmp_path / 'broker'}?max_topic_bytes={CAP}", topic)
    else:
        own = request.getfixturevalue("own_pulsar")
        kind = CutLine if request.param == "apache" else SilentLine
        outage = kind(own.url, topic, own.line)
    with closing(outage):
        yield outage


def accounted(source: DataSource) -> bool:
    """Whether each item that was taken in has one fate, or is held."""
    stats = source.stats
    return stats.received == sum(stats.fates.values()) + stats.held and stats.held >= 0


@DURATIONS
def test_a_source_that_blocks_waits_for_the_broker_and_goes_on_with_nothing_lost(
    outage: Outage, outage_s: float
) -> None:
    is_over = threading.Event()
    stream = (numbered(number, KILOBYTE) for number in count())
    with DataSource(stream, outage.address, "only", topic=outage.topic, max_unconfirmed=UNCONFIRMED) as source:

        def keep_sending() -> None:
            while not is_over.is_set():
                next(source)

        sending = threading.Thread(target=keep_sending)
        sending.start()
        until(lambda: len(outage.reading.numbers) > 100, "it works")
        outage.begin()
        until(lambda: stands_still(source, 0.3), "it is blocked")
        assert source.stats.unconfirmed == UNCONFIRMED
        assert stands_still(source, outage_s)
        before = len(outage.reading.numbers)
        outage.end()
        until(lambda: len(outage.reading.numbers) > before + 2 * UNCONFIRMED, "it works again", 60)
        is_over.set()
        sending.join()
    sent = source.stats.sent
    until(lambda: len(outage.reading.numbers) >= sent, "all have come")
    assert outage.reading.numbers == list(range(sent))
    assert source.stats.fates == {Fate.USED: sent}


def stays(value: Callable[[], int], duration_s: float) -> bool:
    """Whether it is the same after so long."""
    before = value()
    time.sleep(duration_s)
    return value() == before


def stands_still(source: DataSource, duration_s: float) -> bool:
    """Whether it sends nothing for so long."""
    return stays(lambda: source.stats.sent, duration_s)


@DURATIONS
@pytest.mark.parametrize(("packing", "unconfirmed"), [(True, UNCONFIRMED), (True, 2), (False, UNCONFIRMED)])
def test_a_source_that_drops_the_oldest_never_waits_and_says_how_many_it_dropped(
    outage: Outage, outage_s: float, packing: bool, unconfirmed: int
) -> None:
    stream = (numbered(number, KILOBYTE) for number in count())
    options = {"overflow": "drop_oldest", "max_unconfirmed": unconfirmed, "packing": packing}
    with DataSource(stream, outage.address, "only", topic=outage.topic, **options) as source:

        def send(goes_on: Callable[[], bool]) -> None:
            while goes_on():
                began_s = time.monotonic()
                next(source)
                assert time.monotonic() - began_s < 1, "it waited"
                assert accounted(source)
                time.sleep(0.001)  # the pace of a sensor

        send(lambda: len(outage.reading.numbers) < 100)
        outage.begin()
        send(lambda: not source.stats.fates.get(Fate.EVICTED))
        until_s = time.monotonic() + outage_s
        send(lambda: time.monotonic() < until_s)
        assert source.stats.held <= unconfirmed + 1
        outage.end()
        before = len(outage.reading.numbers)
        send(lambda: len(outage.reading.numbers) < before + 100)
        received = source.stats.received
    stats = source.stats
    used, evicted = stats.fates[Fate.USED], stats.fates[Fate.EVICTED]
    assert (stats.held, stats.unconfirmed) == (0, 0)
    assert used + evicted == received
    assert stats.sent == used
    until(lambda: len(outage.reading.numbers) >= used, "all that was used has come")
    numbers = outage.reading.numbers
    assert len(numbers) == used
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == received - 1


@DURATIONS
def test_a_spool_loses_nothing_though_the_source_is_killed_in_the_middle_of_the_outage(
    outage: Outage, crew: Crew, tmp_path: Path, outage_s: float
) -> None:
    options = {"topic": outage.topic, "overflow": "spool", "spool_path": str(tmp_path / "spool")}
    sources: list[Member] = []

    def start(**more: int) -> Member:
        first = len(sources) * 10**6
        sources.append(crew.start("source", broker=outage.address, first=first, size=KILOBYTE, **options, **more))
        return sources[-1]

    start(pause_ms=1)
    until(lambda: len(outage.reading.numbers) > 100, "it works")
    outage.begin()
    for _ in range(2):
        sources[-1].until_lines(sources[-1].lines() + 300)
        time.sleep(outage_s / 2)
        sources[-1].kill()
        start(pause_ms=1)
    sources[-1].until_lines(100)
    outage.end()
    until(lambda: outage.reading.numbers[-1] >= 10**6, "the second run's are coming", 60)
    sources[-1].kill()  # while it forwards
    start(pause_ms=20).until_lines(10)
    accepted = {
        number for run, source in enumerate(sources) for number in range(run * 10**6, source.noted("confirmed")[-1] + 1)
    }
    assert len(accepted) > 800
    until(lambda: accepted <= set(outage.reading.numbers), "all that was accepted has come", 30 + 3 * outage_s)
    sources[-1].end()
    assert outage.reading.numbers == sorted(set(outage.reading.numbers))


def test_a_compute_that_is_killed_while_its_outputs_find_no_room_has_acknowledged_none_of_their_inputs(
    crew: Crew, tmp_path: Path, topic: str
) -> None:
    broker, src = f"local://{tmp_path / 'broker'}?max_topic_bytes={CAP}", f"{topic}-src"
    outage = FullTopic(broker, topic)
    with closing(outage):
        outage.begin()
        filling = crew.start("source", broker=broker, topic=topic, first=10**6, size=KILOBYTE, packing=False)
        filling.until_lines(2)
        until(lambda: stays(filling.lines, 0.3), "the topic is full")
        filling.kill()
        options = {"broker": broker, "topic_in": src, "topic_out": topic}
        compute = crew.start("compute", **options)
        crew.start("source", broker=broker, topic=src, count=300, size=KILOBYTE).wait()
        compute.until_lines(1 + 300)
        stays(compute.lines, 0.2)  # time enough to acknowledge too early
        compute.kill()
        compute = crew.start("compute", **options)
        outage.end()
        until(lambda: set(range(300)) <= set(outage.reading.numbers), "all have come")
        compute.end()
    assert Counter(number for number in outage.reading.numbers if number < 300) == Counter(range(300))


def refusals(source: DataSource, steps: int) -> list[DeliveryError]:
    """Make steps, until one says that something could not be sent."""
    try:
        for _ in range(steps):
            next(source)
    except DeliveryError as error:
        return [error]
    return []


def test_a_spool_on_a_full_disk_says_so_and_loses_nothing_it_accepted(
    tmp_path: Path, small_disk: Path, topic: str
) -> None:
    outage = FullTopic(f"local://{tmp_path / 'broker'}?max_topic_bytes={CAP}", topic)
    stream = (numbered(number, KILOBYTE) for number in count())
    with (
        closing(outage),
        DataSource(
            stream, outage.address, "only", topic=topic, overflow="spool", spool_path=str(small_disk / "spool")
        ) as source,
    ):
        outage.begin()
        for _ in range(100):
            next(source)
        filling = ballast(small_disk, 2_000_000)
        errors = refusals(source, 100_000)
        for fact in ("is full", "make room", str(small_disk)):
            assert fact in str(errors[0])
        until(lambda: source.stats.unconfirmed == 0, "all is on the disk, or was refused")
        errors += refusals(source, 1)  # what had been on its way
        filling.unlink()
        until(lambda: source.stats.unconfirmed == 0, "all is on the disk, or was refused")
        errors += refusals(source, 1)
        outage.end()
        assert refusals(source, 100) == []
    refused = sum(int(found[1]) if (found := re.search(r"\((\d+) examples", str(e))) else 1 for e in errors)
    accepted = source.stats.sent - refused
    assert accepted > 200  # what was sent while there was room, and something of what filled the disk
    assert len(outage.reading.numbers) == accepted
    assert outage.reading.numbers == sorted(set(outage.reading.numbers))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_sources_and_operators_go_on_by_themselves_when_the_broker_is_killed_and_comes_back(
    own_pulsar: OwnPulsar, topic: str, crew: Crew, kills: int
) -> None:
    broker, src, dst = own_pulsar.url, f"{topic}-src", f"{topic}-dst"
    sink = crew.start("sink", broker=broker, topic=dst, deduplicate=True)
    compute = crew.start("compute", broker=broker, topic_in=src, topic_out=dst)
    source = crew.start("source", broker=broker, topic=src, pause_ms=1)
    for _ in range(kills):
        sink.until_lines(sink.lines() + 500, 60)
        own_pulsar.broker.kill()
        own_pulsar.broker.start()
    sink.until_lines(sink.lines() + 500, 60)
    source.end()
    sent = source.noted("confirmed")[-1] + 1
    until_finished([sink], set(range(sent)))
    compute.end()
    last = crew.start("source", broker=broker, topic=dst, first=LAST, count=1)
    last.wait()
    sink.wait()
    assert Counter(finished([sink])) == Counter([*range(sent), LAST])
