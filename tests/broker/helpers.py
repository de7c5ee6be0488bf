"""Sending and receiving, with limits, as tests of brokers need it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from edgeserve._broker.base import Connection, Consumer, Delivery, Message, Producer
from edgeserve.errors import BrokerError

Connect = Callable[[], Connection]

KEYS = [uuid.UUID(int=number).hex for number in range(20)]


def numbered(count: int, prefix: str = "m") -> list[str]:
    """Ids of messages, in an order that is also theirs as text."""
    return [f"{prefix}{number:05d}" for number in range(count)]


def keyed(message_ids: Iterable[str]) -> list[Message]:
    """Messages with these ids, the keys in turns."""
    return [Message(each.encode(), key=KEYS[number % len(KEYS)]) for number, each in enumerate(message_ids)]


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


class Feed:
    """Sends messages with keys, a thousand a second, while it is entered.

    Attributes:
        sent: The ids of what is confirmed.
    """

    def __init__(self, connection: Connection, topics: Sequence[str]) -> None:
        self.sent: list[str] = []
        self._producers = {topic: connection.producer(topic) for topic in topics}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            for topic, producer in self._producers.items():
                part = [f"{topic}-{each:06d}" for each in range(number, number + len(KEYS))]
                send(producer, keyed(part))
                self.sent += part
            number += len(KEYS)
            time.sleep(0.02)  # a pace that leaves the others some of the processor

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
