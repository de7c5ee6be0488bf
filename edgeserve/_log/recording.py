"""Turns what an operator does into the records of its replay log.

The steps call these methods, and they cost a step as little as can be: they read what is there, and leave the rest to
the thread that writes and to whoever reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgeserve._core.asking import Ask
from edgeserve._core.clock import Clock, Now, steady_ms_of, steady_s_of
from edgeserve._core.ids import ID_SIZE
from edgeserve._core.ledger import Stats
from edgeserve._core.observing import Observer
from edgeserve._core.reasons import malformed_reason, reason_of, shortened
from edgeserve._core.step import Decision, Example, Fate, Job, Outcome
from edgeserve._log.folder import LogPath
from edgeserve._log.records import (
    ANEW,
    ARRIVED,
    ASKED,
    DECIDED,
    ENDED,
    FETCHED,
    GATE_RAISED,
    GIVEN_UP,
    RAN,
    SENT,
    SENT_MORE,
    SERVED,
    SETTLED,
    UNSENT,
    WITHDRAWN,
    Sent,
    Served,
)
from edgeserve._log.writer import EXAMPLE_BYTES, RECORD_BYTES

_NO_ID = bytes(ID_SIZE)
_FIRST = (0,)


class Records(Protocol):
    """What takes records.

    Attributes:
        most_fields: How long a list of short records may get; beyond that they are lost.
    """

    most_fields: int

    def add(self, record: Sequence[Any], size: int = RECORD_BYTES) -> None:
        """Take a record. `size`: about how many bytes it takes in memory."""

    def many(self, kind: int, width: int) -> list[Any]:
        """A list for the fields of records that are nothing else."""

    def lose(self) -> None:
        """Count a record that found no room in such a list."""

    def close(self, last: Sequence[Any]) -> None:
        """Take the last one."""


@dataclass(frozen=True)
class LogTarget:
    """What an operator's arguments say about its log.

    Attributes:
        path: The folder; None for no log.
        filename: What the files' names begin with; None for the operator's name and the time.
        verbose: Whether payloads are logged.
    """

    path: LogPath = None
    filename: str | None = None
    verbose: bool = False


class StepLog(Observer):
    """Records the steps of an operator that receives.

    Args:
        records: What takes the records.
        clock: The operator's.
        payloads: Whether payloads are recorded.
        at_once: Whether the operator serves what arrives at once, and asks no join.
        slot_of: The broker's slot of a flow, where slots matter.
    """

    def __init__(
        self,
        records: Records,
        clock: Clock,
        *,
        payloads: bool,
        at_once: bool,
        slot_of: Callable[[bytes], int] | None = None,
    ) -> None:
        self._records = records
        self._add = records.add
        self.steady_ms = steady_ms_of(clock)
        self._payloads = payloads
        self._steady_s = steady_s_of(clock)
        self._at_once = at_once
        self._is_short = at_once and not payloads
        self._served = records.many(SERVED, len(Served._fields))
        self._most_fields = records.most_fields
        self._slot_of = slot_of
        self._count = 0
        self._job: Job | None = None
        self._start_s: float | None = None
        self._called_s: float | None = None
        # What the task runs on. Not the job, which would keep the payloads until the next one.
        self._running: Sequence[Example] = ()
        # Of a batch that is run in parts, those that have returned: with when they started, and for how long they
        # fetched. Which of them something came of is said in the end.
        self._parts: list[tuple[Sequence[Example], float, float]] = []

    def received(self, examples: Sequence[Example]) -> None:
        """The examples of one message were opened."""
        first = self._count
        self._count = first + len(examples)
        parcel = examples[0].parcel
        if parcel is None:
            raise RuntimeError(f"{examples[0]} came in no message")
        delivery = parcel.delivery
        # What came before the log was opened has no such time.
        received_ms = delivery.received_steady_ms or self.steady_ms()
        message = (ARRIVED, received_ms, delivery.topic, delivery.publish_ms, first, parcel.is_pack)
        if len(examples) == 1:
            self._received_one(examples[0], first, message)
            return
        for number, example in enumerate(examples, first):
            example.number = number
        sources = [example.source for example in examples]
        flow_ids = [example.header for example in examples]
        has_flows = any(flow_ids)
        sizes = [len(example.data) for example in examples]
        record = (
            *message,
            b"".join([example.id or _NO_ID for example in examples]),
            [example.capture_ms for example in examples],
            sources[0] if sources.count(sources[0]) == len(sources) else sources,
            flow_ids if has_flows else None,
            sizes,
            [place for place, example in enumerate(examples) if example.is_url] or None,
            [bytes(example.value) for example in examples] if self._payloads else None,
            [self._slot_of(flow_id) for flow_id in flow_ids] if self._slot_of is not None else None,
        )
        size = RECORD_BYTES + EXAMPLE_BYTES * len(examples)
        if has_flows:
            size += sum(map(len, flow_ids))
        if self._payloads:
            size += sum(sizes)
        self._add(record, size)

    def _received_one(self, example: Example, number: int, message: tuple[Any, ...]) -> None:
        """The same without lists, for what comes in messages of its own."""
        example.number = number
        flow_id, size = example.header, len(example.data)
        record = (
            *message,
            example.id or _NO_ID,
            (example.capture_ms,),
            example.source,
            (flow_id,) if flow_id else None,
            (size,),
            _FIRST if example.is_url else None,
            (bytes(example.value),) if self._payloads else None,
            (self._slot_of(flow_id),) if self._slot_of is not None else None,
        )
        self._add(record, RECORD_BYTES + size if self._payloads else RECORD_BYTES)

    def settled(self, example: Example, fate: Fate) -> None:
        """An arrival was settled before a join saw it."""
        error = None
        if example.malformed is not None:
            error = shortened(malformed_reason(example.malformed))
        self._add((SETTLED, example.number, fate.value, self.steady_ms(), error), RECORD_BYTES + len(error or ""))

    def gate_raised(self, example: Example, error: BaseException) -> None:
        """The gate of an arrival has raised."""
        reason = shortened(reason_of(error))
        self._add((GATE_RAISED, example.number, self.steady_ms(), reason), RECORD_BYTES + len(reason))

    def decided(self, arrival: Example | None, now: Now, decision: Decision) -> None:
        """A join decided."""
        job = decision.job
        self._job = job
        self._start_s = None
        if self._parts:
            self._parts.clear()
        fates, given_back = decision.fates, decision.given_back
        numbers = len(fates) + len(given_back) + (len(job.examples) if job is not None else 0)
        self._add(
            (
                DECIDED,
                arrival.number if arrival is not None else None,
                now.wall_ms,
                now.steady_ms,
                [(example.number, fate.value) for example, fate in fates],
                [[example.number for example in unit.values()] for unit in job.units] if job is not None else None,
                [example.number for example in given_back],
                decision.wake_steady_ms,
                decision.look_steady_ms,
            ),
            RECORD_BYTES + EXAMPLE_BYTES * numbers,
        )

    def starts(self, job: Job) -> None:
        """The task is about to run, and its payloads to be fetched. Again and again, where it is tried again."""
        if not self._at_once:
            if self._start_s is not None:
                fetch_s = self._called_s - self._start_s if self._called_s is not None else 0.0
                self._parts.append((self._running, self._start_s, fetch_s))
            self._running = job.examples
        self._called_s = None
        self._start_s = self._steady_s()

    def fetched(self, example: Example, payload: Any) -> None:
        """A payload was fetched for the task."""
        self._called_s = self._steady_s()
        if self._payloads and isinstance(payload, bytes):
            self._add((FETCHED, example.number, payload), RECORD_BYTES + len(payload))

    def ran(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """The task has returned, and its gates with it."""
        if not self._is_short or self._called_s is not None or not outcomes[0].is_satisfied:
            self._has_run(job, outcomes)
            return
        served, outcome = self._served, outcomes[0]
        if len(served) >= self._most_fields:
            self._records.lose()
            return
        number, payload = job.examples[0].number, outcome.payload
        size = 0 if payload is None else len(payload)
        served.extend((number, self._start_s, self._steady_s(), outcome.output_id, size))

    def _has_run(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        start_ms, fetch_ms, finish_ms = self._times_ms()
        if self._parts:
            start_ms, fetch_ms = self._since_first_part(outcomes, start_ms, fetch_ms)
        outputs = [
            (
                outcome.output_id,
                outcome.port,
                len(outcome.payload or b""),
                None if outcome.examples is job.examples else [example.number for example in outcome.examples],
                outcome.payload if self._payloads else None,
                outcome.is_satisfied,
            )
            for outcome in outcomes
        ]
        number = job.examples[0].number if self._at_once else None
        size = RECORD_BYTES + EXAMPLE_BYTES * (len(job.examples) + len(outputs))
        if self._payloads:
            size += sum([output[2] for output in outputs])
        self._add((RAN, number, start_ms, fetch_ms, finish_ms, None, None, outputs), size)

    def _since_first_part(self, outcomes: Sequence[Outcome], start_ms: float, fetch_ms: float) -> tuple[float, float]:
        """When the first part of a batch started that something came of, and how long that and those after it fetched.

        What is given are those of the last one.
        """
        parts, self._parts = self._parts, []
        first = outcomes[0].examples[0] if outcomes else None
        if first in self._running:
            return start_ms, fetch_ms
        for at, (part, part_start_s, _) in reversed(list(enumerate(parts))):
            if first in part:
                return 1000 * part_start_s, fetch_ms + 1000 * sum(fetch_s for *_, fetch_s in parts[at:])
        return start_ms, fetch_ms

    def _times_ms(self) -> tuple[float, float, float]:
        """When the run of the task that is over started, how long its fetches took, and the time."""
        finish_s = self._steady_s()
        start_s = self._start_s if self._start_s is not None else finish_s
        fetch_s = self._called_s - start_s if self._called_s is not None else 0.0
        self._start_s = None
        return 1000 * start_s, 1000 * fetch_s, 1000 * finish_s

    def raised(self, job: Job, error: BaseException) -> None:
        """The task, its fetches or its gates have raised."""
        start_ms, fetch_ms, finish_ms = self._times_ms()
        reason = shortened(reason_of(error))
        number = job.examples[0].number if self._at_once else None
        is_other = job is not self._job and not self._at_once
        numbers = [example.number for example in job.examples] if is_other else None
        size = RECORD_BYTES + EXAMPLE_BYTES * len(job.examples) + len(reason)
        self._add((RAN, number, start_ms, fetch_ms, finish_ms, reason, numbers, ()), size)

    def gave_up(self, examples: Sequence[Example], fate: Fate, reason: str, forgotten: Sequence[Example]) -> None:
        """Inputs were given up after an error, and the join uses some of them no more."""
        reason = shortened(reason)
        self._add(
            (
                GIVEN_UP,
                [example.number for example in examples],
                fate.value,
                reason,
                [example.number for example in forgotten],
                self.steady_ms(),
            ),
            RECORD_BYTES + EXAMPLE_BYTES * (len(examples) + len(forgotten)) + len(reason),
        )

    def withdrawn(self, ids: Sequence[bytes], fate: Fate | None, error: BaseException | None = None) -> None:
        """Outputs were not stored after all."""
        self._add(*_withdrawn(ids, fate, self.steady_ms(), error))

    def began_anew(self) -> None:
        """Others had the subscription meanwhile."""
        self._add((ANEW, self.steady_ms()))

    def asked(self, asked: Sequence[bytes], now: Now, decision: Decision) -> None:
        """Other replicas have asked for what is held."""
        given_back = [example.number for example in decision.given_back]
        asks = [ask for ask in map(Ask.decode, asked) if ask is not None] if self._slot_of is not None else ()
        slots = {ask.flow_id: self._slot_of(ask.flow_id) for ask in asks} if self._slot_of is not None else {}
        size = RECORD_BYTES + EXAMPLE_BYTES * (len(given_back) + len(slots)) + sum(map(len, asked))
        self._add((ASKED, list(asked), slots, now.wall_ms, now.steady_ms, given_back), size)

    def close(self, stats: Stats) -> None:
        """The operator was closed."""
        self._records.close(_ended(self.steady_ms(), stats))


class SourceLog(Observer):
    """Records what a source sends.

    Args:
        records: What takes the records.
        clock: The operator's.
        payloads: Whether payloads are recorded.
    """

    def __init__(self, records: Records, clock: Clock, *, payloads: bool) -> None:
        self._records = records
        self._add = records.add
        self.steady_ms = steady_ms_of(clock)
        self._steady_s = steady_s_of(clock)
        self._payloads = payloads
        self._sent = records.many(SENT, len(Sent._fields))
        self._most_fields = records.most_fields
        self._count = 0

    def sent(
        self, example_id: bytes, capture_ms: int, taken_ms: float, payload: bytes, flow_id: bytes, *, is_url: bool
    ) -> None:
        """An example was handed over to be sent."""
        number = self._count
        self._count = number + 1
        sent = self._sent
        if len(sent) >= self._most_fields:
            self._records.lose()
            return
        sent.extend((number, example_id, capture_ms, taken_ms, self._steady_s(), len(payload)))
        if flow_id or is_url or self._payloads:
            logged, size = (payload, RECORD_BYTES + len(payload)) if self._payloads else (None, RECORD_BYTES)
            self._add((SENT_MORE, number, flow_id, is_url, logged), size)

    def unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        """An item was dropped by the gate, or something raised."""
        number = self._count
        self._count = number + 1
        reason = _reason(error)
        self._add((UNSENT, number, fate.value, self.steady_ms(), reason), RECORD_BYTES + len(reason or ""))

    def withdrawn(self, ids: Sequence[bytes], fate: Fate | None, error: BaseException | None = None) -> None:
        """Examples were not stored after all."""
        self._add(*_withdrawn(ids, fate, self.steady_ms(), error))

    def close(self, stats: Stats) -> None:
        """The source was closed."""
        self._records.close(_ended(self.steady_ms(), stats))


def _reason(error: BaseException | None) -> str | None:
    return None if error is None else shortened(reason_of(error))


def _withdrawn(
    ids: Sequence[bytes], fate: Fate | None, now_ms: float, error: BaseException | None
) -> tuple[tuple[Any, ...], int]:
    """The record, and about how many bytes it takes."""
    reason = _reason(error)
    record = (WITHDRAWN, list(ids), fate.value if fate is not None else "", now_ms, reason)
    return record, RECORD_BYTES + EXAMPLE_BYTES * len(ids) + len(reason or "")


def _ended(now_ms: float, stats: Stats) -> tuple[Any, ...]:
    fates = {fate.value: count for fate, count in stats.fates.items()}
    return (ENDED, now_ms, stats.received, stats.held, stats.sent, fates)
