"""The topics of one consumer on Pulsar: one, or several that are waited for at once.

`pulsar` makes the consumers of single topics; here is what happens between them. Nothing here knows Pulsar's client.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Protocol

from edgeserve._broker import base
from edgeserve._broker.pulsar_asks import Asks
from edgeserve._core.clock import pause_ms, steady_ms

# Waits are cut into slices so that Ctrl-C and close() are seen in time.
_SLICE_MS = 100
# What waits between the threads of several topics and the reader, beside what the client fetches ahead.
_HANDOVER = 64
# How soon messages must follow one another, and how many of them, to be taken many at a time: each wait costs more
# than a message. And how few there must be at a time to go back.
_GAP_MS = 0.5
_MANY = 8
_FEW = 4


class TopicConsumer(Protocol):
    """A consumer of one topic."""

    topic: str

    @property
    def is_connected(self) -> bool:
        """Whether the broker knows it as the subscription's consumer now."""

    def receive(self, timeout_ms: int) -> base.Delivery | None:
        """The next message, or None."""

    def receive_backlog(self) -> list[base.Delivery]:
        """Many messages at once; fewer, or none, when not so many come within 2 ms."""

    def acknowledge(self, message_id: object) -> None:
        """Mark one message as done; nothing when closed."""

    def give_back(self, message_id: object) -> None:
        """Have one message delivered again; nothing when closed."""

    def close(self) -> None:
        """Leave, within a limit."""


class Held(Protocol):
    """The topics that one consumer holds now."""

    asks: Asks | None
    """How it asks others for messages of a key; None where a key is with one consumer."""

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        """What has come, or nothing within `timeout_ms`, which is short."""

    def pause(self, topics: frozenset[str]) -> None:
        """Receive nothing of these topics, and of all others again."""

    def heard(self) -> bool:
        """Whether others have asked since the last call."""

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        """Mark messages as done, also those that an earlier connection of this consumer received."""

    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        """Have messages delivered again."""

    @property
    def is_connected(self) -> bool:
        """Whether all topics are still held."""

    def holds(self, topic: str) -> bool:
        """Whether this topic is still held."""

    def close(self) -> None:
        """Let go."""


def held(consumers: Sequence[TopicConsumer], *, share: base.Share, asks: Asks | None = None) -> Held:
    """The consumers of one or more topics as one."""
    # Who may lose the subscription to a stand-by takes no more than it serves at once.
    takes_backlog = share is not base.Share.STANDBY
    if len(consumers) > 1:
        return _SeveralTopics(consumers, asks, takes_backlog=takes_backlog)
    return _OneTopic(consumers[0], takes_backlog=takes_backlog)


class _Reader:
    """Takes messages of one topic one by one, and many at once while there is plenty of them."""

    def __init__(self, consumer: TopicConsumer, *, takes_backlog: bool) -> None:
        self._consumer = consumer
        self._takes_backlog = takes_backlog
        self._in_a_row = 0
        self._last_ms = -math.inf

    def read(self, timeout_ms: int) -> Sequence[base.Delivery]:
        if self._in_a_row >= _MANY:
            arrived = self._consumer.receive_backlog()
            if len(arrived) < _FEW:
                self._in_a_row = 0
            return arrived
        only = self._consumer.receive(timeout_ms)
        if only is None:
            return ()
        if self._takes_backlog:
            now_ms = steady_ms()
            self._in_a_row = self._in_a_row + 1 if now_ms - self._last_ms <= _GAP_MS else 0
            self._last_ms = now_ms
        return (only,)


class _OneTopic:
    def __init__(self, consumer: TopicConsumer, *, takes_backlog: bool) -> None:
        self._consumer = consumer
        self._reader = _Reader(consumer, takes_backlog=takes_backlog)
        self._is_paused = False
        self.asks: Asks | None = None

    def pause(self, topics: frozenset[str]) -> None:
        self._is_paused = self._consumer.topic in topics

    def heard(self) -> bool:
        return False

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        if self._is_paused:
            pause_ms(timeout_ms)
            return ()
        return self._reader.read(timeout_ms)

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            if delivery.handle is not None:
                self._consumer.acknowledge(delivery.handle)

    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            if delivery.handle is not None:
                self._consumer.give_back(delivery.handle)
                delivery.handle = None

    @property
    def is_connected(self) -> bool:
        return self._consumer.is_connected

    def holds(self, topic: str) -> bool:
        return self._consumer.is_connected

    def close(self) -> None:
        self._consumer.close()


class _SeveralTopics:
    """One thread a topic hands over to the one who waits: Pulsar's client has no wait for several consumers."""

    def __init__(self, consumers: Sequence[TopicConsumer], asks: Asks | None, *, takes_backlog: bool) -> None:
        self.asks = asks
        self._consumers = {consumer.topic: consumer for consumer in consumers}
        self._changed = threading.Condition()
        self._arrived: list[base.Delivery] = []
        self._paused: frozenset[str] = frozenset()
        self._takes_backlog = takes_backlog
        # What had come of a topic when it was paused, and what was on its way then.
        self._kept: list[base.Delivery] = []
        self._has_heard = False
        self._error: BaseException | None = None
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._hand_over, args=(consumer,), name="edgeserve-pulsar-topic", daemon=True)
            for consumer in consumers
        ]
        for thread in self._threads:
            thread.start()
        if asks is not None:
            asks.wake = self._hear

    def _hand_over(self, consumer: TopicConsumer) -> None:
        reader = _Reader(consumer, takes_backlog=self._takes_backlog)
        try:
            while not self._is_closed:
                if consumer.topic in self._paused:
                    with self._changed:
                        self._changed.wait_for(lambda: consumer.topic not in self._paused or self._is_closed)
                    continue
                arrived = reader.read(_SLICE_MS)
                if arrived:
                    self._put(consumer.topic, arrived)
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _put(self, topic: str, arrived: Sequence[base.Delivery]) -> None:
        with self._changed:
            if len(self._arrived) >= _HANDOVER:
                self._changed.wait_for(
                    lambda: len(self._arrived) < _HANDOVER or topic in self._paused or self._is_closed
                )
            if topic in self._paused:
                self._kept.extend(arrived)
                return
            if not self._arrived:
                self._changed.notify_all()
            self._arrived.extend(arrived)

    def pause(self, topics: frozenset[str]) -> None:
        with self._changed:
            if topics == self._paused:
                return
            self._paused = topics
            # In the order in which they came: what was kept is older than anything of its topic that is not.
            here = self._kept + self._arrived
            self._kept = [delivery for delivery in here if delivery.topic in topics]
            self._arrived = [delivery for delivery in here if delivery.topic not in topics]
            self._changed.notify_all()

    def _hear(self) -> None:
        with self._changed:
            self._has_heard = True
            self._changed.notify_all()

    def heard(self) -> bool:
        with self._changed:
            has_heard, self._has_heard = self._has_heard, False
        return has_heard

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        with self._changed:
            if not self._arrived:
                self._changed.wait_for(
                    lambda: self._arrived or self._has_heard or self._error or self._is_closed, timeout_ms / 1000
                )
            arrived, self._arrived = self._arrived, []
            if len(arrived) >= _HANDOVER:
                self._changed.notify_all()
            if not arrived and self._error is not None:
                raise self._error
        return arrived

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            if delivery.handle is not None:
                self._consumers[delivery.topic].acknowledge(delivery.handle)

    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            if delivery.handle is not None:
                self._consumers[delivery.topic].give_back(delivery.handle)
                delivery.handle = None

    @property
    def is_connected(self) -> bool:
        return all(consumer.is_connected for consumer in self._consumers.values())

    def holds(self, topic: str) -> bool:
        return self._consumers[topic].is_connected

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._arrived.clear()
            self._kept.clear()
            self._changed.notify_all()
        if self.asks is not None:
            self.asks.close()
        for consumer in self._consumers.values():
            consumer.close()
        for thread in self._threads:
            thread.join(10 * _SLICE_MS / 1000)
