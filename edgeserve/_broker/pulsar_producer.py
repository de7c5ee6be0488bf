"""A producer on Pulsar: what is in flight, and that each send is confirmed once. It does not import the client."""

from __future__ import annotations

import itertools
import threading
from functools import partial
from typing import Any, Protocol

from edgeserve._broker import base, pulsar_errors
from edgeserve._broker.pulsar_calls import ended_within
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve.address import PulsarAddress
from edgeserve.errors import BrokerError, EdgeServeError, PayloadTooLarge, UsageError


class Owner(Protocol):
    """What a producer needs of its connection."""

    address: PulsarAddress

    @property
    def is_inherited(self) -> bool:
        """Whether this is a copy in a child of fork."""

    @property
    def close_ms(self) -> int:
        """How long closing may take."""


class Producer:
    """See `base.Producer`."""

    def __init__(self, connection: Owner, topic: str, producer: Any, ok: object) -> None:
        self._connection = connection
        self.topic = topic
        self._producer = producer
        self._ok = ok
        self._numbers = itertools.count()
        # Whoever takes an entry out calls it: the broker's thread, or close().
        self._pending: dict[int, tuple[base.Confirmed, int]] = {}
        self._leaving: set[int] = set()
        self._refused: dict[int, str] = {}
        self._is_closed = False

    def send(self, message: base.Message, confirmed: base.Confirmed) -> None:
        """See `base.Producer`."""
        payload, event_ms, key, properties = message
        if len(payload) > base.MAX_MESSAGE_BYTES:
            raise PayloadTooLarge(len(payload), base.MAX_MESSAGE_BYTES, self.topic)
        if self._is_closed:
            raise BrokerError(f"the producer for topic {self.topic!r} is closed", str(self._connection.address))
        if event_ms is not None and event_ms <= 0:
            raise UsageError(f"a capture time is ms since the epoch and more than 0, not {event_ms}")
        number = next(self._numbers)
        self._pending[number] = (confirmed, threading.get_ident())
        self._leaving.add(number)
        try:
            self._producer.send_async(
                payload,
                partial(self._settle, number),
                properties=dict(properties) if properties else None,
                partition_key=key,
                event_timestamp=event_ms,
            )
        except BaseException:
            self._pending.pop(number, None)
            raise
        finally:
            self._leaving.discard(number)
        if self._refused and number in self._refused:
            raise self._refusal(self._refused.pop(number), len(payload))

    def _settle(self, number: int, result: Any, _message_id: object) -> None:
        settled = self._pending.pop(number, None)
        if settled is None:
            return
        confirmed, sender = settled
        if result == self._ok:
            confirmed(None)
        elif number in self._leaving and sender == threading.get_ident():
            # Refused within send_async: send() raises it, instead of a call back into the caller's own thread.
            self._refused[number] = result.name
        else:
            confirmed(pulsar_errors.delivery_error(self.topic, result.name, str(self._connection.address)))

    def _refusal(self, name: str, size_bytes: int) -> EdgeServeError:
        if name == pulsar_errors.TOO_BIG:
            # This broker's limit is below ours, and its client tells nobody what it is.
            return PayloadTooLarge(size_bytes, None, self.topic)
        return pulsar_errors.delivery_error(self.topic, name, str(self._connection.address))

    def close(self, timeout_ms: int) -> None:
        """See `base.Producer`."""
        if self._is_closed or self._connection.is_inherited:
            return
        self._is_closed = True
        deadline_ms = steady_ms() + timeout_ms
        while self._pending and steady_ms() < deadline_ms:
            pause_ms(1)
        ended_within(self._connection.close_ms, self._producer._producer.close_async)
        for number in sorted(self._pending):
            settled = self._pending.pop(number, None)
            if settled is not None:
                settled[0](pulsar_errors.delivery_error(self.topic, "Timeout", str(self._connection.address)))
