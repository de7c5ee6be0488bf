"""One run of an operator that receives, in memory: what is needed to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.plans import BatchPlan, ComputePlan, FlowPlan, Plan
from edgeserve._core.step import Example, Fate, Parcel
from edgeserve._log.reading import LoggedRun
from edgeserve._log.records import (
    KINDS,
    Arrived,
    Decided,
    Fetched,
    Head,
    Lost,
    Output,
    Ran,
    Record,
    Served,
    ServedMany,
    Settled,
)
from edgeserve.errors import UsageError
from edgeserve.replay._columns import SAME_CLOCK_MS, Wall

_PLANS: Mapping[str, type[Any]] = {plan.kind: plan for plan in (ComputePlan, FlowPlan, BatchPlan)}


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

    def example(self, parcel: Parcel, data: bytes) -> Example:
        """The example, as a step has it. `data` is as long as it is."""
        value = self.payload if self.payload is not None else b""
        example = Example(self.id, self.source, value, self.capture_ms, self.flow_id, parcel, data)
        example.number = self.number
        example.is_url = self.is_url
        return example


def arrivals_of(record: Arrived) -> Iterator[Arrival]:
    """The examples of a message."""
    urls = frozenset(record.urls or ())
    sources = record.sources
    for place, capture_ms in enumerate(record.captures_ms):
        yield Arrival(
            record.first + place,
            record.ids[place * ID_SIZE : (place + 1) * ID_SIZE],
            sources if isinstance(sources, str) else sources[place],
            record.flow_ids[place] if record.flow_ids is not None else b"",
            capture_ms,
            record.publish_ms,
            record.received_steady_ms,
            record.sizes[place],
            place in urls,
            record.is_pack,
            record.payloads[place] if record.payloads is not None else None,
            record.slots[place] if record.slots is not None else None,
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
        start_steady_ms: When it started.
        duration_ms: How long it took, its fetches included.
        outputs: What came of it.
    """

    units: Sequence[Sequence[int]]
    start_steady_ms: float
    duration_ms: float
    outputs: Sequence[Output]


@dataclass
class History:
    """What happened.

    Attributes:
        head: Of the log.
        plan: What made the operator's join.
        records: The records, in order.
        arrivals: By number.
        fates_at_arrival: Of those that no join saw: malformed, duplicate, of an unknown source, gated.
        servings: The runs of the task that returned, in order.
        fetched: Payloads that were fetched, by the number of the arrival.
        wall_offset_ms: What is added to steady times to have ms since the epoch, until the clock was first set.
    """

    head: Head
    plan: Plan
    records: list[Record] = field(default_factory=list)
    arrivals: dict[int, Arrival] = field(default_factory=dict)
    fates_at_arrival: dict[int, Fate] = field(default_factory=dict)
    servings: list[Serving] = field(default_factory=list)
    fetched: dict[int, bytes] = field(default_factory=dict)
    wall_offset_ms: float = 0.0

    @classmethod
    def of(cls, run: LoggedRun) -> History:
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
        history = cls(head, plan_of(head))
        wall = Wall()
        for place, block in enumerate(run.blocks()):
            offset_ms = wall.meet(block)
            if place == 0 or abs(offset_ms - history.wall_offset_ms) <= SAME_CLOCK_MS:
                history.wall_offset_ms = offset_ms
            for each in block.records:
                history._take(record_of(each), name)
        if damaged := [file.path for file in run.files[:-1] if file.torn_bytes]:
            raise UsageError(f"{name} is damaged in {damaged[0]}: it can't be run again past that")
        return history

    def _take(self, record: Record, name: str) -> None:
        if isinstance(record, Lost):
            raise UsageError(f"{name} misses records that the disk did not take: it can't be run again")
        self.records.append(record)
        if isinstance(record, Arrived):
            self.arrivals.update({arrival.number: arrival for arrival in arrivals_of(record)})
        elif isinstance(record, Settled):
            self.fates_at_arrival[record.number] = Fate(record.fate)
        elif isinstance(record, Fetched):
            self.fetched[record.number] = record.payload
        elif isinstance(record, ServedMany):
            self.servings += [_serving_of(served) for served in served_in(record.fields)]
        elif isinstance(record, Ran) and record.error is None:
            self.servings.append(self._serving(record))
        elif isinstance(record, Decided):
            self._job = record.job or self._job

    _job: Sequence[Sequence[int]] = ()

    def _serving(self, ran: Ran) -> Serving:
        duration_ms = ran.finish_steady_ms - ran.start_steady_ms
        if ran.arrival is not None:
            return Serving(((ran.arrival,),), ran.start_steady_ms, duration_ms, outputs_of(ran))
        return Serving(self._job, ran.start_steady_ms, duration_ms, outputs_of(ran))


def _serving_of(served: Served) -> Serving:
    start_ms, finish_ms = 1000 * served.start_steady_s, 1000 * served.finish_steady_s
    output = Output(served.output_id, 0, served.size, None, None)
    return Serving(((served.number,),), start_ms, finish_ms - start_ms, [output])


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
