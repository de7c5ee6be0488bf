"""A spool: what a source sends is written to this machine's disk first, and from there to the broker, in order.

It is a topic of the local broker with one reader, which forwards. So it holds what it has accepted through an outage of
the broker, and through the death of the source, whose next run forwards the rest. Order is kept, but for sends that the
broker refuses: they are repeated, after what had followed them at once.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from edgeserve._broker.base import Confirmed, Consumer, Delivery, Message, Producer, Share
from edgeserve._broker.confirmations import ConfirmedTogether
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.marks import MARKED_PACK_FORM, PACK
from edgeserve._broker.shipping import message_of
from edgeserve._core import packs
from edgeserve._core.checks import check_count
from edgeserve._core.clock import steady_ms
from edgeserve._interrupts import raise_noted
from edgeserve._logging import Seldom, logger
from edgeserve.address import Address, LocalAddress, PulsarAddress, data_folder, parse_address
from edgeserve.errors import BrokerError, EdgeServeError, MissingExtra, PayloadTooLarge, UsageError

_log = logger("spool")

_FORWARDER = "forwarder"
_QUEUE_SIZE = 200
# Messages that were forwarded and are not confirmed yet; each may be a pack.
_MOST_UNDER_WAY = 16
_SLICE_MS = 100
_RETRY_MS = 1000
_LEAST_JOIN_MS = 300
_LEAST_BYTES = 1 << 20


@dataclass(frozen=True)
class Spool:
    """Where a source's examples are kept until the broker has them.

    Attributes:
        path: The folder; None for `spool` in the local broker's own.
        max_bytes: What it may hold of one source; beyond that a send waits.
    """

    path: str | None = None
    max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        check_count("spool_max_bytes", self.max_bytes)
        if self.max_bytes < _LEAST_BYTES:
            raise UsageError(f"spool_max_bytes is {self.max_bytes:,}: expected {_LEAST_BYTES:,} or more, to hold packs")

    @property
    def address(self) -> LocalAddress:
        """The local broker that holds it."""
        return LocalAddress(self.path if self.path is not None else str(data_folder() / "spool"), self.max_bytes)


class SpooledProducer:
    """A `Producer` that has stored a message when the spool has it, and forwards it when the broker is there.

    Args:
        spool: Where it is kept.
        pulsar_node: The broker.
        topic: The topic there.
        source: Who sends: another source of the same topic has a spool of its own.
    """

    def __init__(self, spool: Spool, pulsar_node: Address, topic: str, source: str) -> None:
        self.topic = topic
        self._target = parse_address(pulsar_node)
        self._lease = ConnectionLease(spool.address)
        digest = hashlib.sha256(repr((str(self._target), topic, source)).encode("utf-8", "replace")).hexdigest()[:8]
        name = f"{source}-{digest}"
        try:
            connection = self._lease.connection
            # The reader first: what nobody reads is not kept.
            self._consumer = connection.consumer([name], _FORWARDER, Share.STANDBY, _QUEUE_SIZE)
            self._producer = connection.producer(name)
        except BaseException:
            self._lease.close()
            raise
        self._forwarder = _Forwarder(self._consumer, self._target, topic)

    def send(self, message: Message, confirmed: Confirmed) -> None:
        """See `base.Producer`; what is confirmed is on this machine's disk.

        Raises:
            UsageError, MissingExtra: Nothing can ever be forwarded: the broker refuses the topic's name, say.
        """
        self._forwarder.raise_refusal()
        self._producer.send(message, confirmed)

    def send_together(self, messages: Sequence[Message], confirmed: Confirmed) -> None:
        """See `base.Producer`; the same errors as for `send`."""
        self._forwarder.raise_refusal()
        self._producer.send_together(messages, confirmed)

    def close(self, timeout_ms: int) -> None:
        """Wait until everything is on the disk, and, as far as the time allows, at the broker; the rest stays."""
        until_ms = steady_ms() + timeout_ms
        try:
            self._producer.close(timeout_ms)
            self._forwarder.close(max(0, int(until_ms - steady_ms())))
        finally:
            self._consumer.close()
            self._lease.close()


class _Forwarder:
    """The thread that forwards, over a connection that comes and goes."""

    def __init__(self, consumer: Consumer, target: PulsarAddress | LocalAddress, topic: str) -> None:
        self._consumer = consumer
        self._target = target
        self._topic = topic
        self._changed = threading.Condition()
        # What was received and is not at the broker yet, in order: another connection begins with it.
        self._unconfirmed: dict[str, Delivery] = {}
        self._under_way = 0
        self._has_failed = False
        # Whether there was nothing to receive, asked since `_asked` was last raised.
        self._is_idle = False
        self._asked = 0
        self._is_closing = False
        self._refusal: EdgeServeError | None = None
        self._gets_nothing = Seldom(_log)
        self._lost = Seldom(_log, logging.ERROR)
        self._is_cut_off = False
        self._thread = threading.Thread(target=self._run, name="edgeserve-spool", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_closing:
            try:
                self._connect_and_forward()
            except (UsageError, MissingExtra) as error:
                self._refusal = error
                _log.error("topic %r of %s: what is in the spool stays there: %s", self._topic, self._target, error)
                return
            except Exception as error:  # noqa: BLE001 - what is on the disk is forwarded as long as the process lives
                self._warn(error)
                _log.debug("topic %r of %s: while forwarding", self._topic, self._target, exc_info=True)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, _RETRY_MS / 1000)

    def raise_refusal(self) -> None:
        """Raise why nothing can be forwarded, whatever the broker's state, if so."""
        if self._refusal is not None:
            raise self._refusal

    def _warn(self, error: Exception) -> None:
        if not self._is_closing:
            self._is_cut_off = True
            self._gets_nothing.say(
                "topic %r of %s gets nothing now, what is sent is kept in the spool: %s: %s",
                self._topic,
                self._target,
                type(error).__name__,
                error,
            )

    def _connect_and_forward(self) -> None:
        """Forward until something fails, or the end.

        Raises:
            BrokerError: The broker is not there, or refuses.
        """
        with ExitStack() as closing:
            lease = ConnectionLease(self._target)
            closing.callback(lease.close)
            producer = lease.connection.producer(self._topic)
            closing.callback(producer.close, 0)
            with self._changed:
                self._under_way, self._has_failed = 0, False
            self._forward(producer)

    def _forward(self, producer: Producer) -> None:
        waiting = deque(self._unconfirmed.values())
        while not self._is_closing and not self._has_failed:
            if not waiting:
                asked = self._asked
                arrived = self._consumer.receive(_SLICE_MS)
                with self._changed:
                    self._is_idle = not arrived and asked == self._asked
                    self._unconfirmed.update((delivery.message_id, delivery) for delivery in arrived)
                    self._changed.notify_all()
                waiting.extend(arrived)
            elif self._has_room():
                self._send(producer, waiting.popleft())

    def _send(self, producer: Producer, delivery: Delivery) -> None:
        confirmed = partial(self._confirmed, delivery)
        message = Message(delivery.payload, delivery.event_ms, delivery.key, delivery.properties)
        try:
            producer.send(message, confirmed)
        except PayloadTooLarge as error:
            if PACK not in delivery.properties:
                self._give_up(error, confirmed)
                return
            # This broker takes less than others: one by one they may fit.
            entries = packs.unpack(delivery.payload, is_marked=delivery.properties[PACK] == MARKED_PACK_FORM)
            together = ConfirmedTogether(len(entries), confirmed)
            marks = {name: value for name, value in delivery.properties.items() if name != PACK}
            for entry in entries:
                try:
                    producer.send(message_of(entry, marks), together)
                except PayloadTooLarge as too_large:
                    self._give_up(too_large, together)

    def _give_up(self, error: PayloadTooLarge, confirmed: Confirmed) -> None:
        # It would hold up all that come after it, for ever.
        self._lost.say("topic %r of %s: an example is lost: %s", self._topic, self._target, error)
        confirmed(None)

    def _has_room(self) -> bool:
        with self._changed:
            if self._under_way >= _MOST_UNDER_WAY:
                self._changed.wait(_SLICE_MS / 1000)
                return False
            self._under_way += 1
            return True

    def _confirmed(self, delivery: Delivery, error: BrokerError | None) -> None:
        with self._changed:
            self._under_way -= 1
            if error is None:
                self._unconfirmed.pop(delivery.message_id, None)
            else:
                self._has_failed = True
            self._changed.notify_all()
        if error is not None:
            self._warn(error)
            return
        if self._is_cut_off:
            self._is_cut_off = False
            self._gets_nothing.over()
            _log.info("topic %r of %s gets what is in the spool again", self._topic, self._target)
        self._consumer.acknowledge([delivery])

    def _has_more(self) -> bool:
        return self._refusal is None and (bool(self._unconfirmed) or not self._is_idle)

    def close(self, timeout_ms: int) -> None:
        """Forward what there is, as far as the time allows."""
        until_ms = steady_ms() + timeout_ms
        with self._changed:
            if self._is_closing:
                return
            self._is_idle = False
            self._asked += 1
            while self._has_more() and (left_ms := until_ms - steady_ms()) > 0:
                self._changed.wait(min(_SLICE_MS, left_ms) / 1000)
                raise_noted()
            if self._has_more():
                _log.warning(
                    "topic %r: %s does not have everything yet; the rest is in the spool, for the next run of this "
                    "source",
                    self._topic,
                    self._target,
                )
            self._is_closing = True
            self._changed.notify_all()
        # It may be connecting, which has a limit of its own.
        self._thread.join(max(_LEAST_JOIN_MS, until_ms - steady_ms()) / 1000)
        self._lost.close()
