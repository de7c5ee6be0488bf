"""Asking the other consumers of a subscription for messages, over a topic of Pulsar's that stores nothing.

Pulsar divides keys among consumers on each topic by itself. When one joins, new messages of a key come to it while the
older ones, unacknowledged, stay with another consumer. So who waits for messages of a key tells all others, and who
holds some gives them back. Nothing here knows Pulsar's client.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import msgpack

from edgeserve._broker.base import MAX_ASKED_KEY_BYTES, Delivery, Message
from edgeserve._logging import logger
from edgeserve.errors import UsageError

_log = logger("broker.pulsar")

_SENDER_BYTES = 8
_MAX_BYTES = 64 * 1024
# A message's keys and what msgpack adds to each, well within the limit.
_FULL_BYTES = _MAX_BYTES - 2 * MAX_ASKED_KEY_BYTES
_KEY_OVERHEAD_BYTES = 3
_MAX_PENDING = 10_000
_SLICE_MS = 100
_PREFIX = "persistent://"
_DEFAULT = "public/default/"


class Receives(Protocol):
    """The consumer of the control topic."""

    def receive(self, timeout_ms: int) -> Delivery | None:
        """The next message, or None."""

    def acknowledge(self, message_id: object) -> None:
        """Mark one message as done."""

    def close(self) -> None:
        """Leave, within a limit."""


class Sends(Protocol):
    """The producer of the control topic."""

    def send(self, message: Message, settled: Callable[[Any, Any], None]) -> None:
        """Send one message, without blocking; `settled` is called at some time."""

    def close(self, limit_ms: int) -> None:
        """Close, within a limit."""


def control_topic(topics: Sequence[str], subscription: str) -> str:
    """The topic over which the consumers of a subscription ask: one name, however they write those of their topics."""
    first = min(_full(topic) for topic in topics)
    # Without '-' in it, the subscription's part is what is after the last one, whatever the topic is called.
    quoted = quote(subscription, safe="").replace("-", "%2D")
    return f"non-{first}-{quoted}-asked"


def _full(topic: str) -> str:
    if "://" in topic:
        return topic
    return _PREFIX + (topic if "/" in topic else _DEFAULT + topic)


class Asks:
    """What one consumer asks the others, and what they ask it."""

    def __init__(self, topic: str, receives: Receives, sends: Sends, close_ms: Callable[[], int]) -> None:
        """`close_ms` says how long closing may take."""
        self._receives = receives
        self._topic = topic
        self._sends = sends
        self._close_ms = close_ms
        self._me = secrets.token_bytes(_SENDER_BYTES)
        self._lock = threading.Lock()
        self._pending: dict[bytes, None] = {}
        self._is_closed = False
        self.wake: Callable[[], None] = _nothing
        """Called, on a thread of its own, when others have asked."""
        self._thread = threading.Thread(target=self._listen, name="edgeserve-pulsar-asks", daemon=True)
        self._thread.start()

    def ask(self, keys: Sequence[bytes]) -> None:
        """Tell the others, if they can be reached now.

        Raises:
            UsageError: A key is too long.
        """
        for key in keys:
            if len(key) > MAX_ASKED_KEY_BYTES:
                raise UsageError(f"a key to ask for has {len(key)} bytes: expected at most {MAX_ASKED_KEY_BYTES}")
        if self._is_closed:
            return
        for part in _parts(keys):
            self._sends.send(Message(msgpack.packb([self._me, part])), _nothing)

    def asked(self) -> Sequence[bytes]:
        """What others have asked for since the last call."""
        with self._lock:
            asked, self._pending = tuple(self._pending), {}
        return asked

    def _listen(self) -> None:
        try:
            while not self._is_closed:
                message = self._receives.receive(_SLICE_MS)
                if message is None:
                    continue
                self._receives.acknowledge(message.handle)
                if self._take(message.payload):
                    self.wake()
        except BaseException as error:  # noqa: BLE001 - who asks goes on, and closing ends it this way
            if not self._is_closed:
                _log.warning("topic %s: who asks for messages there is not heard any more: %s", self._topic, error)

    def _take(self, payload: bytes) -> bool:
        """Note what a message asks for. Whether it is for us."""
        asked = _read(payload)
        if asked is None:
            return False
        sender, keys = asked
        if sender == self._me or not keys:
            return False
        with self._lock:
            for key in keys:
                if len(self._pending) >= _MAX_PENDING and key not in self._pending:
                    break
                self._pending[key] = None
        return True

    def close(self) -> None:
        """Leave the topic."""
        self._is_closed = True
        self._receives.close()
        self._sends.close(self._close_ms())
        if threading.current_thread() is not self._thread:
            self._thread.join(10 * _SLICE_MS / 1000)


def _parts(keys: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Keys in as few messages as they fit in."""
    part: list[bytes] = []
    size = 0
    for key in keys:
        if size >= _FULL_BYTES:
            yield part
            part, size = [], 0
        part.append(bytes(key))
        size += len(key) + _KEY_OVERHEAD_BYTES
    if part:
        yield part


def _read(payload: bytes) -> tuple[bytes, list[bytes]] | None:
    """Who asks, and for what; None if it cannot be known."""
    if len(payload) > _MAX_BYTES:
        return None
    try:
        value = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException):  # of what is no msgpack, or too deep, or no UTF-8
        return None
    if not (isinstance(value, list) and len(value) == 2):
        return None
    sender, keys = value
    if not (isinstance(sender, bytes) and len(sender) == _SENDER_BYTES and isinstance(keys, list)):
        return None
    if not all(isinstance(key, bytes) and len(key) <= MAX_ASKED_KEY_BYTES for key in keys):
        return None
    return sender, keys


def _nothing(*_: object) -> None: ...
