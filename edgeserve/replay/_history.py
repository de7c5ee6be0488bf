"""One run of an operator that receives, in memory: what is needed to run it again."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.plans import BatchPlan, ComputePlan, FlowPlan, Plan
from edgeserve._core.step import Example, Fate, Parcel
from edgeserve._log.head import Head
from edgeserve._log.reading import LoggedRun
from edgeserve._log.records import (
    KINDS,
    Anew,
    Arrived,
    Asked,
    Decided,
    Fetched,
    GateRaised,
    GivenUp,
    Lost,
    Output,
    Ran,
    Record,
    Served,
    ServedMany,
    Settled,
)
from edgeserve.errors import UsageError
from edgeserve.replay._wall import SAME_CLOCK_MS, Wall

_PLANS: Mapping[str, type[Any]] = {plan.kind: plan for plan in (ComputePlan, FlowPlan, BatchPlan)}

_PAYLOAD = Output._fields.index("payload")

Numbers = tuple[int, ...]
"""The numbers of the examples of one unit."""


class Arrival(NamedTuple):
    """One example as it arrived.

    Attributes:
        number: How many arrived before it.
        id: Its 16 bytes.
        source: What it comes from, or is for.
        flow_id: b"" if it has none.
        capture_ms: ms since the epoch.
        publish_ms: When it was sent, by the sender's clock.
        received_steady_ms: When the broker's client handed it over.
        size: Its bytes as it travelled.
        is_url: Whether its payload is a URL.
        is_in_pack: Whether others came in its message.
        payload: As it travelled; None if it was not logged.
        slot: The broker's slot of its flow, where that matters.
        topic: The topic it came on.
    """

    number: int
    id: bytes
    source: str
    flow_id: bytes
    capture_ms: int
    publish_ms: int
    received_steady_ms: float
    size: int
    is_url: bool
    is_in_pack: bool
    payload: bytes | None
    slot: int | None
    topic: str

    def example(self, parcel: Parcel, data: bytes) -> Example:
        """The example, as a step has it. `data` is as long as it is."""
        value = self.payload if self.payload is not None else b""
        example = Example(self.id, self.source, value, self.capture_ms, self.flow_id, parcel, data)
        example.number = self.number
        example.is_url = self.is_url
        return example


class Arrivals(Mapping[int, Arrival]):
    """What arrived, by number, made of the records when it is asked for: there may be millions."""

    def __init__(self) -> None:
        self._records: list[Arrived] = []
        self._first = array("q")
        self._count = 0

    def add(self, record: Arrived) -> None:
        """The examples of one more message."""
        self._records.append(record)
        self._first.append(record.first)
        self._count += len(record.captures_ms)

    def __getitem__(self, number: int) -> Arrival:
        at = bisect_right(self._first, number) - 1
        if at < 0 or number - self._first[at] >= len(self._records[at].captures_ms):
            raise KeyError(number)
        return _arrival(self._records[at], number - self._first[at])

    def __iter__(self) -> Iterator[int]:
        for record in self._records:
            yield from range(record.first, record.first + len(record.captures_ms))

    def __len__(self) -> int:
        return self._count


def _arrival(record: Arrived, place: int) -> Arrival:
    sources = record.sources
    return Arrival(
        record.first + place,
        record.ids[place * ID_SIZE : (place + 1) * ID_SIZE],
        sources if isinstance(sources, str) else sources[place],
        record.flow_ids[place] if record.flow_ids is not None else b"",
        record.captures_ms[place],
        record.publish_ms,
        record.received_steady_ms,
        record.sizes[place],
        record.urls is not None and place in record.urls,
        record.is_pack,
        record.payloads[place] if record.payloads is not None else None,
        record.slots[place] if record.slots is not None else None,
        record.topic,
    )


def record_of(fields_of_it: Sequence[Any]) -> Record:
    """A record as its class.

    Raises:
        UsageError: It is none.
    """
    try:
        record: Record = KINDS[fields_of_it[0]](*fields_of_it)
    except (IndexError, TypeError) as error:
        raise UsageError(f"a log has a record that is none: {fields_of_it!r:.80}") from error
    return record


class Serving(NamedTuple):
    """One run of the task that returned.

    Attributes:
        units: What it ran on: the numbers of the examples of each unit.
        start_steady_ms: When it started; of a batch with poison in it, when the last of that was found.
        duration_ms: How long it took from there, its fetches included.
    """

    units: Sequence[Sequence[int]]
    start_steady_ms: float
    duration_ms: float


class Moment(NamedTuple):
    """Both clocks of the moment at which some records were written.

    Attributes:
        wall_ms: ms since the epoch.
        steady_ms: The same moment on the steady clock.
        end: How many records there are up to these and with them.
    """

    wall_ms: int
    steady_ms: float
    end: int


@dataclass
class History:
    """What happened.

    Attributes:
        head: Of the log.
        plan: What made the operator's join.
        keeps_payloads: Whether payloads are kept: who runs no task needs none.
        records: The records, in order.
        moments: When they were written.
        arrivals: By number.
        fates_at_arrival: Of those that no join saw: malformed, duplicate, of an unknown source, gated, failed in
            a gate.
        errors: Why examples were given up, or are malformed, by number.
        held_at_arrival: Those that no join saw, and that are held: the gate raised, and so did the step.
        servings: The runs of the task that returned, in order.
        made: What came of that, by the numbers of what it was made from.
        failures: What the task raised on units that it never served, by the numbers of their examples.
        given_up: The numbers of what was given up after an error.
        given_back: The numbers of what the broker was to deliver again, to this operator or another one.
        fetched: Payloads that were fetched, by the number of the arrival.
        slots: The broker's slots of flows, where those matter.
        began_anew: Whether others had the subscription meanwhile.
        wall_offset_ms: What is added to steady times to have ms since the epoch, until the clock was first set.
    """

    head: Head
    plan: Plan
    keeps_payloads: bool = False
    records: list[Record] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    arrivals: Arrivals = field(default_factory=Arrivals)
    fates_at_arrival: dict[int, Fate] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    held_at_arrival: frozenset[int] = frozenset()
    servings: list[Serving] = field(default_factory=list)
    made: dict[Numbers, Output] = field(default_factory=dict)
    failures: dict[Numbers, str] = field(default_factory=dict)
    given_up: set[int] = field(default_factory=set)
    given_back: set[int] = field(default_factory=set)
    fetched: dict[int, bytes] = field(default_factory=dict)
    slots: dict[bytes, int] = field(default_factory=dict)
    began_anew: bool = False
    wall_offset_ms: float = 0.0

    _job: Sequence[Sequence[int]] = ()
    # What a join was asked about, or the task.
    _taken: set[int] = field(default_factory=set)
    _raised: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, run: LoggedRun, *, keeps_payloads: bool = False) -> History:
        """Read it.

        Raises:
            UsageError: It is the log of a source, a part of it is missing, or it was written by another version.
        """
        head = run.head
        name = f"the log of {head.operator!r}"
        if head.plan_kind not in _PLANS:
            raise UsageError(f"{name} is that of a {head.operator_class}, which joins nothing: nothing to run again")
        if not run.is_from_start:
            raise UsageError(f"{name} begins with part {head.part} or misses a part: it can't be run again")
        history = cls(head, plan_of(head), keeps_payloads)
        wall = Wall()
        for place, block in enumerate(run.blocks()):
            offset_ms = wall.meet(block)
            if place == 0 or abs(offset_ms - history.wall_offset_ms) <= SAME_CLOCK_MS:
                history.wall_offset_ms = offset_ms
            for each in block.records:
                history._take(record_of(each), name)
            history.moments.append(Moment(block.wall_ms, block.steady_ms, len(history.records)))
        if damaged := [file.path for file in run.files[:-1] if file.torn_bytes]:
            raise UsageError(f"{name} is damaged in {damaged[0]}: it can't be run again past that")
        history._settle_at_arrival()
        return history

    def _take(self, record: Record, name: str) -> None:
        if isinstance(record, Lost):
            raise UsageError(f"{name} misses records that the disk did not take: it can't be run again")
        if not self.keeps_payloads and self.head.has_payloads:
            record = without_payloads(record)
        self.records.append(record)
        handler = _HANDLERS.get(type(record))
        if handler is not None:
            handler(self, record)

    def _take_arrived(self, record: Arrived) -> None:
        self.arrivals.add(record)
        if record.slots is not None:
            self.slots.update(zip(record.flow_ids or [b""] * len(record.slots), record.slots, strict=True))

    def _take_settled(self, record: Settled) -> None:
        self.fates_at_arrival[record.number] = Fate(record.fate)
        if record.error is not None:
            self.errors.setdefault(record.number, record.error)

    def _take_decided(self, record: Decided) -> None:
        self._job = record.job or self._job
        self.given_back.update(record.given_back)
        if record.arrival is not None:
            self._taken.add(record.arrival)

    def _take_served(self, record: ServedMany) -> None:
        for served in served_in(record.fields):
            unit = (served.number,)
            self._taken.add(served.number)
            start_ms, finish_ms = 1000 * served.start_steady_s, 1000 * served.finish_steady_s
            self.servings.append(Serving((unit,), start_ms, finish_ms - start_ms))
            self.made[unit] = Output(served.output_id, 0, served.size, None, None)
            self.failures.pop(unit, None)

    def _take_ran(self, ran: Ran) -> None:
        outputs = outputs_of(ran)
        units = units_of(ran, outputs, self._job)
        if ran.arrival is not None:
            self._taken.add(ran.arrival)
        if ran.error is not None:
            self.failures.update({tuple(unit): ran.error for unit in units})
            return
        if self.failures:
            for unit in units:
                self.failures.pop(tuple(unit), None)
        self.servings.append(Serving(units, ran.start_steady_ms, ran.finish_steady_ms - ran.start_steady_ms))
        for output in outputs:
            numbers = output.numbers
            self.made[tuple([each for unit in units for each in unit] if numbers is None else numbers)] = output

    def _take_given_up(self, record: GivenUp) -> None:
        self.given_up.update(record.numbers)
        for number in record.numbers:
            self.errors.setdefault(number, record.reason)

    def _take_asked(self, record: Asked) -> None:
        self.given_back.update(record.given_back)
        self.slots.update(record.slots)

    def _take_fetched(self, record: Fetched) -> None:
        self.fetched[record.number] = record.payload

    def _take_anew(self, record: Anew) -> None:
        self.began_anew = True

    def _take_gate_raised(self, record: GateRaised) -> None:
        self._raised.add(record.number)

    def _settle_at_arrival(self) -> None:
        """Tell what became of that on which a gate raised, and which no join saw."""
        for number in self.given_up - self._taken:
            if number not in self.fates_at_arrival:
                self.fates_at_arrival[number] = Fate.FAILED
        self.held_at_arrival = frozenset(self._raised - self._taken - self.fates_at_arrival.keys())
        self._taken.clear()


_HANDLERS: Mapping[type[Any], Callable[[History, Any], None]] = {
    Arrived: History._take_arrived,
    Settled: History._take_settled,
    Decided: History._take_decided,
    ServedMany: History._take_served,
    Ran: History._take_ran,
    GivenUp: History._take_given_up,
    Asked: History._take_asked,
    Fetched: History._take_fetched,
    GateRaised: History._take_gate_raised,
    Anew: History._take_anew,
}


def units_of(ran: Ran, outputs: Sequence[Output], job: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """What a run of the task was about, as the numbers of the examples of each unit; `job` is what was decided last.

    Of a batch in which something failed it is a part: what failed, or what was served when the poison was found.
    """
    if ran.arrival is not None:
        return ((ran.arrival,),)
    if ran.error is not None:
        numbers = None if ran.numbers is None else set(ran.numbers)
    else:
        parts = [output.numbers for output in outputs]
        numbers = None if None in parts else {number for part in parts for number in part or ()}
    return job if numbers is None else [unit for unit in job if numbers.issuperset(unit)]


def without_payloads(record: Record) -> Record:
    """The same record without the payloads that may be in it."""
    if isinstance(record, Arrived):
        return record if record.payloads is None else record._replace(payloads=None)
    if isinstance(record, Fetched):
        return record._replace(payload=b"")
    if isinstance(record, Ran) and any(output[_PAYLOAD] is not None for output in record.outputs):
        return record._replace(outputs=tuple([output._replace(payload=None) for output in outputs_of(record)]))
    return record


def served_in(flat: Sequence[Any]) -> Iterator[Served]:
    """The records whose fields follow one another."""
    width = len(Served._fields)
    return (Served(*flat[at : at + width]) for at in range(0, len(flat), width))


def outputs_of(ran: Ran) -> list[Output]:
    """What came of a run, by name."""
    return [Output(*each) for each in ran.outputs]


def plan_of(head: Head) -> Plan:
    """What made the operator's join.

    Raises:
        UsageError: This version has no such plan.
    """
    try:
        kind = _PLANS[head.plan_kind]
        known = {each.name for each in fields(kind)}
        plan: Plan = kind(**{name: value for name, value in head.plan.items() if name in known})
    except (KeyError, TypeError) as error:
        raise UsageError(f"the log of {head.operator!r} has a plan that this version does not know: {error}") from error
    return plan
