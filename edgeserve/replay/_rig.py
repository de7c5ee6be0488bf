"""An operator's step without a broker: the same join and the same work, on recorded arrivals and a clock that is set.

What it does is recorded as the operator's own log would be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from edgeserve._core.clock import Now, steady_ms
from edgeserve._core.ids import DerivedIds
from edgeserve._core.plans import Plan
from edgeserve._core.step import Decision, Example, Fate, Job, Outcome, Parcel, Unit
from edgeserve._log.recording import StepLog
from edgeserve._log.records import DECIDED, RAN, SETTLED, Output, Record
from edgeserve._task import check_name
from edgeserve.errors import UsageError
from edgeserve.replay._columns import WITH_ERROR
from edgeserve.replay._history import Arrival, History, Numbers, record_of, without_payloads
from edgeserve.replay._tools import Tools

Lasts = Callable[[Job, float | None], float]
"""How long a job takes, given how long the task really took just now; None where it did not run."""


class SetClock:
    """A clock that shows what it was set to."""

    def __init__(self) -> None:
        self.time = Now(0, 0.0)

    def now(self) -> Now:
        """What it shows."""
        return self.time

    def slice_ms(self, until_steady_ms: float | None) -> int:
        """Nobody waits by it."""
        return 0


class KeptRecords:
    """Takes records into memory, all of them, in the order in which they come; but no payloads, which nobody reads."""

    most_fields = sys.maxsize

    def __init__(self) -> None:
        self._records: list[tuple[Any, ...]] = []
        self._many: dict[int, list[Any]] = {}

    def add(self, record: Sequence[Any], size: int = 0) -> None:
        """Take a record."""
        self.add_read(record_of(_as_read(record)))

    def add_read(self, record: Record) -> None:
        """Take one that was read from a file."""
        self._end_short()
        self._records.append(without_payloads(record))

    def many(self, kind: int, width: int) -> list[Any]:
        """A list for the fields of short records."""
        return self._many.setdefault(kind, [])

    def lose(self) -> None:
        """There is room for all of them."""
        raise RuntimeError("a record was lost")

    def close(self, last: Sequence[Any]) -> None:
        """Take the last one."""
        self.add(last)

    def _end_short(self) -> None:
        for kind, flat in self._many.items():
            if flat:
                self._records.append((kind, tuple(flat)))
                flat.clear()

    def taken(self) -> list[tuple[Any, ...]]:
        """What was taken since this was asked last, as it would be read from a file."""
        self._end_short()
        taken, self._records = self._records, []
        return taken


def _as_read(fields: Sequence[Any]) -> tuple[Any, ...]:
    """Tuples for lists, as in what is read."""
    return tuple([each if type(each) not in _LISTS else _as_read(each) if each else () for each in fields])


_LISTS = frozenset((list, tuple))


class Rig:
    """Makes steps of recorded arrivals.

    Args:
        history: What was recorded.
        plan: What makes the join.
        tools: The task; None: what it made is what it made when it was recorded.
        gives_back: Whether other replicas get what they ask for.
    """

    def __init__(self, history: History, plan: Plan, tools: Tools | None, *, gives_back: bool = True) -> None:
        self._history = history
        self._plan = plan
        self._tools = tools
        self.clock = SetClock()
        self.kept = KeptRecords()
        slot_of = history.slots.__getitem__ if history.slots and gives_back else None
        self._slot_of = slot_of
        self._join_anew()
        self.log = StepLog(
            self.kept,
            self.clock,
            payloads=tools is not None,
            at_once=self.join.serves_at_once is not None,
            slot_of=slot_of,
        )
        self._held: dict[int, Example] = {}
        self._data: dict[int, bytes] = {}
        self._made = _Made(history)
        # Those that came as URLs: their payloads are fetched at each use.
        self._urls: set[int] = set()

    def _join_anew(self) -> None:
        self.join = self._plan.make()
        if self._slot_of is not None and hasattr(self.join, "slot_of"):
            self.join.slot_of = self._slot_of

    def begin_anew(self, now: Now) -> None:
        """Others had the subscription meanwhile."""
        self.clock.time = now
        self._join_anew()
        self._held.clear()
        self.log.began_anew()

    def arrived(self, arrival: Arrival) -> Example | None:
        """An arrival as the step has it; None if the gate drops it."""
        # Joins count bytes, and look at nothing else of them.
        data = self._data.setdefault(arrival.size, bytes(arrival.size))
        parcel = Parcel(None)
        parcel.is_pack = arrival.is_in_pack
        example = arrival.example(parcel, data)
        if self._tools is not None:
            if arrival.payload is None:
                raise UsageError(
                    f"the log of {self._history.head.operator!r} has no payloads, and a task needs them: record it "
                    "with log_verbose=True"
                )
            example.value = self._tools.values.gated(example)
            if example.value is None:
                return None
        self._held[arrival.number] = example
        return example

    def settle(self, arrival: Arrival, fate: Fate, now: Now) -> None:
        """An arrival that no join sees."""
        self.clock.time = now
        error = self._history.errors.get(arrival.number) if fate in WITH_ERROR else None
        self.kept.add((SETTLED, arrival.number, fate.value, now.steady_ms, error))

    def note_given_back(self, arrival: Arrival, now: Now) -> None:
        """An arrival that the broker was to deliver again, so that no join is to see it."""
        self.clock.time = now
        self.kept.add((DECIDED, arrival.number, now.wall_ms, now.steady_ms, (), None, (arrival.number,), None, None))

    def decide(self, example: Example | None, now: Now) -> Job | None:
        """The first half of a step."""
        self.clock.time = now
        if example is not None:
            example.arrived_steady_ms = now.steady_ms
        parameter = self.join.serves_at_once
        if parameter is not None:
            if example is None:
                return None
            del self._held[example.number]
            return Job(({parameter: example},), (example,))
        decision = self.join.decide(example, now)
        self.log.decided(example, now, decision)
        self._let_go(decision)
        self.wake_steady_ms = decision.wake_steady_ms
        self.look_steady_ms = decision.look_steady_ms
        return decision.job

    wake_steady_ms: float | None = None
    look_steady_ms: float | None = None

    def _let_go(self, decision: Decision) -> None:
        for example in (*decision.released, *decision.given_back):
            self._held.pop(example.number, None)

    def give_back(self, asked: Sequence[bytes], now: Now) -> None:
        """Others asked for what is held."""
        self.clock.time = now
        decision: Decision = self.join.give_back(asked, now)  # type: ignore[attr-defined] # only flows are asked for
        self.log.asked(asked, now, decision)
        self._let_go(decision)

    def give_up(self, numbers: Sequence[int], reason: str, now: Now) -> None:
        """Inputs were given up after an error."""
        self.clock.time = now
        given_up = [self._example(number) for number in numbers]
        forgotten = self.join.give_up(given_up)
        for example in given_up:
            self._held.pop(example.number, None)
        self.log.gave_up(given_up, Fate.FAILED, reason, forgotten)

    def _example(self, number: int) -> Example:
        held = self._held.get(number)
        if held is not None:
            return held
        arrival = self._history.arrivals[number]
        return arrival.example(Parcel(None), b"")

    def run(
        self,
        job: Job,
        start_ms: float,
        lasts: Lasts,
        *,
        parts: Sequence[Sequence[Unit]] | None = None,
        fetch_ms: float = 0.0,
    ) -> float:
        """The second half of a step. When it is over, on the steady clock.

        Args:
            job: What it is about.
            start_ms: When it starts, on the steady clock.
            lasts: How long it takes.
            parts: The units of the job that the task is run on, together in each part; None: all of them together.
            fetch_ms: How long its fetches take, if there are any.
        """
        self._set_steady(start_ms)
        outcomes: list[Outcome] = []
        measured_ms: float | None = None
        if self._tools is None:
            served = self._without_failed(job, start_ms, lasts)
            if not served.units:
                return self.clock.time.steady_ms
            outcomes = self._made.of(served)
        else:
            began_ms = steady_ms()
            for part in [Job(units) for units in parts] if parts is not None else [job]:
                outcomes += self._served(part, self._tools)
            measured_ms = steady_ms() - began_ms
        finish_ms = start_ms + lasts(job, measured_ms)
        self._set_steady(start_ms)
        self.log.starts(job)
        self._tell_fetched(job, start_ms + fetch_ms)
        self._set_steady(finish_ms)
        self.log.ran(job, outcomes)
        return finish_ms

    def _set_steady(self, time_ms: float) -> None:
        wall_ms = self.clock.time.wall_ms - self.clock.time.steady_ms
        self.clock.time = Now(round(wall_ms + time_ms), time_ms)

    def _served(self, job: Job, tools: Tools) -> Sequence[Outcome]:
        self._fill_in(job)
        job.arguments = tools.values.arguments(job.units)
        result = tools.work.call(job)
        outcomes = tools.work.finish(job, result)
        tools.scores.note(job, result, outcomes)
        return outcomes

    def _fill_in(self, job: Job) -> None:
        """Put payloads that were fetched in the place of their URLs."""
        for example in job.examples:
            if example.is_url:
                payload = self._history.fetched.get(example.number)
                if payload is None:
                    raise UsageError(
                        f"{example} travelled as a URL, and the recorded run did not fetch its payload into memory: "
                        "the log does not have it"
                    )
                example.value, example.is_url = payload, False
                self._urls.add(example.number)

    def _tell_fetched(self, job: Job, time_ms: float) -> None:
        for example in job.examples:
            if example.number in self._urls:
                self._set_steady(time_ms)
                self.log.fetched(example, self._history.fetched[example.number])

    def _without_failed(self, job: Job, start_ms: float, lasts: Lasts) -> Job:
        """A job without the units on which the recorded task failed: it is taken to fail on them again."""
        failures = self._history.failures
        failed = [unit for unit in job.units if numbers_of(unit) in failures] if failures else ()
        if not failed:
            return job
        rest = [unit for unit in job.units if unit not in failed]
        finish_ms = start_ms if rest else start_ms + lasts(job, None)
        for unit in failed:
            numbers = numbers_of(unit)
            arrival = numbers[0] if self.join.serves_at_once is not None else None
            part = None if len(job.units) == 1 else numbers
            self.kept.add((RAN, arrival, start_ms, 0.0, finish_ms, failures[numbers], part, ()))
            self._set_steady(finish_ms)
            given_up = [number for number in numbers if number in self._history.given_up]
            if given_up:
                self.give_up(given_up, failures[numbers], self.clock.time)
        return Job(rest)


def numbers_of(unit: Unit) -> Numbers:
    """The numbers of a unit's examples."""
    return tuple([example.number for example in unit.values()])


class _Made:
    """What the recorded run made of its inputs, for when a task is not run again."""

    def __init__(self, history: History) -> None:
        self._outputs = history.made
        self._is_batch = history.head.operator_class == "BatchCompute"
        self._is_sink = not history.head.topics_out
        # A sink makes no ids, and its name may be longer than one that travels.
        self._ids = DerivedIds(b"" if self._is_sink else check_name(history.head.operator, "the operator"))

    def of(self, job: Job) -> list[Outcome]:
        """What it made of a job, or would have: then an output whose payload nobody knows."""
        if self._is_sink:
            return [Outcome(job.examples, None)]
        if self._is_batch or len(job.units) == 1:
            return [self._outcome(job.examples)]
        return [self._outcome(list(unit.values())) for unit in job.units]

    def _outcome(self, examples: Sequence[Example]) -> Outcome:
        made = self._outputs.get(tuple(example.number for example in examples))
        capture_ms = max([example.capture_ms for example in examples])
        if made is None:
            made = Output(self._ids.of(b"".join([example.id for example in examples])), 0, 0, None, None)
        if not made.id:
            return Outcome(examples, None)
        return Outcome(
            examples, None, bytes(made.size), made.id, capture_ms, port=made.port, is_satisfied=made.is_satisfied
        )
