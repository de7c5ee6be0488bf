"""What tests of brokers share: connections that are closed, sends that are confirmed, processes that are ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from edgeserve._broker import connections
from edgeserve._broker.base import Connection, Consumer, Delivery, Message, Producer
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.errors import BrokerError
from tests.broker.workers import Workers

Connect = Callable[[], Connection]


@pytest.fixture
def connect(address: LocalAddress | PulsarAddress) -> Iterator[Connect]:
    """Opens connections, each one's own, which the test's end closes."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(connections.connect(address))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Connect) -> Connection:
    """One connection."""
    return connect()


@pytest.fixture
def workers(address: LocalAddress | PulsarAddress, tmp_path: Path) -> Iterator[Workers]:
    """Processes that share a subscription."""
    workers = Workers(address, tmp_path)
    yield workers
    workers.end()


def numbered(count: int, prefix: str = "m") -> list[str]:
    """Ids of messages, in an order that is also theirs as text."""
    return [f"{prefix}{number:05d}" for number in range(count)]


def send(producer: Producer, messages: Iterable[Message | str | bytes], within_s: float = 30.0) -> None:
    """Send each, and return when all are confirmed."""
    to_send = [_message(message) for message in messages]
    errors: list[BrokerError | None] = []
    done = threading.Event()

    def confirmed(error: BrokerError | None) -> None:
        errors.append(error)
        if len(errors) == len(to_send):
            done.set()

    for message in to_send:
        producer.send(message, confirmed)
    assert not to_send or done.wait(within_s), f"{len(errors)} of {len(to_send)} confirmed within {within_s} s"
    assert errors == [None] * len(to_send)


def _message(given: Message | str | bytes) -> Message:
    if isinstance(given, Message):
        return given
    return Message(given.encode() if isinstance(given, str) else given)


def receive(consumer: Consumer, count: int, within_ms: int = 20_000) -> list[Delivery]:
    """Exactly `count` messages."""
    found: list[Delivery] = []
    while len(found) < count:
        arrived = consumer.receive(within_ms)
        assert arrived, f"{len(found)} of {count} arrived, then none within {within_ms} ms"
        found += arrived
    assert len(found) == count
    return found


def rest(consumer: Consumer, quiet_ms: int = 300) -> list[Delivery]:
    """Whatever still comes, until nothing does for a while: for tests that something does *not* come."""
    found: list[Delivery] = []
    while arrived := consumer.receive(quiet_ms):
        found += arrived
    return found


def ids(deliveries: Iterable[Delivery]) -> Sequence[str]:
    """Their payloads as text."""
    return [delivery.payload.decode() for delivery in deliveries]
