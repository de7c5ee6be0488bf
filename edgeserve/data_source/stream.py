"""`DataSource` sends what a stream yields."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from edgeserve._broker.base import Producer
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.in_flight import MAX_UNCONFIRMED, InFlight
from edgeserve._broker.outbox import Outbox
from edgeserve._broker.spool import Spool, SpooledProducer
from edgeserve._core.checks import check_count, checked_capture_ms
from edgeserve._core.clock import Clock, Now
from edgeserve._core.ids import ID_SIZE, random_ids
from edgeserve._core.ledger import Ledger, Stats
from edgeserve._core.step import Fate
from edgeserve._flow_ids import FlowId, check_fits, checked_header_size, id_of_flow
from edgeserve._interrupts import interruptibly
from edgeserve._log.folder import LogPath
from edgeserve._log.opening import open_log
from edgeserve._log.recording import LogTarget, SourceLog
from edgeserve._operator import End, Life, Operator
from edgeserve._payload import Gate, gated_out
from edgeserve._ports import Outputs
from edgeserve._sealing import Sealing
from edgeserve._task import check_callables, check_name
from edgeserve._topics import one_topic
from edgeserve._tracing import Makes, source_tracing
from edgeserve.address import Address, parse_address
from edgeserve.errors import UsageError
from edgeserve.routing.store import PayloadStore, check_store

_IDS_AT_ONCE = 64
_SPOOL_BYTES = 1 << 30
STORE_ABOVE_BYTES = 32 * 1024

Overflow = Literal["block", "drop_oldest", "spool"]


class DataSource(Operator[bytes]):
    """Sends each item of a stream as an example.

    `next()` takes one item and returns the bytes that were sent, or None if the item was None or the gate dropped
    it; it raises `StopIteration` when the stream ends. Sending does not wait for the broker: a failure is raised by
    a later step or by `close()`. An item that the stream yields after `close()` is not sent.

    Args:
        stream: Any iterable, infinite ones too.
        pulsar_node: The broker; None for the local one.
        source_id: This source's name, at most 16 bytes of UTF-8: the parameter of the task that its examples go to.
        gate: Called on each item; bytes-like or str (as UTF-8) is sent, None drops the item. None: items are sent
            as they are.
        topic: The topic to send to.
        log_path: A folder for the source's replay log, or a `LogFolder`, which also bounds it; None: no log.
        log_filename: What its files' names begin with; None for this source's name and the time.
        log_verbose: Whether payloads are logged as well, for when the log is to be run again with another task.
        event_time: Called on each item for its capture time, ms since the epoch; None: the time at which the stream
            yielded it.
        flow_id: Called on each item for the id of the flow it is of, by which a cascade matches it with what asks about
            it: bytes, str (as UTF-8) or int (its decimal digits). None: there are no flows.
        header_size: The most bytes that a flow id has; None for 32. NULs at its end are padding, and not part of it.
        overflow: What happens when the broker can't keep up, or is away. `'block'`: sending waits; `'drop_oldest'`:
            what has waited longest is dropped, and counted as evicted; `'spool'`: everything is written to this
            machine's disk first, and from there to the broker, in order, also by the next run of this source; the
            broker need not be there at the start.
        max_unconfirmed: How many examples may be on their way, beyond which the broker can't keep up (and at most
            64 MiB of them). With `'drop_oldest'`, the newest waits besides.
        spool_path: The folder of the spool; None for `spool` in `$EDGESERVE_HOME`, else in the user's data folder.
        spool_max_bytes: What the spool may hold, 1 MiB or more; beyond it sending waits.
        packing: Whether examples that had to wait for the broker leave together in one message, which is several
            times as fast; False sends each as a message of its own, as the research prototype did. None: only those
            without a flow id, as a message can have but one, by which replicas of a model share the topic.
        store: Where payloads are kept, so that only their URLs travel (lazy data routing); None sends them whole.
        store_above_bytes: What is no larger than this travels whole all the same, which costs less.
        clock: Where time is read; None for the machine's clocks.
        close_timeout_ms: How long `close()` waits for the broker's confirmations.

    Raises:
        UsageError: An argument is wrong; the message says which, and what was expected.
        BrokerError, BrokerUnreachable: The broker can't be used.
        PayloadNotStored: Raised by a step whose payload the store has no room for; its item is not sent.
    """

    _sealing: Sealing | None = None
    """What signs payloads, where there is a key."""

    def __init__(
        self,
        stream: Iterable[Any],
        pulsar_node: Address,
        source_id: str,
        gate: Gate | None = None,
        topic: str = "src",
        log_path: LogPath = None,
        log_filename: str | None = None,
        *,
        log_verbose: bool = False,
        event_time: Callable[[Any], float] | None = None,
        flow_id: Callable[[Any], FlowId] | None = None,
        header_size: int | None = None,
        overflow: Overflow = "block",
        max_unconfirmed: int = MAX_UNCONFIRMED,
        spool_path: str | None = None,
        spool_max_bytes: int = _SPOOL_BYTES,
        packing: bool | None = None,
        store: PayloadStore | None = None,
        store_above_bytes: int = STORE_ABOVE_BYTES,
        clock: Clock | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        op_from = check_name(source_id, "source_id")
        topic = one_topic(topic)
        if not isinstance(stream, Iterable):
            raise UsageError(f"the stream is a {type(stream).__name__}: expected something to iterate over")
        check_callables(gate=gate, event_time=event_time, flow_id=flow_id)
        if overflow not in ("block", "drop_oldest", "spool"):
            raise UsageError(f"overflow is {overflow!r}: expected 'block', 'drop_oldest' or 'spool'")
        super().__init__(source_id, Life(clock, None, close_timeout_ms))
        check_count("store_above_bytes", store_above_bytes, least=0)
        check_store(store)
        self._flow_id = flow_id
        self._outputs = Outputs(
            topic,
            op_from,
            packing,
            header_size=0 if flow_id is None else checked_header_size(header_size),
            is_shared_by_flow=True,
        )
        self._store = store
        self._store_above_bytes = store_above_bytes
        self._ids: list[bytes] = []
        self._unstored: deque[tuple[Sequence[bytes], Exception]] = deque()
        self._gate = gate
        self._event_time = event_time
        self._ledger = Ledger()
        self._door = threading.Lock()
        self._is_in_stream = False
        self._is_abandoned = False
        self._drops = overflow == "drop_oldest"
        if overflow != "spool" and (spool_path is not None or spool_max_bytes != _SPOOL_BYTES):
            raise UsageError(f"spool_path and spool_max_bytes are for overflow='spool', and it is {overflow!r}")
        limits = InFlight(max_examples=max_unconfirmed)
        spool = Spool(spool_path, spool_max_bytes)
        with self._parts as opening:  # closes what is open already when the rest fails
            opening.callback(self._tell_the_end)  # last: what the others do is counted
            if overflow == "spool":
                producer: Producer = SpooledProducer(spool, pulsar_node, topic, source_id)
                opening.callback(producer.close, 0)
                address = str(spool.address)
            else:
                lease = ConnectionLease(pulsar_node)
                opening.callback(lease.close)
                producer, address = (
                    lease.connection.producer(topic, together=not self._outputs.may_pack),
                    str(lease.address),
                )
            self._outbox: Outbox[bytes] = Outbox(
                producer,
                address,
                self._confirmed,
                on_dropped=self._dropped if self._drops else None,
                on_failed=self._failed,
                packing=self._outputs.may_pack,
                marks=self._outputs.marks,
                limits=limits,
            )
            opening.callback(self._close_flushed, self._outbox)
            self._open_log(LogTarget(log_path, log_filename, log_verbose))
            if (tracing := source_tracing(source_id)) is not None:
                self._tell(tracing)
            self._made: Makes = self._outputs.made if tracing is None else tracing.made_by(self._outputs)
            self._parts = opening.pop_all()
        self._next_item = partial(next, iter(stream))
        self._opened(f"sends to {topic} of {parse_address(pulsar_node)}", (), (topic,), lambda: 0)

    @property
    def stats(self) -> Stats:
        """What it took from its stream, what became of that, and what it sent; also after `close()`."""
        outbox = self._outbox
        return self._ledger.stats(sent=outbox.sent, unconfirmed=outbox.unconfirmed, sent_bytes=outbox.sent_bytes)

    def _open_log(self, target: LogTarget) -> None:
        topics_out = (self._outputs.topic,)
        writer = open_log(target, self, self._clock, topics_out=topics_out, left_ms=self._left_to_close_ms)
        if writer is not None:
            self._tell(SourceLog(writer, self._clock, payloads=target.verbose))

    def _stop_waiting(self) -> None:
        self._outbox.stop()
        if self._sealing is not None:
            self._sealing.stop()

    def _abandon_step(self) -> bool:
        with self._door:
            self._is_abandoned |= self._is_in_stream
            return self._is_abandoned

    def _step(self) -> bytes | End | None:
        if self._outbox.has_failed:
            self._tell_unstored()
            self._outbox.raise_failure()
        self._is_in_stream = True
        try:
            item = interruptibly(self._next_item, End.OF_STREAM)
        finally:
            with self._door:
                self._is_in_stream = False
        if item is End.OF_STREAM or self._is_abandoned:
            return End.OF_STREAM
        now = self._clock.now()
        self._ledger.take_in()
        try:
            payload = self._send(item, now) if item is not None else None
        except BaseException as error:
            self._settle_unsent(Fate.FAILED, error)  # an item can't be taken from its stream again
            raise
        if payload is None:
            self._settle_unsent(Fate.GATED)
        elif not self._drops:  # then it may yet be dropped
            self._ledger.settle_some(1, Fate.USED)
        return payload

    def _send(self, item: Any, now: Now) -> bytes | None:
        """Send an item, unless the gate drops it. The payload as it travels."""
        payload = gated_out(self._gate, item, "gate")
        if payload is None:
            return None
        capture_ms = now.wall_ms
        if self._event_time is not None:
            capture_ms = checked_capture_ms(interruptibly(self._event_time, item))
        flow_id = b"" if self._flow_id is None else id_of_flow(interruptibly(self._flow_id, item))
        example_id, is_url = self._new_id(), False
        if self._store is not None or self._sealing is not None:
            payload, is_url = self._travelling(payload, example_id, capture_ms, flow_id)
        example = self._made(example_id, payload, capture_ms, flow_id=flow_id, is_url=is_url)
        self._outbox.send(example, example_id)
        if (observer := self._observer) is not None:
            observer.sent(example_id, capture_ms, now.steady_ms, payload, flow_id, is_url=is_url)
        return payload

    def _settle_unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        self._ledger.settle_some(1, fate)
        if (observer := self._observer) is not None:
            observer.unsent(fate, error)

    def _travelling(self, payload: bytes, example_id: bytes, capture_ms: int, flow_id: bytes) -> tuple[bytes, bool]:
        """What is sent of a payload, and whether that is but its URL."""
        if self._sealing is not None:
            return self._sealing.seal(payload, example_id, capture_ms), False
        if self._store is None or len(payload) <= self._store_above_bytes:
            return payload, False
        check_fits(flow_id, self._outputs.header_size)  # before its payload is stored
        return self._store.put(payload).encode("ascii"), True

    def _new_id(self) -> bytes:
        if not self._ids:
            self._ids = random_ids(os.urandom(_IDS_AT_ONCE * ID_SIZE))
        return self._ids.pop()

    def _confirmed(self, ids: Sequence[bytes]) -> None:
        if self._drops:
            self._ledger.settle_some(len(ids), Fate.USED)

    def _failed(self, ids: Sequence[bytes], error: Exception) -> None:
        if self._drops:
            self._ledger.settle_some(len(ids), Fate.FAILED)
        self._unstored.append((ids, error))  # the broker's thread is here; the one that steps tells of it

    def _dropped(self, ids: Sequence[bytes]) -> None:
        self._ledger.settle_some(len(ids), Fate.EVICTED)
        if ids and (observer := self._observer) is not None:
            observer.withdrawn(ids, Fate.EVICTED)

    def _tell_unstored(self) -> None:
        while self._unstored:
            ids, error = self._unstored.popleft()
            if (observer := self._observer) is not None:
                observer.withdrawn(ids, Fate.FAILED, error)

    def _tell_the_end(self) -> None:
        self._tell_unstored()
        super()._tell_the_end()
