"""Producers: what they queue for the writer, and what they confirm when it is done."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from edgeserve._broker.base import MAX_MESSAGE_BYTES, Confirmed, Message
from edgeserve._broker.confirmations import ConfirmedTogether
from edgeserve._broker.local.session import FORKED
from edgeserve._broker.local.topic import Row, row_of
from edgeserve._logging import logger
from edgeserve.errors import BrokerError, DeliveryError, PayloadTooLarge, UsageError

_log = logger("broker.local")

_MOST_MESSAGES = 1000
_MOST_BYTES = 4 << 20


class Scheduler(Protocol):
    """The writer, as its producers see it."""

    address: str

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child's copy."""

    def schedule(self, producer: LocalProducer) -> None:
        """Have the producer's messages written soon."""

    def forget(self, producer: LocalProducer) -> None:
        """The producer is closed."""


class LocalProducer:
    """Sends to one topic, in order."""

    def __init__(self, writer: Scheduler, topic: str) -> None:
        self.topic = topic
        self.is_blocked = False  # the writer says so
        self._writer = writer
        self._changed = threading.Condition()
        self._unconfirmed: deque[tuple[Row, Confirmed]] = deque()
        self._is_confirming = False
        self._is_scheduled = False
        self._is_closed = False

    def send(self, message: Message, confirmed: Confirmed) -> None:
        """Queue one message.

        Raises:
            PayloadTooLarge: As the protocol says.
            UsageError: Its key or its capture time can't be stored.
            BrokerError: The producer is closed, or a forked child's copy.
        """
        self._queue([message], confirmed)

    def send_together(self, messages: Sequence[Message], confirmed: Confirmed) -> None:
        """Queue messages; the same errors as for `send`."""
        self._queue(messages, ConfirmedTogether(len(messages), confirmed))

    def _queue(self, messages: Sequence[Message], confirmed: Confirmed) -> None:
        for message in messages:
            _check(message, self.topic)
        if self._writer.is_inherited:
            raise BrokerError(FORKED, self._writer.address)
        rows = [row_of(message) for message in messages]
        with self._changed:
            if self._is_closed:
                raise BrokerError(f"the producer of topic {self.topic!r} is closed", self._writer.address)
            self._unconfirmed.extend([(row, confirmed) for row in rows])
            if self._is_scheduled:
                return
            self._is_scheduled = True
        self._writer.schedule(self)

    def close(self, timeout_ms: int) -> None:
        """Wait until everything is confirmed, at most `timeout_ms`, and give up the rest."""
        if self._writer.is_inherited:
            return
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._unconfirmed and not self._is_confirming, timeout_ms / 1000)
            given_up = [confirmed for _, confirmed in self._unconfirmed]
            self._unconfirmed.clear()
        if given_up:
            why = "the topic is full" if self.is_blocked else "the writer was busy"
            error = DeliveryError(
                f"{len(given_up)} messages for topic {self.topic!r} were not stored within {timeout_ms} ms: {why}",
                self._writer.address,
            )
            self._confirm(given_up, error)
        self._writer.forget(self)

    # For the writer.

    def batch(self) -> Sequence[Row]:
        """What comes next, as much as goes into one transaction; nothing if it was given up."""
        rows: list[Row] = []
        size = 0
        with self._changed:
            for row, _ in islice(self._unconfirmed, _MOST_MESSAGES):
                size += len(row[-1])
                if rows and size > _MOST_BYTES:
                    break
                rows.append(row)
        return rows

    def has_sent(self, count: int, error: DeliveryError | None) -> bool:
        """Confirm the first `count` messages, unless they were given up meanwhile. Whether more are queued."""
        with self._changed:
            self._is_confirming = True
            count = min(count, len(self._unconfirmed))
            confirmations = [self._unconfirmed.popleft()[1] for _ in range(count)]
        self._confirm(confirmations, error)
        with self._changed:
            self._is_confirming = False
            self._is_scheduled = bool(self._unconfirmed)
            self._changed.notify_all()
            return self._is_scheduled

    def _confirm(self, confirmations: Sequence[Confirmed], error: BrokerError | None) -> None:
        for confirmed in confirmations:
            try:
                confirmed(error)
            except Exception:  # noqa: BLE001 - one caller's failure must not take the others' confirmations
                _log.exception("topic %s: a callback for a confirmed send raised", self.topic)


def _check(message: Message, topic: str) -> None:
    size = len(message.payload)
    if size > MAX_MESSAGE_BYTES:
        raise PayloadTooLarge(size, MAX_MESSAGE_BYTES, topic)
    if message.event_ms is not None and not 0 < message.event_ms < 1 << 63:
        raise UsageError(f"event_ms is {message.event_ms}: expected more than 0, in 63 bits")
    try:
        (message.key or "").encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"key {message.key!r} is no valid Unicode: expected text that UTF-8 can carry") from error
