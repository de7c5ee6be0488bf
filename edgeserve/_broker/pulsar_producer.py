"""A producer on Pulsar: what is in flight, and that each send is confirmed once. It does not import the client."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from edgeserve._broker import base, pulsar_errors
from edgeserve._broker.confirmations import ConfirmedTogether
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


class Native(Protocol):
    """The client's producers of one topic, without its checks and wrappers."""

    def send(self, message: base.Message, settled: Callable[[Any, Any], None]) -> None:
        """Send one message by itself; `settled` is called once, with the client's result."""

    def send_together(self, messages: Sequence[base.Message], settled: Callable[[Any, Any], None]) -> None:
        """Send messages in one entry; `settled` is called for each."""

    def close(self, limit_ms: int) -> None:
        """Close, within a limit."""


class Producer:
    """See `base.Producer`."""

    def __init__(self, connection: Owner, topic: str, native: Native, ok: Any) -> None:
        self._connection = connection
        self.topic = topic
        self._native = native
        self._ok = int(ok)  # a plain comparison, for each message
        self._numbers = itertools.count()
        # Whoever takes an entry out calls it: the broker's thread, or close().
        self._pending: dict[int, tuple[base.Confirmed, int]] = {}
        self._leaving: set[int] = set()
        self._refused: dict[int, str] = {}
        self._is_closed = False

    def send(self, message: base.Message, confirmed: base.Confirmed) -> None:
        """See `base.Producer`."""
        self._check(message)
        number = next(self._numbers)
        self._pending[number] = (confirmed, threading.get_ident())
        self._leaving.add(number)
        try:
            self._native.send(message, partial(self._settle, number))
        except BaseException:
            self._pending.pop(number, None)
            raise
        finally:
            self._leaving.discard(number)
        if self._refused and number in self._refused:
            raise self._refusal(self._refused.pop(number), len(message.payload))

    def send_together(self, messages: Sequence[base.Message], confirmed: base.Confirmed) -> None:
        """See `base.Producer`."""
        for message in messages:
            self._check(message)
        number = next(self._numbers)
        self._pending[number] = (confirmed, threading.get_ident())
        together = ConfirmedTogether(len(messages), partial(self._settle_together, number))
        ok = self._ok

        def settled(result: Any, _message_id: object) -> None:
            together(None if int(result) == ok else self._error(result.name))

        try:
            self._native.send_together(messages, settled)
        except BaseException:
            self._pending.pop(number, None)
            raise

    def _check(self, message: base.Message) -> None:
        if len(message.payload) > base.MAX_MESSAGE_BYTES:
            raise PayloadTooLarge(len(message.payload), base.MAX_MESSAGE_BYTES, self.topic)
        if self._is_closed:
            raise BrokerError(f"the producer for topic {self.topic!r} is closed", str(self._connection.address))
        if message.event_ms is not None and message.event_ms <= 0:
            raise UsageError(f"a capture time is ms since the epoch and more than 0, not {message.event_ms}")

    def _settle(self, number: int, result: Any, _message_id: object) -> None:
        settled = self._pending.pop(number, None)
        if settled is None:
            return
        confirmed, sender = settled
        if int(result) == self._ok:
            confirmed(None)
        elif number in self._leaving and sender == threading.get_ident():
            # Refused within send_async: send() raises it, instead of a call back into the caller's own thread.
            self._refused[number] = result.name
        else:
            confirmed(self._error(result.name))

    def _settle_together(self, number: int, error: BrokerError | None) -> None:
        settled = self._pending.pop(number, None)
        if settled is not None:
            settled[0](error)

    def _error(self, name: str) -> BrokerError:
        return pulsar_errors.delivery_error(self.topic, name, str(self._connection.address))

    def _refusal(self, name: str, size_bytes: int) -> EdgeServeError:
        if name == pulsar_errors.TOO_BIG:
            # This broker's limit is below ours, and its client tells nobody what it is.
            return PayloadTooLarge(size_bytes, None, self.topic)
        return self._error(name)

    def close(self, timeout_ms: int) -> None:
        """See `base.Producer`."""
        if self._is_closed or self._connection.is_inherited:
            return
        self._is_closed = True
        deadline_ms = steady_ms() + timeout_ms
        while self._pending and steady_ms() < deadline_ms:
            pause_ms(1)
        self._native.close(self._connection.close_ms)
        for number in sorted(self._pending):
            settled = self._pending.pop(number, None)
            if settled is not None:
                settled[0](self._error("Timeout"))
