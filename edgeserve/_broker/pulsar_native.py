"""The client's producers and consumers of single topics, with our names for what goes in and out.

It is handed the client's objects, and does not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from edgeserve._broker import base
from edgeserve._broker.marks import UNREADABLE
from edgeserve._broker.pulsar_calls import ended_within
from edgeserve._core.clock import pause_ms

_COMING_BACK_MS = 300


class Owner(Protocol):
    """What a consumer needs of its connection."""

    library: ModuleType

    @property
    def close_ms(self) -> int:
        """How long closing may take."""

    def translate(self, what: str, name: str, waited_ms: int = 0) -> BaseException:
        """What stands for an error of Pulsar's client."""

    def forget(self, consumer: Any) -> None:
        """Have the client's own list of consumers let go of a closed one."""


class TopicProducer:
    """The client's producers of one topic: one sends each message by itself, the other one batches."""

    def __init__(self, single: Any, batching: Any, library: ModuleType) -> None:
        self._wrappers = [producer for producer in (single, batching) if producer is not None]  # `_handles` is weak
        self._single = single._producer
        self._batching = batching._producer if batching is not None else None
        self._new_message = library._pulsar.MessageBuilder

    def send(self, message: base.Message, settled: Callable[[Any, Any], None]) -> None:
        """Send one message by itself; `settled` is called once, with the client's result."""
        self._single.send_async(self._built(message), settled)

    def send_together(self, messages: Sequence[base.Message], settled: Callable[[Any, Any], None]) -> None:
        """Send messages in one entry; `settled` is called for each."""
        if self._batching is None:
            raise RuntimeError("the producer was made without `together`")
        for message in messages:
            self._batching.send_async(self._built(message), settled)
        self._batching.flush_async(_ignore)

    def _built(self, message: base.Message) -> Any:
        payload, event_ms, key, properties = message
        builder = self._new_message()
        builder.content(payload)
        if event_ms is not None:
            builder.event_timestamp(event_ms)
        if key:
            builder.partition_key(key)
        for name, value in properties.items():
            builder.property(name, value)
        return builder.build()

    def close(self, limit_ms: int) -> None:
        """Close, within a limit."""
        for wrapper in self._wrappers:
            ended_within(limit_ms, wrapper._producer.close_async)


def _ignore(*_: object) -> None: ...


class TopicConsumer:
    """One consumer of one topic, with our names for what goes in and out."""

    def __init__(self, topic: str, consumer: Any, connection: Owner) -> None:
        self.topic = topic
        self._consumer = consumer
        self._native = consumer._consumer
        self._connection = connection
        self._nothing_came = connection.library.Timeout
        self._pulsar_error = connection.library.PulsarException
        self._is_closed = False
        self._is_receiving = False
        self._properties: Mapping[str, str] = {}

    @property
    def is_connected(self) -> bool:
        """Whether the broker knows it as the subscription's consumer now."""
        return bool(self._consumer.is_connected())

    def receive(self, timeout_ms: int) -> base.Delivery | None:
        """The next message, or None."""
        self._is_receiving = True
        try:
            message = self._native.receive(timeout_ms)
        except self._nothing_came:
            return None
        except self._pulsar_error as error:
            raise self._connection.translate(f"a message of topic {self.topic!r}", type(error).__name__) from error
        finally:
            self._is_receiving = False
        return self._delivery(message)

    def receive_backlog(self) -> list[base.Delivery]:
        """Many messages at once; fewer, or none, when not so many come within 2 ms."""
        self._is_receiving = True
        try:
            messages = self._native.batch_receive()
        except self._pulsar_error as error:
            raise self._connection.translate(f"messages of topic {self.topic!r}", type(error).__name__) from error
        finally:
            self._is_receiving = False
        return [self._delivery(message) for message in messages]

    def _delivery(self, message: Any) -> base.Delivery:
        message_id = message.message_id()
        key: str | None = None
        properties: Mapping[str, str]
        try:
            key, properties = message.partition_key() or None, message.properties()
        except UnicodeDecodeError as error:
            # Other clients may send any bytes there, and this one gives them as text or not at all. Raised, it would
            # be raised again whenever the message comes back; so it goes the way of what is malformed.
            properties = {UNREADABLE: str(error)}
        # Nearly all messages of a topic have the same ones, and each that is held would have its own copy.
        if properties == self._properties:
            properties = self._properties
        else:
            self._properties = properties
        return base.Delivery(
            message_id,
            self.topic,
            message_id,
            message.data(),
            message.event_timestamp() or None,
            message.publish_timestamp(),
            key,
            properties,
        )

    def acknowledge(self, message_id: object) -> None:
        """Mark one message as done; nothing when closed."""
        if self._is_closed:
            return
        try:
            self._native.acknowledge(message_id)
        except self._connection.library.AlreadyClosed:
            return
        except self._pulsar_error as error:
            raise self._connection.translate(
                f"an acknowledgement for topic {self.topic!r}", type(error).__name__
            ) from error

    def give_back(self, message_id: object) -> None:
        """Have the broker deliver a message again, to whoever its key belongs to then."""
        if self._is_closed:
            return
        try:
            self._native.negative_acknowledge(message_id)
        except self._connection.library.AlreadyClosed:
            return
        except self._pulsar_error as error:
            raise self._connection.translate(f"giving back to topic {self.topic!r}", type(error).__name__) from error

    def close(self) -> None:
        """Leave, within the limit of the connection."""
        if not self._is_closed:
            self._is_closed = True
            ended_within(self._connection.close_ms, self._consumer._consumer.close_async)
            self._connection.forget(self._consumer)
            # A thread that comes back from the client when the interpreter is gone aborts the process.
            for _ in range(_COMING_BACK_MS):
                if not self._is_receiving:
                    break
                pause_ms(1)
