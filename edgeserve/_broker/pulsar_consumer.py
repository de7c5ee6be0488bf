"""Consumers on Pulsar: sharing a subscription, and standing by. Nothing here knows Pulsar's client."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from edgeserve._broker import base
from edgeserve._broker.pulsar_slots import slot_of
from edgeserve._broker.pulsar_topics import Held
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._logging import Seldom, logger
from edgeserve.errors import BrokerError, UsageError

_log = logger("broker.pulsar")

# Waits are cut into slices so that Ctrl-C and close() are seen in time.
_SLICE_MS = 100
# How often a stand-by tries to take over: takeover then lasts 0.07 s on average, where Pulsar's Failover needs 1 s.
_RETRY_MS = 100
# For how long a lost connection may take to come back by itself before we stand in line again with everybody else.
_GRACE_MS = 1000
# The broker's `maxUnackedMessagesPerConsumer`, unless it is configured otherwise: of each topic, where keys or messages
# are shared.
_MAX_UNACKNOWLEDGED = 50_000


class Consumer(ABC):
    """What both forms of a consumer share: the limit of a wait, and closing once."""

    def __init__(self, topics: Sequence[str], subscription: str) -> None:
        self._topics = frozenset(topics)
        self._subscription = subscription
        self._named = f"subscription {subscription!r} of {', '.join(topics)}"
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
            if self._heard() or arrived:
                return arrived
            slice_ms = min(_SLICE_MS, int(deadline_ms - steady_ms()))
            if slice_ms <= 0:
                return ()

    @abstractmethod
    def _receive(self, slice_ms: int) -> Sequence[base.Delivery]:
        """What has come, or nothing within `slice_ms`."""

    def _heard(self) -> bool:
        """Whether a `receive` that waits returns, as others have asked for something."""
        return False

    def pause(self, topics: Collection[str]) -> None:
        """See `base.Consumer`."""
        if unknown := [topic for topic in topics if topic not in self._topics]:
            raise UsageError(f"the consumer has no topic {unknown[0]!r} to pause: expected of {sorted(self._topics)}")
        self._pause(frozenset(topics))

    @abstractmethod
    def _pause(self, topics: frozenset[str]) -> None:
        """Receive nothing of these topics, and of all others again."""

    @abstractmethod
    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        """See `base.Consumer`."""

    @abstractmethod
    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        """See `base.Consumer`."""

    @property
    @abstractmethod
    def max_unacknowledged(self) -> int | None:
        """See `base.Consumer`."""

    @property
    def must_ask(self) -> bool:
        """See `base.Consumer`."""
        return False

    def slot(self, key: str | None) -> int:
        """See `base.Consumer`."""
        return slot_of(key or "")

    def ask(self, keys: Sequence[bytes]) -> None:  # noqa: B027 - where a key is with one consumer there is nobody to ask
        """See `base.Consumer`."""

    def asked(self) -> Sequence[bytes]:
        """See `base.Consumer`."""
        return ()

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

    def __init__(self, topics: Sequence[str], held: Held, subscription: str) -> None:
        super().__init__(topics, subscription)
        self._held = held
        self._lost_ms: float | None = None
        self._is_lost = False

    @property
    def is_active(self) -> bool:
        return True

    def _receive(self, slice_ms: int) -> Sequence[base.Delivery]:
        arrived = self._held.receive(slice_ms)
        if not arrived and slice_ms:
            self._look_at_connection()
        return arrived

    def _look_at_connection(self) -> None:
        if self._held.is_connected:
            if self._is_lost:
                _log.info("%s: the connection is back", self._named)
            self._lost_ms, self._is_lost = None, False
        elif self._lost_ms is None:
            self._lost_ms = steady_ms()
        elif not self._is_lost and steady_ms() - self._lost_ms > _GRACE_MS:
            self._is_lost = True
            _log.warning("%s: the connection is lost, and comes back by itself", self._named)

    def _heard(self) -> bool:
        return self._held.heard()

    def _pause(self, topics: frozenset[str]) -> None:
        self._held.pause(topics)

    def acknowledge(self, deliveries: Sequence[base.Delivery]) -> None:
        if not self._is_closed:
            self._held.acknowledge(deliveries)

    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        if not self._is_closed:
            self._held.give_back(deliveries)

    @property
    def max_unacknowledged(self) -> int | None:
        return _MAX_UNACKNOWLEDGED

    @property
    def must_ask(self) -> bool:
        return self._held.asks is not None

    def ask(self, keys: Sequence[bytes]) -> None:
        if self._held.asks is not None:
            self._held.asks.ask(keys)

    def asked(self) -> Sequence[bytes]:
        return self._held.asks.asked() if self._held.asks is not None else ()

    def _close(self) -> None:
        self._is_closed = True
        self._held.close()


class StandbyConsumer(Consumer):
    """The active consumer of a subscription, or one that tries again and again to become it."""

    def __init__(
        self, topics: Sequence[str], first: Held | None, take: Callable[[], Held | None], subscription: str
    ) -> None:
        super().__init__(topics, subscription)
        self._take = take
        self._waits = Seldom(_log)
        self._changed = threading.Condition()
        self._held = first
        self._paused: frozenset[str] = frozenset()
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
            _log.warning("%s: the connection is lost, standing by", self._named)
            self._stand_by(held)
        if not arrived:
            pause_ms(min(slice_ms, 10))
        return arrived

    def _stand_by(self, lost: Held | None) -> None:
        self._held = None
        self._waits.over()
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
                    self._waits.say("%s waits: %s", self._named, error)
            except BaseException as error:  # noqa: BLE001 - receive() raises it
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                is_over = taken is not None and not self._is_closed
                if taken is not None and is_over:
                    taken.pause(self._paused)
                    self._held = taken
                    self._tenure += 1
                    self._changed.notify_all()
                else:
                    self._changed.wait_for(lambda: self._is_closed, _RETRY_MS / 1000)
            if is_over:
                _log.info("%s is held here now", self._named)
                return
            if taken is not None:
                taken.close()

    def _pause(self, topics: frozenset[str]) -> None:
        with self._changed:
            self._paused = topics
            if self._held is not None:
                self._held.pause(topics)

    def give_back(self, deliveries: Sequence[base.Delivery]) -> None:
        # One negative acknowledgement has an Exclusive subscription deliver everything again.
        raise UsageError(f"the consumer of {self._subscription!r} has it for itself: nobody to give messages to")

    @property
    def max_unacknowledged(self) -> int | None:
        return None

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
