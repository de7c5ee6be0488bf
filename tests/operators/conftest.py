"""What the operators' tests have at hand: topics of their own, and a way to send and to read plain examples."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from edgeserve._broker.base import Consumer, Delivery, Message, Producer, Share
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.marks import PACK
from edgeserve._core.packs import unpack
from edgeserve.message_format import GraphCodec
from tests.operators.processes import Crew

CAPTURE_MS = 1_700_000_000_000
"""The time at which the tests' captures begin."""

CODEC = GraphCodec()


class Sent(NamedTuple):
    """An example as it was sent on; its capture time counts from `CAPTURE_MS`."""

    id: uuid.UUID
    source: str
    payload: bytes
    capture_ms: int | None


def examples_in(delivery: Delivery) -> list[Sent]:
    """The examples of one message."""
    entries: Sequence[tuple[bytes, int | None]] = [(delivery.payload, delivery.event_ms)]
    if PACK in delivery.properties:
        entries = unpack(delivery.payload)
    found = []
    for data, event_ms in entries:
        example_id, source, _, payload = CODEC.decode(data)
        found.append(Sent(example_id, source, payload, None if event_ms is None else event_ms - CAPTURE_MS))
    return found


class Wire:
    """Sends to and reads from topics without an operator, so that a test controls every byte and time."""

    def __init__(self, broker: str, topic: str) -> None:
        self.src, self.dst = f"{topic}-src", f"{topic}-dst"
        self._closing = ExitStack()
        self._lease = ConnectionLease(broker)
        self._closing.callback(self._lease.close)
        self._producers: dict[str, Producer] = {}
        self._readers: dict[str, Consumer] = {}

    def send(self, source: str, payload: bytes, at_ms: int = 0, *, example_id: bytes | None = None) -> bytes:
        """Store one example in `src`, captured `at_ms` after `CAPTURE_MS`; return its id when it is confirmed."""
        example_id = uuid.uuid4().bytes if example_id is None else example_id
        self.send_raw(CODEC.encode(example_id, source, payload), CAPTURE_MS + at_ms)
        return example_id

    def send_raw(self, data: bytes, event_ms: int | None = None, topic: str | None = None, **marks: str) -> None:
        topic = self.src if topic is None else topic
        producer = self._producers.get(topic)
        if producer is None:
            producer = self._producers[topic] = self._lease.connection.producer(topic)
            self._closing.callback(producer.close, 5000)
        done = threading.Event()
        errors: list[Exception] = []

        def confirmed(error: Exception | None) -> None:
            errors.extend([error] if error is not None else [])
            done.set()

        producer.send(Message(data, event_ms, None, marks), confirmed)
        assert done.wait(20), "the broker did not confirm"
        assert not errors, errors

    def sent_on(self, count: int, timeout_ms: int = 10_000) -> list[Sent]:
        """The next `count` examples of `dst`."""
        found: list[Sent] = []
        while len(found) < count:
            arrived = self._read(timeout_ms)
            assert arrived, f"{len(found)} of {count} examples came"
            found += arrived
        assert len(found) == count, found
        return found

    def everything_sent_on(self) -> list[Sent]:
        """All examples of `dst`, until none has come for a second."""
        found: list[Sent] = []
        while arrived := self._read(1000):
            found += arrived
        return found

    def _read(self, timeout_ms: int) -> list[Sent]:
        reader = self._readers.get(self.dst)
        if reader is None:
            reader = self._lease.connection.consumer([self.dst], "the-test", Share.STANDBY, queue_size=1000)
            self._readers[self.dst] = reader
            self._closing.callback(reader.close)
        arrived = reader.receive(timeout_ms)
        reader.acknowledge(arrived)
        return [example for delivery in arrived for example in examples_in(delivery)]

    def close(self) -> None:
        self._closing.close()


@pytest.fixture
def wire(broker: str, topic: str) -> Iterator[Wire]:
    wire = Wire(broker, topic)
    yield wire
    wire.close()


@pytest.fixture
def closing() -> Iterator[Callable[..., object]]:
    """Register something to be closed when the test ends; returns it."""
    with ExitStack() as stack:

        def register(closable: object) -> object:
            stack.callback(closable.close)  # type: ignore[attr-defined]
            return closable

        yield register


@pytest.fixture
def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crew]:
    """Starts processes; the ids that their sinks have served are the test's own."""
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "home"))
    crew = Crew(tmp_path)
    yield crew
    crew.close()
