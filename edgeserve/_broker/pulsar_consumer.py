"""Consumers on Pulsar: waiting on several topics at once, and standing by.

`pulsar` makes the consumers of single topics; here is what happens between them. Nothing here knows Pulsar's client.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from edgeserve._broker import base
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve.errors import BrokerError

_log = logging.getLogger("edgeserve.broker.pulsar")

# Waits are cut into slices so that Ctrl-C and close() are seen in time.
_SLICE_MS = 100
# How often a stand-by tries to take over: takeover then lasts 0.07 s on average, where Pulsar's Failover needs 1 s.
_RETRY_MS = 100
# For how long a lost connection may take to come back by itself before we stand in line again with everybody else.
_GRACE_MS = 1000
# What waits between the threads of several topics and the reader, beside what the client fetches ahead.
_HANDOVER = 64
# A message that was there at once, and how many of them in a row are a backlog.
_AT_ONCE_MS = 0.05
_BACKLOG = 8


class TopicConsumer(Protocol):
    """A consumer of one topic."""

    topic: str

    @property
    def is_connected(self) -> bool:
        """Whether the broker knows it as the subscription's consumer now."""

    def receive(self, timeout_ms: int) -> base.Delivery | None:
        """The next message, or None."""

    def acknowledge(self, message_id: object) -> None:
        """Mark one message as done; nothing when closed."""

    def close(self) -> None:
        """Leave, within a limit."""


class Held(Protocol):
    """The topics that one consumer holds now."""

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        """What has come, or nothing within `timeout_ms`, which is short."""

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        """Mark messages as done, also those that an earlier connection of this consumer received."""

    @property
    def is_connected(self) -> bool:
        """Whether all topics are still held."""

    def holds(self, topic: str) -> bool:
        """Whether this topic is still held."""

    def close(self) -> None:
        """Let go."""


def held(consumers: Sequence[TopicConsumer], *, share: base.Share) -> Held:
    """The consumers of one or more topics as one."""
    if len(consumers) > 1:
        return _SeveralTopics(consumers)
    # Who may lose the subscription to a stand-by takes no more than it serves at once.
    return _OneTopic(consumers[0], takes_backlog=share is not base.Share.STANDBY)


class _OneTopic:
    def __init__(self, consumer: TopicConsumer, *, takes_backlog: bool) -> None:
        self._consumer = consumer
        self._takes_backlog = takes_backlog
        self._at_once = 0

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        # One at a time, as asking for more that is not there costs as much as 30 messages; unless so many have been
        # there at once that more of them must be waiting.
        started_ms = steady_ms()
        first = self._consumer.receive(timeout_ms)
        if not self._takes_backlog:
            return () if first is None else (first,)
        if first is None or steady_ms() - started_ms > _AT_ONCE_MS:
            self._at_once = 0
            return () if first is None else (first,)
        self._at_once += 1
        arrived = [first]
        if self._at_once >= _BACKLOG:
            with suppress(BrokerError):  # the next call meets it again, and what has come is not lost
                while len(arrived) < _HANDOVER and (further := self._consumer.receive(0)) is not None:
                    arrived.append(further)
            if len(arrived) < _BACKLOG:
                self._at_once = 0
        return arrived

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            self._consumer.acknowledge(delivery.handle)

    @property
    def is_connected(self) -> bool:
        return self._consumer.is_connected

    def holds(self, topic: str) -> bool:
        return self._consumer.is_connected

    def close(self) -> None:
        self._consumer.close()


class _SeveralTopics:
    """One thread a topic hands over to the one who waits: Pulsar's client has no wait for several consumers."""

    def __init__(self, consumers: Sequence[TopicConsumer]) -> None:
        self._consumers = {consumer.topic: consumer for consumer in consumers}
        self._changed = threading.Condition()
        self._arrived: list[base.Delivery] = []
        self._error: BaseException | None = None
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._hand_over, args=(consumer,), name="edgeserve-pulsar-topic", daemon=True)
            for consumer in consumers
        ]
        for thread in self._threads:
            thread.start()

    def _hand_over(self, consumer: TopicConsumer) -> None:
        try:
            while not self._is_closed:
                arrived = consumer.receive(_SLICE_MS)
                if arrived is not None:
                    self._put(arrived)
        except BaseException as error:  # noqa: BLE001 - the reader raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _put(self, arrived: base.Delivery) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._arrived) < _HANDOVER or self._is_closed)
            self._arrived.append(arrived)
            if len(self._arrived) == 1:
                self._changed.notify_all()

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        with self._changed:
            if not self._arrived:
                self._changed.wait_for(lambda: self._arrived or self._error or self._is_closed, timeout_ms / 1000)
            arrived, self._arrived = self._arrived, []
            if len(arrived) >= _HANDOVER:
                self._changed.notify_all()
            if not arrived and self._error is not None:
                raise self._error
        return arrived

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        for delivery in deliveries:
            self._consumers[delivery.topic].acknowledge(delivery.handle)

    @property
    def is_connected(self) -> bool:
        return all(consumer.is_connected for consumer in self._consumers.values())

    def holds(self, topic: str) -> bool:
        return self._consumers[topic].is_connected

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._arrived.clear()
            self._changed.notify_all()
        for consumer in self._consumers.values():
            consumer.close()
        for thread in self._threads:
            thread.join(10 * _SLICE_MS / 1000)


class Consumer(ABC):
    """What both forms of a consumer share: the limit of a wait, and closing once."""

    def __init__(self) -> None:
        self._is_closed = False
        self._pid = os.getpid()

    @property
    @abstractmethod
    def is_active(self) -> bool:
        """Whether messages come here."""

    @property
    def tenure(self) -> int:
        """See `base.Consumer`."""
        return 0

    def receive(self, timeout_ms: int) -> Sequence[base.Delivery]:
        """See `base.Consumer`."""
        deadline_ms = steady_ms() + timeout_ms
        slice_ms = min(_SLICE_MS, timeout_ms)
        while True:
            if self._is_closed:
                raise BrokerError("the consumer is closed", "")
            arrived = self._receive(slice_ms)
            if arrived:
                return arrived
            slice_ms = min(_SLICE_MS, int(deadline_ms - steady_ms()))
            if slice_ms <= 0:
                return ()

    @abstractmethod
    def _receive(self, slice_ms: int) -> Sequence[base.Delivery]:
        """What has come, or nothing within `slice_ms`."""

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        """See `base.Consumer`."""

    def close(self) -> None:
        """See `base.Consumer`. A child of fork has a copy, and leaves the original alone."""
        if not self._is_closed and self._pid == os.getpid():
            self._close()

    @abstractmethod
    def _close(self) -> None:
        """Leave, once."""

    def join(self, limit_ms: int) -> None:  # noqa: B027 - one that never stands by has nothing to wait for
        """Wait for what a closed consumer still does, which is over soon when its connection fails its calls."""


class SharedConsumer(Consumer):
    """One of several consumers, each of which has messages. A lost connection comes back by itself."""

    def __init__(self, held: Held) -> None:
        super().__init__()
        self._held = held

    @property
    def is_active(self) -> bool:
        return True

    def _receive(self, slice_ms: int) -> Sequence[base.Delivery]:
        return self._held.receive(slice_ms)

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        if not self._is_closed:
            self._held.acknowledge(deliveries)

    def _close(self) -> None:
        self._is_closed = True
        self._held.close()


class StandbyConsumer(Consumer):
    """The active consumer of a subscription, or one that tries again and again to become it."""

    def __init__(self, first: Held | None, take: Callable[[], Held | None], subscription: str) -> None:
        super().__init__()
        self._take = take
        self._subscription = subscription
        self._changed = threading.Condition()
        self._held = first
        self._error: BaseException | None = None
        self._lost_ms: float | None = None
        self._tenure = 0
        self._taker: threading.Thread | None = None
        if first is None:
            self._stand_by(None)

    @property
    def is_active(self) -> bool:
        held = self._held
        return held is not None and held.is_connected

    @property
    def tenure(self) -> int:
        """How often it has got the subscription after it had to stand by."""
        return self._tenure

    def _receive(self, slice_ms: int) -> Sequence[base.Delivery]:
        with self._changed:
            held, tenure = self._held, self._tenure
        if held is None:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._error or self._is_closed, slice_ms / 1000)
                if self._error is not None:
                    raise self._error
            return ()
        arrived = held.receive(slice_ms)
        if tenure:
            for delivery in arrived:
                delivery.tenure = tenure
        if held.is_connected:
            self._lost_ms = None
            return arrived
        # What came of a topic that is lost now is not passed on: another consumer may have it already, and whoever is
        # the next to hold the topic gets it again. What came of the others will not come again, so it is.
        arrived = [delivery for delivery in arrived if held.holds(delivery.topic)]
        now_ms = steady_ms()
        if self._lost_ms is None:
            self._lost_ms = now_ms
        elif now_ms - self._lost_ms > _GRACE_MS:
            self._lost_ms = None
            _log.warning("subscription %s: the connection is lost, standing by", self._subscription)
            self._stand_by(held)
        if not arrived:
            pause_ms(min(slice_ms, 10))
        return arrived

    def _stand_by(self, lost: Held | None) -> None:
        self._held = None
        self._taker = threading.Thread(
            target=self._take_over, args=(lost,), name="edgeserve-pulsar-standby", daemon=True
        )
        self._taker.start()

    def _take_over(self, lost: Held | None) -> None:
        if lost is not None:
            lost.close()
        while not self._is_closed:
            taken: Held | None = None
            try:
                taken = self._take()
            except BrokerError as error:  # a broker that starts again answers with all sorts of refusals
                if not self._is_closed:
                    _log.warning("subscription %s waits: %s", self._subscription, error)
            except BaseException as error:  # noqa: BLE001 - receive() raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                if taken is not None and not self._is_closed:
                    self._held = taken
                    self._tenure += 1
                    self._changed.notify_all()
                    return
                self._changed.wait_for(lambda: self._is_closed, _RETRY_MS / 1000)
            if taken is not None:
                taken.close()

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        held = self._held
        if held is not None and not self._is_closed:
            held.acknowledge(deliveries)

    def _close(self) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self.join(_RETRY_MS)
        if self._held is not None:
            self._held.close()

    def join(self, limit_ms: int) -> None:
        """Wait for the thread that stands by."""
        if self._taker is not None:
            self._taker.join(limit_ms / 1000)
