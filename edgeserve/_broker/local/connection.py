"""A connection to the local broker."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence

from edgeserve._broker.base import Connection, Consumer, Producer, Share, TopicInfo
from edgeserve._broker.local.consumer import LocalConsumer
from edgeserve._broker.local.folder import Folder
from edgeserve._broker.local.names import subscription_name, topic_name
from edgeserve._broker.local.session import FORKED, Lifeline, Session
from edgeserve._broker.local.writer import Writer
from edgeserve.address import LocalAddress
from edgeserve.errors import BrokerError, UsageError

_CLOSE_MS = 10_000
_MOST_FILES = 32


def connect(address: LocalAddress) -> Connection:
    """Open the broker's folder, made if need be.

    Raises:
        BrokerError: The folder can't be used; the message says why and what to do.
    """
    return LocalConnection(address)


class LocalConnection:
    """The producers and consumers of one process at one folder."""

    def __init__(self, address: LocalAddress) -> None:
        self._folder = Folder(address)
        with self._folder.errors():
            self._lifeline = Lifeline(self._folder.lifelines)
        self._writer = Writer(self._folder)
        self._consumers: list[LocalConsumer] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._pid = os.getpid()

    def producer(self, topic: str, *, together: bool = False) -> Producer:
        """A new producer; the topic is made if need be.

        Raises:
            UsageError: It is no topic's name.
            BrokerError: The topic's file can't be used.
        """
        name = topic_name(topic)
        with self._opened(), self._folder.errors():
            return self._writer.producer(name)

    def consumer(self, topics: Sequence[str], subscription: str, share: Share, queue_size: int) -> Consumer:
        """A new consumer.

        Raises:
            UsageError: A name is none, or the subscription is shared in another way.
            BrokerError: A file can't be used.
        """
        names: dict[str, str] = {}
        for topic in topics:
            names.setdefault(topic_name(topic), topic)
        subscription_name(subscription)
        if not names:
            raise UsageError("no topics: expected at least one to subscribe to")
        if queue_size < 1:
            raise UsageError(f"queue_size is {queue_size}: expected at least 1")
        with self._opened(), self._folder.errors():
            consumer = LocalConsumer(self._folder, self._lifeline, names, subscription, share, queue_size)
            self._consumers = [other for other in self._consumers if not other.is_closed]
            self._consumers.append(consumer)
        return consumer

    def topics(self) -> Sequence[TopicInfo]:
        """The topics there are, by name."""
        with self._session() as session:
            return sorted(self._folder.topics(session))

    def delete(self, topic: str, subscription: str | None) -> None:
        """Remove a topic, or a subscription of it.

        Raises:
            UsageError: There is none, or a consumer that lives has it.
        """
        name = topic_name(topic)
        with self._session() as session:
            if subscription is None:
                self._folder.delete_topic(session, name)
            else:
                self._folder.delete_subscription(session, name, subscription_name(subscription))

    def close(self) -> None:
        """Close every producer and consumer that is still open, then the connection."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        with contextlib.ExitStack() as closing:
            closing.callback(self._lifeline.let_go)
            for consumer in self._consumers:
                closing.callback(consumer.close)
            self._writer.close(_CLOSE_MS)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        """While the connection is open, and stays so."""
        if os.getpid() != self._pid:
            raise BrokerError(FORKED, self._folder.address)
        with self._lock:
            if self._is_closed:
                raise BrokerError(f"the connection to {self._folder.address} is closed", self._folder.address)
            yield

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        """Files for one call."""
        session = Session(_MOST_FILES)
        try:
            with self._opened(), self._folder.errors(), session:
                yield session
        finally:
            session.close()
