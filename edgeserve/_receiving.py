"""How operators that receive wait: for a message, which they open, or for the moment to step again."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from contextlib import ExitStack
from typing import TypeVar

from edgeserve._broker.base import Connection, Share
from edgeserve._broker.inbox import Inbox
from edgeserve._core.ledger import Ledger
from edgeserve._core.step import Example
from edgeserve._interrupts import raise_noted
from edgeserve._notices import Notices
from edgeserve._operator import Life, Operator
from edgeserve._ports import Inputs

T = TypeVar("T")

# Flows come in messages of their own, of which so many are taken in at a time.
_OPENED_AT_ONCE = 32


class Receiving(Operator[T]):
    """Waits for messages and opens them; `Consuming` says what a step does with what was in them."""

    # When to step again without an arrival: as something is to be served, and as it is to be looked at.
    _wake_steady_ms: float | None = None
    _look_steady_ms: float | None = None
    # Since when nothing has come, and when that has been for too long.
    _idle_from_ms: float | None = None
    _over_steady_ms: float | None = None
    _is_over = False
    _tenure: int | None = None

    def __init__(self, name: str, life: Life, inputs: Inputs, ledger: Ledger) -> None:
        super().__init__(name, life)
        self._inputs = inputs
        self._ledger = ledger
        # What came in messages that were opened, and no step has taken yet.
        self._arrivals: deque[Example] = deque()
        self._notices = Notices(name)

    def _open_inbox(self, opening: ExitStack, connection: Connection) -> None:
        """Subscribe."""
        inputs = self._inputs
        consumer = connection.consumer(inputs.topics, inputs.subscription, inputs.share, inputs.queue_size)
        self._inbox = Inbox(consumer, inputs.roles, inputs.header_size)
        opening.callback(self._inbox.close)

    def _queue_length(self) -> int:
        return len(self._arrivals) + self._inbox.unopened

    @abstractmethod
    def _raise_failure(self) -> None:
        """Raise what failed in the background, if anything has."""

    @abstractmethod
    def _begin_tenure(self) -> None:
        """Begin with the subscription, or, if `_tenure` is not None, anew, as others had it since that tenure.

        `_tenure` becomes the new one afterwards; if this raises, it is asked again.
        """

    def _answer_asks(self) -> None:
        """Give back what other replicas wait for."""

    def _wait(self) -> bool:
        """Wait for a message, and open it, or for the moment to wake or the end. Whether a message came."""
        self._answer_asks()
        until_ms = self._until_steady_ms()
        self._is_over = False
        while not self._is_stopping:
            slice_ms = self._clock.slice_ms(until_ms)
            if self._inbox.fill(slice_ms):
                self._idle_from_ms = None
                if self._inbox.tenure != self._tenure:
                    self._begin_tenure()
                    self._tenure = self._inbox.tenure
                self._take_next(_OPENED_AT_ONCE if self._inputs.share is Share.KEY else 1)
                return True
            if until_ms is not None and self._clock.now().steady_ms >= until_ms:
                self._is_over = until_ms == self._over_steady_ms
                if self._is_over:
                    self._idle_from_ms = None  # whoever iterates again waits as long again
                return False
            self._answer_asks()
            self._notices.standing_by(is_active=self._inbox.is_active)
            raise_noted()
            self._raise_failure()
        self._is_over = True
        return False

    def _until_steady_ms(self) -> float | None:
        """Until when to wait: until something is to be served, or looked at, or nothing has come for too long."""
        self._over_steady_ms = None
        if self._wake_steady_ms is not None:
            self._idle_from_ms = None
        elif self._life.idle_timeout_ms is not None:
            if self._idle_from_ms is None:
                self._idle_from_ms = self._clock.now().steady_ms
            self._over_steady_ms = self._idle_from_ms + self._life.idle_timeout_ms
        moments = (self._wake_steady_ms, self._look_steady_ms, self._over_steady_ms)
        return min([moment for moment in moments if moment is not None], default=None)

    def _take_next(self, at_most: int = 1) -> None:
        """Open the messages that came first."""
        opened = self._open_one()
        while len(opened) < at_most and self._inbox.has_more:
            opened += self._open_one()
        self._ledger.receive(opened)
        self._arrivals.extend(opened)

    def _open_one(self) -> list[Example]:
        opened = self._inbox.open_next()
        if (observer := self._observer) is not None:
            observer.received(opened)
        return opened
