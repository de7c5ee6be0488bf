"""What tests of cascades have at hand: data and signals by flow, and answers by flow."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from edgeserve._broker.base import Consumer, Delivery, Share
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.marks import HEADER_SIZE, PACK
from edgeserve._core.packs import unpack
from edgeserve.message_format import GraphCodec
from tests.operators.conftest import CAPTURE_MS, Wire

SIZE = 32
_CODEC = GraphCodec(header_size=SIZE)


class Answer(NamedTuple):
    """What a model sent of one flow; its capture time counts from `CAPTURE_MS`."""

    flow: bytes
    payload: bytes
    capture_ms: int
    id: uuid.UUID
    source: str


class Flows:
    """The topics of one model of a cascade, without an operator at their ends."""

    def __init__(self, broker: str, wire: Wire, topic: str) -> None:
        self.broker = broker
        self.data, self.asks = f"{topic}-data", f"{topic}-asks"
        self.out, self.next = f"{topic}-out", f"{topic}-next"
        self._wire = wire
        self._lease = ConnectionLease(broker)
        self._readers: dict[str, Consumer] = {}

    def topics(self, *, signal: bool = True, further: bool = True) -> dict[str, Any]:
        """Arguments of a model that reads and writes these."""
        found = {"topic_in_data": self.data, "topic_out_destination": self.out}
        return (
            found
            | ({"topic_in_signal": self.asks} if signal else {})
            | ({"topic_out_signal": self.next} if further else {})
        )

    def send_data(self, flow: bytes | str, payload: bytes = b"data", at_ms: int = 0) -> bytes:
        return self._send(self.data, flow, payload, at_ms)

    def ask(self, flow: bytes | str, payload: bytes = b"signal", at_ms: int = 0) -> bytes:
        return self._send(self.asks, flow, payload, at_ms)

    def send_all(self, flows: Iterable[str]) -> None:
        for flow in flows:
            self.send_data(flow, flow.encode())

    def _send(self, topic: str, flow: bytes | str, payload: bytes, at_ms: int) -> bytes:
        example_id = uuid.uuid4().bytes
        header = flow.encode() if isinstance(flow, str) else flow
        data = _CODEC.encode(example_id, "only", payload, header)
        self._wire.send_raw(data, CAPTURE_MS + at_ms, topic, **{HEADER_SIZE: str(SIZE)})
        return example_id

    def answers(self, count: int, topic: str | None = None) -> list[Answer]:
        """The next `count` of the destination, or of another topic."""
        topic = self.out if topic is None else topic
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._lease.connection.consumer([topic], "the-test", Share.STANDBY, 1000)
            self._readers[topic] = reader
        found: list[Answer] = []
        while len(found) < count:
            arrived = reader.receive(10_000)
            assert arrived, f"{len(found)} of {count} came"
            reader.acknowledge(arrived)
            for delivery in arrived:
                found += answers_in(delivery)
        assert len(found) == count, found
        return found

    def close(self) -> None:
        self._lease.close()


def answers_in(delivery: Delivery) -> list[Answer]:
    """What is in one message of a model's."""
    size = int(delivery.properties[HEADER_SIZE])
    entries: Any = [(delivery.payload, delivery.event_ms)]
    if PACK in delivery.properties:
        entries = unpack(delivery.payload)
    found = []
    for data, event_ms in entries:
        example_id, source, flow, payload = GraphCodec(header_size=size).decode(data)
        found.append(Answer(flow, payload, event_ms - CAPTURE_MS, example_id, source))
    return found
