"""What a broker does for the operators: connect, send with confirmation, receive with a time-out, acknowledge.

Two implementations (`pulsar`, `local`) and one conformance suite (tests/broker). Nothing here knows of
examples, joins or gates: a broker moves messages.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from edgeserve.errors import BrokerError

# What Apache Pulsar takes unless its `maxMessageSize` says otherwise, less room for a message's own metadata;
# the local broker has the same limit, so that a pipeline which runs on one runs on the other.
MAX_MESSAGE_BYTES = 5 * 1024 * 1024 - 10 * 1024
MAX_ASKED_KEY_BYTES = 1024


class Share(enum.Enum):
    """How the consumers of one subscription divide its messages."""

    MESSAGE = "message"
    """Each message goes to one of the consumers, whichever is free."""
    STANDBY = "standby"
    """One consumer is active and has everything, in order; the others stand by and take over when it goes."""
    KEY = "key"
    """All messages with one key go to one consumer, over all topics of the subscription."""


class Message(NamedTuple):
    """A message to send.

    Attributes:
        payload: Its bytes.
        event_ms: Its capture time, ms since the epoch, greater than 0; None if it has none.
        key: What `Share.KEY` shares by; None for no key.
        properties: Small marks that travel beside the payload.
    """

    payload: bytes
    event_ms: int | None = None
    key: str | None = None
    properties: Mapping[str, str] = {}


class Delivery:
    """A message that arrived. Whoever receives it may change it.

    Attributes:
        handle: What `Consumer.acknowledge` needs; opaque. None once it was given back.
        topic: The topic as the consumer named it.
        payload: Its bytes.
        event_ms: Its capture time; None if the sender gave none.
        publish_ms: When it was sent, ms since the epoch.
        received_steady_ms: When it was received, where that is asked for; else 0.
        key: Its key, or None.
        properties: What its sender marked it with.
        tenure: That of the consumer when it received this (`Consumer.tenure`).
    """

    __slots__ = (
        "_native_id",
        "event_ms",
        "handle",
        "key",
        "payload",
        "properties",
        "publish_ms",
        "received_steady_ms",
        "tenure",
        "topic",
    )

    def __init__(
        self,
        handle: Any,
        topic: str,
        native_id: object,
        payload: bytes,
        event_ms: int | None,
        publish_ms: int,
        key: str | None,
        properties: Mapping[str, str],
        tenure: int = 0,
    ) -> None:
        self.handle = handle
        self.topic = topic
        self._native_id = native_id
        self.payload = payload
        self.event_ms = event_ms
        self.publish_ms = publish_ms
        self.received_steady_ms = 0.0
        self.key = key
        self.properties = properties
        self.tenure = tenure

    @property
    def message_id(self) -> str:
        """The broker's own id of the message, the same at each redelivery; for people and dead letters."""
        return str(self._native_id)  # made when it is asked for, as it costs as much as the message

    def __repr__(self) -> str:
        return f"Delivery({self.message_id} of {self.topic!r}, {len(self.payload)} bytes)"


class SubscriptionInfo(NamedTuple):
    """One subscription of a topic: how many messages and bytes it has not acknowledged, and its live consumers.

    `backlog_bytes` is None where the broker does not say.
    """

    name: str
    backlog_messages: int
    backlog_bytes: int | None
    consumers: int


class TopicInfo(NamedTuple):
    """One topic: what it stores now, and its subscriptions."""

    name: str
    messages: int | None
    size_bytes: int
    subscriptions: Sequence[SubscriptionInfo]


Confirmed = Callable[[BrokerError | None], None]
"""Called once for each send, on a thread of the broker's, in the order of the sends: with None when the message is
stored, else with what went wrong. It may acknowledge, and send; it must not block."""


class Producer(Protocol):
    """Sends to one topic, in order. Safe to use from several threads."""

    @property
    def topic(self) -> str:
        """The topic's name."""

    def send(self, message: Message, confirmed: Confirmed) -> None:
        """Hand over one message and return at once; `confirmed` is called later.

        The caller bounds what is in flight.

        Raises:
            PayloadTooLarge: The payload is over the broker's limit; `confirmed` is not called.
            BrokerError: The producer is closed.
        """

    def send_together(self, messages: Sequence[Message], confirmed: Confirmed) -> None:
        """Hand over messages without keys, to be stored one after the other and in as few goes as can be.

        `confirmed` is called once, when each is stored or refused: with the first error, if any was refused.

        Raises:
            PayloadTooLarge: One is over the broker's limit; nothing was sent.
            BrokerError: The producer is closed.
        """

    def close(self, timeout_ms: int) -> None:
        """Wait until everything is confirmed, at most `timeout_ms`; what is not is confirmed with a DeliveryError."""


class Consumer(Protocol):
    """Receives for one subscription over one or more topics."""

    @property
    def is_active(self) -> bool:
        """False while it stands by (`Share.STANDBY`) and another consumer has the subscription."""

    @property
    def tenure(self) -> int:
        """Grows when it has lost the subscription to others and got it back (`Share.STANDBY`).

        What it had received before and not acknowledged has gone to them, or comes again.
        """

    def receive(self, timeout_ms: int) -> Sequence[Delivery]:
        """What has arrived, at least one message, in order; nothing if none came within `timeout_ms`.

        Raises:
            BrokerError: The consumer is closed, or the broker refuses it for good.
        """

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Mark messages as done, in any order; they are not delivered again. Does not block.

        Safe to use from any thread, a `Confirmed` callback included; does nothing on a closed consumer.
        """

    @property
    def max_unacknowledged(self) -> int | None:
        """How many messages of a topic it may hold unacknowledged: with more, it is sent no others. None: any number.

        It is what a broker does by default: it does not say how it was configured.
        """

    def pause(self, topics: Collection[str]) -> None:
        """From now on `receive` gives nothing of these topics, and of all others: `pause(())` resumes all.

        What is held up comes later, in order, or goes to others if this consumer leaves. The messages of other topics
        go on; so does what `receive` has returned. For the thread that receives.

        Raises:
            UsageError: One is no topic of this consumer, as its caller named them.
        """

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Have messages that were received and not acknowledged delivered again, within about half a second.

        They go to whoever their keys belong to now, which may be this consumer. To acknowledge one afterwards, or to
        give it back again, does nothing. What was sent together with it can come again too. Does not block, and does
        nothing on a closed consumer.

        Raises:
            UsageError: The consumer has the subscription for itself (`Share.STANDBY`): there is nobody to give to.
        """

    @property
    def must_ask(self) -> bool:
        """Whether messages of one key can be with several consumers of the subscription for a while (`Share.KEY`).

        Then who waits for messages of a key asks for them, again and again, and who holds some gives them back.
        """

    def slot(self, key: str | None) -> int:
        """Which of the broker's slots a key falls into, where it `must_ask`.

        All of a slot is with one consumer; and while another one holds anything of it unacknowledged, the rest of it is
        held back. So who is asked for messages of a key gives back whatever it holds of the key's slot.
        """

    def ask(self, keys: Sequence[bytes]) -> None:
        """Tell the other consumers of the subscription that messages of these keys are wanted here.

        A key is whatever the consumers agree on, at most `MAX_ASKED_KEY_BYTES`. Does not block; an ask can be lost, so
        it is repeated for as long as it matters. Does nothing but where keys are shared over several topics.

        Raises:
            UsageError: A key is too long.
        """

    def asked(self) -> Sequence[bytes]:
        """The keys that other consumers have asked for since the last call. A `receive` that waits returns for them."""

    def close(self) -> None:
        """Carry out pending acknowledgements and leave; what is unacknowledged goes to the next consumer."""


class Connection(Protocol):
    """One connection to a broker, shared by the operators of a process that name the same address."""

    def producer(self, topic: str, *, together: bool = False) -> Producer:
        """A new producer; the topic is made if need be. `together`: `send_together` will be used.

        Raises:
            UsageError: The broker refuses the topic's name.
            BrokerUnreachable, BrokerError: As they say.
        """

    def consumer(self, topics: Sequence[str], subscription: str, share: Share, queue_size: int) -> Consumer:
        """A new consumer of a durable subscription, which starts at the earliest message stored.

        `queue_size` bounds the messages of a topic that are fetched ahead. With `Share.STANDBY` it returns at once,
        active or not.

        Raises:
            UsageError: The broker refuses a name, or the subscription is shared in another way already.
            BrokerUnreachable, BrokerError: As they say.
        """

    def topics(self) -> Sequence[TopicInfo]:
        """The topics there are, by name, with what they hold."""

    def delete(self, topic: str, subscription: str | None) -> None:
        """Remove a subscription of a topic, or (None) the topic with all it holds.

        Raises:
            UsageError: There is none of that name, or it is in use.
        """

    def close(self) -> None:
        """Close every producer and consumer that is still open, then the connection."""
