"""Dead letters: what an operator gave up, kept as the bytes it came as, with the reason beside them.

The dead letters of a topic are in a topic of their own, one message each, with a subscription that keeps them until
somebody has put them back or deleted them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from edgeserve._broker.base import Connection, Delivery, Message, Share
from edgeserve._broker.marks import ERROR, MESSAGE_ID, OPERATOR, TOPIC, URL
from edgeserve._broker.outbox import Outbox
from edgeserve._core.clock import steady_ms
from edgeserve._interrupts import raise_noted, uninterrupted
from edgeserve.errors import BrokerError, DeliveryError

_SUFFIX = "-dead-letters"
_SUBSCRIPTION = "dead-letters"
_ADDED = (ERROR, OPERATOR, TOPIC, MESSAGE_ID)
# Properties are small marks; an error's text may hold a whole payload.
_MOST_TEXT = 1000
_SLICE_MS = 100
_QUEUE_SIZE = 200
# How long an operator that just makes sure of the subscription, or a process that was killed, may be in the way.
_LEAVING_MS = 3000


def dead_letter_topic(topic: str) -> str:
    """Where the dead letters of a topic are."""
    return topic + _SUFFIX


class DeadLetters:
    """What one operator gives up."""

    def __init__(self, connection: Connection, address: str, operator: str) -> None:
        self._connection = connection
        self._address = address
        self._operator = operator
        self._outboxes: dict[str, Outbox[Callable[[], None]]] = {}

    @property
    def sent(self) -> int:
        """How many were handed over."""
        return sum(outbox.sent for outbox in list(self._outboxes.values()))

    def raise_failure(self) -> None:
        """Raise what earlier sends failed with, once.

        Raises:
            DeliveryError: What should have become a dead letter stays unacknowledged.
        """
        for outbox in self._outboxes.values():
            outbox.raise_failure()

    def send(
        self,
        delivery: Delivery,
        data: bytes,
        capture_ms: int | None,
        error: str,
        done: Callable[[], None],
        *,
        is_url: bool = False,
    ) -> None:
        """Keep `data`, which came in `delivery`. `done` is called when the broker has it.

        Raises:
            BrokerError: The topic can't be opened.
            DeliveryError: The operator was closed while this waited for room.
        """
        marks = {ERROR: error, OPERATOR: self._operator, TOPIC: delivery.topic, MESSAGE_ID: delivery.message_id}
        properties = {**delivery.properties, **{mark: _text(value) for mark, value in marks.items()}}
        if is_url:  # which its own mark in a pack said
            properties[URL] = "1"
        self._outbox(delivery.topic).send(Message(data, capture_ms, delivery.key, properties), done)

    def _outbox(self, topic: str) -> Outbox[Callable[[], None]]:
        outbox = self._outboxes.get(topic)
        if outbox is None:
            kept_in = dead_letter_topic(topic)
            # A broker keeps nothing that nobody subscribes to.
            self._connection.consumer([kept_in], _SUBSCRIPTION, Share.STANDBY, 1).close()
            outbox = Outbox(self._connection.producer(kept_in), self._address, _call_all, packing=False)
            self._outboxes[topic] = outbox
        return outbox

    def stop(self) -> None:
        """Make a send that waits for room give up."""
        for outbox in list(self._outboxes.values()):
            outbox.stop()

    def close(self, timeout_ms: int) -> None:
        """Wait for confirmations, at most `timeout_ms`.

        Raises:
            DeliveryError: Something could not be confirmed; it stays unacknowledged.
        """
        until_ms = steady_ms() + timeout_ms
        failed: DeliveryError | None = None
        for outbox in list(self._outboxes.values()):
            try:
                outbox.close(max(0, int(until_ms - steady_ms())))
            except DeliveryError as error:
                failed = error
        if failed is not None:
            raise failed


def _call_all(done: Sequence[Callable[[], None]]) -> None:
    for each in done:
        each()


def _text(value: str) -> str:
    return value[:_MOST_TEXT].encode("utf-8", "replace").decode("utf-8")


class DeadLetter(NamedTuple):
    """One dead letter.

    Attributes:
        delivery: The message of the dead letters' topic that holds it.
        error: What went wrong.
        operator: Who gave it up.
        topic: The topic it came from.
        message_id: The broker's id of the message it came in.
        capture_ms: When it was captured, ms since the epoch; None if it does not say.
        data: The bytes it came as.
    """

    delivery: Delivery
    error: str
    operator: str
    topic: str
    message_id: str
    capture_ms: int | None
    data: bytes

    @classmethod
    def of(cls, delivery: Delivery) -> DeadLetter:
        """Read one."""
        error, operator, topic, message_id = (delivery.properties.get(mark, "") for mark in _ADDED)
        return cls(delivery, error, operator, topic, message_id, delivery.event_ms, delivery.payload)

    @property
    def properties(self) -> Mapping[str, str]:
        """What its message was marked with when it was none yet."""
        return {name: value for name, value in self.delivery.properties.items() if name not in _ADDED}


class DeadLetterBox:
    """The dead letters of one topic, for people. What is neither put back nor deleted stays.

    One box at a time has them, so that they come in order and all of them.
    """

    def __init__(self, connection: Connection, address: str, topic: str) -> None:
        self._connection = connection
        self._address = address
        self._topic = topic
        self._consumer = connection.consumer([dead_letter_topic(topic)], _SUBSCRIPTION, Share.STANDBY, _QUEUE_SIZE)

    def read(self, wait_ms: int) -> Iterator[DeadLetter]:
        """The letters, oldest first, until no further one comes within `wait_ms`.

        Raises:
            BrokerError: Another box has them.
        """
        opened_ms = quiet_ms = steady_ms()
        while steady_ms() - quiet_ms < wait_ms:
            arrived = self._consumer.receive(min(_SLICE_MS, wait_ms))
            for delivery in arrived:
                yield DeadLetter.of(delivery)
            raise_noted()
            if arrived:
                quiet_ms = steady_ms()
            elif not self._consumer.is_active:
                quiet_ms = steady_ms()
                if quiet_ms - opened_ms > _LEAVING_MS:
                    raise BrokerError(
                        f"the dead letters of topic {self._topic!r} are being read by somebody else: try again later",
                        self._address,
                    )

    def delete(self, letters: Sequence[DeadLetter]) -> None:
        """Keep letters no longer."""
        self._consumer.acknowledge([letter.delivery for letter in letters])

    def put_back(self, letters: Sequence[DeadLetter], timeout_ms: int) -> None:
        """Send letters to the topic again as they were, and keep those no longer that are there.

        All subscriptions of the topic get them, with the ids they had: also the operators that have served them.
        When this process is killed meanwhile, a letter can be back in the topic and still be kept.

        Raises:
            DeliveryError: Not all were stored within `timeout_ms`; the others are kept.
        """
        outbox = Outbox(self._connection.producer(self._topic), self._address, self.delete, packing=False)
        with uninterrupted():
            try:
                for letter in letters:
                    key, properties = letter.delivery.key, letter.properties
                    outbox.send(Message(letter.data, letter.capture_ms, key, properties), letter)
            finally:
                outbox.close(timeout_ms)

    def close(self) -> None:
        """Leave; what was neither put back nor deleted is there for the next one."""
        self._consumer.close()
