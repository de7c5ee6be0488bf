"""What a source does when its broker can't keep up, or is away."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeserve import DataSource, DeliveryError, Fate, Materialize, PulsarAddress, UsageError
from edgeserve._broker.base import Share
from edgeserve._broker.connections import ConnectionLease
from edgeserve._core.packs import unpack
from edgeserve.testing import memory_broker
from tests.manual_broker import ManualBroker
from tests.operators.conftest import Wire

# Nothing listens there: the discard port of this machine.
AWAY = PulsarAddress("pulsar://127.0.0.1:9", connection_timeout_ms=200)


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> ManualBroker:
    from edgeserve._broker import connections

    broker = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    return broker


def payloads(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def read(address: Any, topic: str, count: int) -> list[bytes]:
    """The next `count` payloads of a topic, and that no further one is there."""
    seen: list[bytes] = []
    with Materialize(seen.append, address, topic=topic, idle_timeout_ms=2000) as sink:
        while len(seen) < count:
            next(sink)
    return seen


def test_block_waits_until_something_is_confirmed(manual: ManualBroker) -> None:
    source = DataSource(payloads(6), memory_broker(), "s", max_unconfirmed=5)
    for _ in range(5):
        next(source)
    sixth = threading.Thread(target=next, args=(source,))
    sixth.start()
    sixth.join(0.1)
    assert sixth.is_alive()
    manual.confirm()
    sixth.join(10)
    assert not sixth.is_alive()
    assert source.stats.fates == {Fate.USED: 6}
    while manual.unconfirmed:
        manual.confirm()
    source.close()


def test_drop_oldest_drops_what_waited_longest_and_counts_it(manual: ManualBroker) -> None:
    source = DataSource(payloads(20), memory_broker(), "s", overflow="drop_oldest", max_unconfirmed=10)
    assert len(list(source)) == 20
    stats = source.stats
    assert (stats.received, stats.fates, stats.held) == (20, {Fate.EVICTED: 10}, 10), "4 are under way, 6 wait"
    left: list[bytes] = []
    while manual.unconfirmed:
        message = manual.unconfirmed[0][0]
        left.append(message.payload)
        manual.confirm()
    assert [payload[32:] for payload in left[:4]] == payloads(4), "what was under way is not dropped"
    assert [payload[32:] for payload, _ in unpack(left[4])] == payloads(20)[14:]
    stats = source.stats
    assert (stats.received, stats.fates, stats.held, stats.sent) == (20, {Fate.USED: 10, Fate.EVICTED: 10}, 0, 10)
    source.close()


def test_drop_oldest_can_keep_the_newest_alone(manual: ManualBroker) -> None:
    source = DataSource(payloads(20), memory_broker(), "s", overflow="drop_oldest", max_unconfirmed=1)
    assert len(list(source)) == 20
    manual.confirm()
    assert [message.payload[32:] for message, _ in manual.unconfirmed] == [b"19"]
    manual.confirm()
    assert source.stats.fates == {Fate.USED: 2, Fate.EVICTED: 18}
    source.close()


def test_what_is_refused_of_a_source_that_drops_has_failed(manual: ManualBroker) -> None:
    source = DataSource(payloads(2), memory_broker(), "s", overflow="drop_oldest")
    list(source)
    manual.confirm(DeliveryError("no", "test://"))
    assert (source.stats.fates, source.stats.held) == ({Fate.FAILED: 1}, 1)
    with pytest.raises(DeliveryError):
        source.close()
    assert (source.stats.fates, source.stats.held) == ({Fate.FAILED: 2}, 0)


def test_drop_oldest_counts_what_a_gate_drops_and_what_fails(manual: ManualBroker) -> None:
    def gate(item: int) -> bytes | None:
        if item == 1:
            raise ValueError("one")
        return None if item == 2 else b"x"

    source = DataSource([1, 2, 3], memory_broker(), "s", gate, overflow="drop_oldest")
    with pytest.raises(ValueError, match="one"):
        next(source)
    assert [next(source), next(source)] == [None, b"x"]
    assert (source.stats.received, source.stats.fates, source.stats.held) == (3, {Fate.FAILED: 1, Fate.GATED: 1}, 1)
    manual.confirm()
    assert source.stats.fates == {Fate.FAILED: 1, Fate.GATED: 1, Fate.USED: 1}
    source.close()


def test_a_spool_forwards_in_order_and_is_empty_then(broker: str, wire: Wire, tmp_path: Path) -> None:
    with DataSource(
        payloads(2000), broker, "s", topic=wire.dst, overflow="spool", spool_path=str(tmp_path / "spool")
    ) as source:
        assert len(list(source)) == 2000
    assert [sent.payload for sent in wire.sent_on(2000)] == payloads(2000)
    assert spooled(tmp_path / "spool") == 0


def test_closing_a_spool_forwards_what_came_after_a_pause(broker: str, wire: Wire, tmp_path: Path) -> None:
    def stream() -> Iterator[bytes]:
        yield b"first"
        assert wire.sent_on(1)
        idle = threading.Event()
        idle.wait(0.3)  # the forwarder finds nothing meanwhile, several times
        yield b"last"

    DataSource(stream(), broker, "s", topic=wire.dst, overflow="spool", spool_path=str(tmp_path / "spool")).run()
    assert spooled(tmp_path / "spool") == 0
    assert [sent.payload for sent in wire.sent_on(1)] == [b"last"]


def test_a_spool_for_a_topic_that_can_never_be_says_so_in_a_later_step(broker: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"topic": "no\nname", "overflow": "spool", "spool_path": str(tmp_path / "spool")}

    def stream() -> Iterator[bytes]:
        while True:
            yield b"x"

    source = DataSource(stream(), broker, "s", **options)
    with pytest.raises((UsageError, DeliveryError), match=r"topic .no\\nname"):  # the latter if more were on their way
        source.run()


def spooled(folder: Path) -> int:
    """How many messages a spool still holds."""
    lease = ConnectionLease(f"local://{folder}")
    try:
        (topic,) = lease.connection.topics()
        (subscription,) = topic.subscriptions
        return subscription.backlog_messages
    finally:
        lease.close()


def test_a_spool_keeps_what_is_sent_while_the_broker_is_away_also_for_the_next_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"topic": "t", "overflow": "spool", "spool_path": str(tmp_path / "spool")}
    for part in (payloads(20)[:10], payloads(20)[10:]):
        with DataSource(part, AWAY, "s", close_timeout_ms=300, **options) as source:
            assert list(source) == part
        assert source.stats.unconfirmed == 0
    assert spooled(tmp_path / "spool") > 0
    # The broker comes back under its address: here, the same spool with another one behind it.
    target = f"local://{tmp_path / 'broker'}"
    _hand_over(tmp_path / "spool", target)
    assert read(target, "t", 20) == payloads(20)
    assert spooled(tmp_path / "spool") == 0


def _hand_over(folder: Path, target: str) -> None:
    """Do what the forwarder of the next run does, whose broker is at another address."""
    from edgeserve._broker.spool import _Forwarder
    from edgeserve.address import parse_address

    lease = ConnectionLease(f"local://{folder}")
    (topic,) = lease.connection.topics()
    consumer = lease.connection.consumer([topic.name], "forwarder", Share.STANDBY, 200)
    forwarder = _Forwarder(consumer, parse_address(target), "t")
    forwarder.close(10_000)
    consumer.close()
    lease.close()


DYING = """
import os, signal, sys
from edgeserve import DataSource, PulsarAddress
away, folder, first = sys.argv[1:]

def numbers():
    for number in range(int(first), int(first) + 100):
        yield b"%d" % number
    while source.stats.unconfirmed:
        pass
    os.kill(os.getpid(), signal.SIGKILL)

address = PulsarAddress(away, connection_timeout_ms=200)
source = DataSource(numbers(), address, "s", topic="t", overflow="spool", spool_path=folder)
for _ in source:
    pass
"""


def test_a_spool_survives_sigkill_of_the_sensor(tmp_path: Path) -> None:
    for first in (0, 100):
        command = [sys.executable, "-c", DYING, AWAY.url, str(tmp_path / "spool"), str(first)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == -9, done.stderr
    target = f"local://{tmp_path / 'broker'}"
    _hand_over(tmp_path / "spool", target)
    assert read(target, "t", 200) == payloads(200)


def test_a_full_spool_blocks_and_says_why_when_closed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"overflow": "spool", "spool_path": str(tmp_path / "spool"), "spool_max_bytes": 1 << 20}
    source = DataSource([os.urandom(300_000) for _ in range(10)], AWAY, "s", close_timeout_ms=500, **options)
    assert len(list(source)) == 10
    with pytest.raises(DeliveryError, match=r"the topic is full|had not left"):
        source.close()
    assert 0 < spooled(tmp_path / "spool") < 10


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"overflow": "drop"}, "expected 'block', 'drop_oldest' or 'spool'"),
        ({"max_unconfirmed": 0}, "max_unconfirmed"),
        ({"overflow": "spool", "spool_max_bytes": 0}, "spool_max_bytes"),
        ({"overflow": "spool", "spool_max_bytes": 100_000}, "expected 1,048,576 or more"),
        ({"spool_path": "folder"}, "are for overflow='spool'"),
        ({"overflow": "drop_oldest", "spool_max_bytes": 1 << 20}, "are for overflow='spool'"),
    ],
)
def test_an_overflow_that_is_none_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        DataSource([], memory_broker(), "s", **options)
