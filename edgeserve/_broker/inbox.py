"""Examples as they arrive: received from a consumer, decoded, and acknowledged when all of a message is done with."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from edgeserve._broker.base import Consumer, Delivery
from edgeserve._core.step import Example, Parcel
from edgeserve.errors import MalformedMessage
from edgeserve.message_format import split_example

_log = logging.getLogger("edgeserve.inbox")

HEADER_SIZE = "edgeserve-header"
"""The property with which a producer says how many bytes of header its examples have."""


class Malformed(NamedTuple):
    """A message that is no example, and why."""

    parcel: Parcel
    reason: str


class Inbox:
    """What has arrived for one operator and was not taken yet."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._buffer: deque[Delivery] = deque()

    @property
    def is_active(self) -> bool:
        """False while another consumer has the subscription and this one stands by."""
        return self._consumer.is_active

    @property
    def tenure(self) -> int:
        """Grows when others had the subscription meanwhile."""
        return self._consumer.tenure

    def fill(self, timeout_ms: int) -> bool:
        """Wait until something is here, at most `timeout_ms`. Whether there is something to take."""
        if not self._buffer:
            self._buffer.extend(self._consumer.receive(timeout_ms))
        return bool(self._buffer)

    def take(self) -> Example | Malformed:
        """Take what came first, decoded. Only after `fill` said that there is something."""
        delivery = self._buffer.popleft()
        try:
            return _decode(delivery)
        except MalformedMessage as error:
            _log.warning("topic %s: message %s is malformed: %s", delivery.topic, delivery.message_id, error)
            return Malformed(Parcel(delivery), str(error))

    def acknowledge(self, parcels: Iterable[Parcel]) -> None:
        """Mark messages as done."""
        deliveries = [parcel.delivery for parcel in parcels]
        if deliveries:
            self._consumer.acknowledge(deliveries)

    def close(self) -> None:
        """Leave the subscription; what was not acknowledged goes to the next consumer."""
        self._buffer.clear()
        self._consumer.close()


def _decode(delivery: Delivery) -> Example:
    header_size = delivery.properties.get(HEADER_SIZE, "0") if delivery.properties else "0"
    if not (header_size.isascii() and header_size.isdigit() and len(header_size) <= 9):
        raise MalformedMessage(f"its mark {HEADER_SIZE}={header_size!r} is no size in bytes")
    example_id, source, header, payload = split_example(delivery.payload, int(header_size))
    capture_ms = delivery.event_ms if delivery.event_ms is not None else delivery.publish_ms
    return Example(example_id, source, payload, capture_ms, header=header, parcel=Parcel(delivery))
