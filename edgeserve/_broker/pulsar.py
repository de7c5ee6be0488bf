"""Apache Pulsar as our broker. The only module that imports its client."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import secrets
import socket
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from edgeserve._at_exit import Stage, at_exit
from edgeserve._broker import base, pulsar_consumer, pulsar_errors, pulsar_log, pulsar_topics
from edgeserve._broker.pulsar_admin import Admin
from edgeserve._broker.pulsar_asks import Asks, control_topic
from edgeserve._broker.pulsar_calls import Calls, RefusedError
from edgeserve._broker.pulsar_errors import Kind
from edgeserve._broker.pulsar_native import TopicConsumer, TopicProducer
from edgeserve._broker.pulsar_producer import Producer
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._logging import logger
from edgeserve.address import PulsarAddress
from edgeserve.errors import BrokerError, MissingExtra, UsageError

T = TypeVar("T")
_log = logger("broker.pulsar")

# Above what any outbox keeps in flight: a full queue would fail a send, and only in its callback.
_MAX_PENDING = 100_000
# A broker that is away must not hold up an exit for longer.
_CLOSE_MS = 3000
_COMING_BACK_MS = 300
# More than is ever sent together.
_MOST_BATCHED = 1000
_MOST_BATCHED_BYTES = 4 << 20
_LETTING_GO_MS = 20
# What is taken at a time while there is plenty: messages, bytes, and the ms for which so much is waited for.
_BACKLOG = (200, 4 << 20, 2)
# The client takes no less, and then sees to what is given back every third of it.
_REDELIVERY_MS = 100
# An ask is repeated by whoever waits, so those that cannot leave soon are let go of.
_MAX_PENDING_ASKS = 100
_ASK_TIMEOUT_MS = 1000
_ASKS_AHEAD = 100

_connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
_open_connections: set[_Connection] = set()


def connect(address: PulsarAddress) -> base.Connection:
    """A connection to the cluster. Nothing is sent yet: the first producer or consumer finds out who answers.

    Raises:
        MissingExtra: Pulsar's client is not installed.
        UsageError: The client refuses the address.
    """
    return _Connection(address, _client_library())


def _client_library() -> ModuleType:
    try:
        import pulsar
    except ImportError as error:
        raise MissingExtra(
            "an Apache Pulsar needs its client: pip install pulsar-client (pulsar_node=None needs none)"
        ) from error
    library: ModuleType = pulsar
    return library


class _Connection:
    def __init__(self, address: PulsarAddress, library: ModuleType) -> None:
        self.address = address
        self.library = library
        self._pid = os.getpid()
        self._admin = Admin(address)
        self._is_closed = False
        self._close_until_ms: float | None = None
        self._handles: weakref.WeakSet[Any] = weakref.WeakSet()
        self._open: weakref.WeakSet[Producer | pulsar_consumer.Consumer] = weakref.WeakSet()
        with pulsar_log.client_logger(library) as log:
            try:
                self.client = library.Client(address.url, logger=log, **_client_options(address, library))
            except (library.PulsarException, ValueError, RuntimeError) as error:
                raise UsageError(f"{address} is no address of an Apache Pulsar: {error}") from error
        self._calls = Calls(self.client._client, address.connection_timeout_ms)
        self.client._client = self._calls
        self._handles.add(self.client)
        _connections.add(self)
        _open_connections.add(self)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a copy in a child of fork, where the threads that would answer are not."""
        return self._pid != os.getpid()

    @property
    def close_ms(self) -> int:
        """How long closing one thing may take; all that the connection closes share one limit."""
        if self._close_until_ms is None:
            return _CLOSE_MS
        return max(_COMING_BACK_MS, round(self._close_until_ms - steady_ms()))

    def producer(self, topic: str, *, together: bool = False) -> base.Producer:
        _check_name("topic", topic)
        what = f"a producer for topic {topic!r}"
        single = self._asked(what, partial(self._new_producer, topic, batching=False))
        batching = self._asked(what, partial(self._new_producer, topic, batching=True)) if together else None
        sends = Producer(self, topic, TopicProducer(single, batching, self.library), self.library.Result.Ok)
        self._open.add(sends)
        return sends

    def _new_producer(self, topic: str, *, batching: bool) -> Any:
        producer = self.client.create_producer(
            topic,
            batching_enabled=batching,  # where it is, each batch is flushed, so that nothing waits
            batching_max_messages=_MOST_BATCHED,
            batching_max_allowed_size_in_bytes=_MOST_BATCHED_BYTES,
            send_timeout_millis=0,  # it would fail what a longer outage holds up
            max_pending_messages=_MAX_PENDING,
            max_pending_messages_across_partitions=_MAX_PENDING,
            block_if_queue_full=False,
        )
        self._handles.add(producer)
        return producer

    def consumer(
        self, topics: Sequence[str], subscription: str, share: base.Share, queue_size: int
    ) -> pulsar_consumer.Consumer:
        if not topics or len(set(topics)) != len(topics) or isinstance(topics, str):
            raise UsageError(f"a consumer needs one or more different topics, and was given {topics!r}")
        if queue_size < 1:
            raise UsageError(f"queue_size is {queue_size}: expected 1 or more")
        _check_name("subscription", subscription)
        for topic in topics:
            _check_name("topic", topic)
        what = f"subscription {subscription!r} of {', '.join(map(repr, topics))}"
        take = partial(self._subscribe_all, list(topics), subscription, share, max(1, queue_size // len(topics)))
        consumer: pulsar_consumer.Consumer
        if share is base.Share.STANDBY:
            take_or_stand_by = partial(self._unless_busy, take)
            held = self._asked(what, take_or_stand_by)
            if held is None:
                self._refuse_other_share(topics, subscription)
            take_over = partial(self._asked, what, take_or_stand_by)
            consumer = pulsar_consumer.StandbyConsumer(topics, held, take_over, subscription)
        else:
            consumer = pulsar_consumer.SharedConsumer(topics, self._asked(what, take), subscription)
        self._open.add(consumer)
        return consumer

    def _subscribe_all(
        self, topics: list[str], subscription: str, share: base.Share, queue_size: int
    ) -> pulsar_topics.Held:
        """Subscribe to each topic, in one order for all who do; to all of them or to none."""
        library = self.library
        types = {
            base.Share.MESSAGE: library.ConsumerType.Shared,
            base.Share.KEY: library.ConsumerType.KeyShared,
            base.Share.STANDBY: library.ConsumerType.Exclusive,
        }
        # Keys are divided by the consumers' names: with one name over all topics a key has one consumer.
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        made: list[pulsar_topics.TopicConsumer] = []
        asks: Asks | None = None
        try:
            if share is base.Share.KEY and len(topics) > 1:
                asks = self._new_asks(topics, subscription, name)
            for topic in sorted(topics):
                consumer = self.client.subscribe(
                    topic,
                    subscription,
                    consumer_type=types[share],
                    initial_position=library.InitialPosition.Earliest,
                    receiver_queue_size=queue_size,
                    consumer_name=name,
                    negative_ack_redelivery_delay_ms=_REDELIVERY_MS,
                    batch_receive_policy=library.ConsumerBatchReceivePolicy(
                        min(queue_size, _BACKLOG[0]), *_BACKLOG[1:]
                    ),
                )
                self._handles.add(consumer)
                made.append(TopicConsumer(topic, consumer, self))
        except BaseException:
            for taken in made:
                taken.close()
            if asks is not None:
                asks.close()
            raise
        return pulsar_topics.held(made, share=share, asks=asks)

    def _new_asks(self, topics: Sequence[str], subscription: str, name: str) -> Asks:
        """How the consumers of a subscription by key over several topics ask each other for messages.

        Raises:
            BrokerError: The broker refuses the topic for it.
        """
        topic = control_topic(topics, subscription)
        try:
            consumer = self.client.subscribe(topic, name, receiver_queue_size=_ASKS_AHEAD, consumer_name=name)
            self._handles.add(consumer)
            receives = TopicConsumer(topic, consumer, self)
            try:
                producer = self.client.create_producer(
                    topic, send_timeout_millis=_ASK_TIMEOUT_MS, max_pending_messages=_MAX_PENDING_ASKS
                )
            except BaseException:
                receives.close()
                raise
        except RefusedError as error:
            if pulsar_errors.KINDS.get(error.name) is Kind.UNREACHABLE:
                raise
            raise BrokerError(
                f"subscription {subscription!r} of several topics needs the non-persistent topic {topic!r}, over which "
                f"its consumers ask each other for messages, and the broker refuses it: Pulsar says {error.name}. It "
                "must allow non-persistent topics, and let them be made",
                str(self.address),
            ) from error
        self._handles.add(producer)
        return Asks(topic, receives, TopicProducer(producer, None, self.library), lambda: self.close_ms)

    def _unless_busy(self, take: Callable[[], pulsar_topics.Held]) -> pulsar_topics.Held | None:
        try:
            return take()
        except RefusedError as error:
            if error.name == pulsar_errors.BUSY:
                return None
            raise

    def _refuse_other_share(self, topics: Sequence[str], subscription: str) -> None:
        # Pulsar says the same for a subscription that has its consumer and for one that is shared in another way.
        for topic in topics:
            shared_as = self._admin.subscription_type(topic, subscription)
            if shared_as not in (None, "Exclusive", "None"):
                raise UsageError(
                    f"subscription {subscription!r} of {topic!r} is shared in another way already ({shared_as}): give "
                    "this one another name, or remove it"
                )

    def topics(self) -> Sequence[base.TopicInfo]:
        return self._admin.topics()

    def delete(self, topic: str, subscription: str | None) -> None:
        self._admin.delete(topic, subscription)

    def forget(self, consumer: Any) -> None:
        """Have the client's own list of consumers let go of a closed one, as its blocking `close` would."""
        with contextlib.suppress(ValueError):
            self.client._consumers.remove(consumer)

    def never_free(self) -> None:
        """Keep what belongs to Pulsar's client until the process ends: what frees it would hang, or abort."""
        for handle in list(self._handles):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))

    def close(self) -> None:
        if self._is_closed or self.is_inherited:
            return
        self._is_closed = True
        self._close_until_ms = steady_ms() + _CLOSE_MS
        self._calls.end()
        for still_open in list(self._open):
            if isinstance(still_open, Producer):
                still_open.close(self.close_ms)
            else:
                still_open.close()
                still_open.join(self.close_ms)
        try:
            # The form that blocks, as it alone waits for the client's threads.
            self.client.close()
        except self.library.PulsarException as error:
            _log.debug("closing the connection to %s: %s", self.address, error)
        if not self._calls.answered_within(_COMING_BACK_MS):
            self.never_free()
        _open_connections.discard(self)

    def _asked(self, what: str, function: Callable[[], T]) -> T:
        """What `function` returns, its errors translated."""
        if self._is_closed:
            raise BrokerError(f"{what}: the connection is closed", str(self.address))
        started_ms = steady_ms()
        try:
            return function()
        except RefusedError as error:
            raise self.translate(what, error.name, round(steady_ms() - started_ms)) from error
        except concurrent.futures.TimeoutError as error:
            raise self.translate(what, pulsar_errors.TIMEOUT, round(steady_ms() - started_ms)) from error
        except (TypeError, ValueError) as error:
            raise UsageError(f"{what}: Pulsar's client refuses it ({error})") from error

    def translate(self, what: str, name: str, waited_ms: int = 0) -> BaseException:
        """What stands for an error of Pulsar's client."""
        kind = pulsar_errors.KINDS.get(name)
        if kind is Kind.INTERRUPTED:
            return KeyboardInterrupt()
        if kind is Kind.UNREACHABLE:
            return pulsar_errors.unreachable(what, str(self.address), waited_ms, _probe(self.address))
        return pulsar_errors.translated(what, name, str(self.address), waited_ms)


def _close_all() -> None:
    # A client that is still open when the interpreter ends aborts the process.
    for connection in list(_open_connections):
        connection.close()
    if "pulsar" in sys.modules:
        # So does one of its threads that lets go of a callback of ours only then.
        pause_ms(_LETTING_GO_MS)
    pulsar_log.pass_on()


at_exit(Stage.CONNECTIONS, _close_all)


def _in_child_of_fork() -> None:
    for connection in list(_connections):
        connection.never_free()
    pulsar_log.in_child_of_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_of_fork)


def _client_options(address: PulsarAddress, library: ModuleType) -> dict[str, Any]:
    options: dict[str, Any] = {
        "operation_timeout_seconds": max(1, -(-address.connection_timeout_ms // 1000)),
        "connection_timeout_ms": address.connection_timeout_ms,
        "stats_interval_in_seconds": 0,
        "tls_validate_hostname": address.url.startswith("pulsar+ssl:"),
    }
    if address.tls_trust_certs_path is not None:
        options["tls_trust_certs_file_path"] = address.tls_trust_certs_path
    has_certificate = address.tls_certificate_path is not None and address.tls_private_key_path is not None
    if address.token is not None:
        options["authentication"] = library.AuthenticationToken(address.token)
        if has_certificate:
            options["tls_certificate_file_path"] = address.tls_certificate_path
            options["tls_private_key_file_path"] = address.tls_private_key_path
    elif has_certificate:
        options["authentication"] = library.AuthenticationTLS(
            address.tls_certificate_path, address.tls_private_key_path
        )
    return options


def _check_name(what: str, name: str) -> None:
    if not name or not name.isprintable() or len(name.encode("utf-8", "replace")) > 1000:
        raise UsageError(f"the broker refuses the {what} {name!r}: expected 1 to 1000 printable characters")
    if what == "topic" and name.startswith("non-persistent:"):
        raise UsageError(f"the topic {name!r} stores nothing: what is sent there can be lost")


def _probe(address: PulsarAddress) -> str:
    """What the first host of the address says to a plain connection, for the error's reader."""
    host = urlsplit(address.url).netloc.split(",")[0]
    parts = urlsplit(f"//{host}")
    try:
        port = parts.port or (6651 if address.url.startswith("pulsar+ssl:") else 6650)
        with socket.create_connection((parts.hostname or "", port), timeout=0.5):
            return "something listens there, but does not answer as a Pulsar would"
    except (OSError, ValueError) as error:
        return str(error)
