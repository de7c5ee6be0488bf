"""Runs a log again moment by moment: what arrived is decided about at the very times at which it was.

With the join that was recorded, the decisions are those that were recorded. Without a task nothing is run: what the
task made, or raised, is what it made or raised then. With one, it is run when the recorded one was, and where that
failed, when it was tried last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeserve._core.clock import Now
from edgeserve._core.plans import Plan
from edgeserve._core.step import Fate, Job, Unit
from edgeserve._log.reading import Block
from edgeserve._log.records import (
    Anew,
    Arrived,
    Asked,
    Decided,
    Ended,
    Fetched,
    GateRaised,
    GivenUp,
    Output,
    Ran,
    Record,
    ServedMany,
    Settled,
    Withdrawn,
)
from edgeserve.replay._history import History, Numbers, outputs_of, served_in, units_of
from edgeserve.replay._rig import Rig, numbers_of
from edgeserve.replay._tools import Tools


def replay_moments(history: History, plan: Plan, tools: Tools | None) -> list[Block]:
    """The records of the run when it is made again, in blocks like those that were written."""
    moments = _Moments(history, plan, tools)
    blocks = []
    start = 0
    for wall_ms, steady_ms, end in history.moments:
        for place in range(start, end):
            moments.take(place, history.records[place])
        start = end
        blocks.append(Block(wall_ms, steady_ms, moments.rig.kept.taken()))
    moments.serve_the_rest()
    if blocks and (rest := moments.rig.kept.taken()):
        blocks.append(Block(blocks[-1].wall_ms, blocks[-1].steady_ms, rest))
    return blocks


class _Moments:
    def __init__(self, history: History, plan: Plan, tools: Tools | None) -> None:
        self.rig = Rig(history, plan, tools)
        self._history = history
        self._tools = tools
        # What was decided last, then and now; no job where nothing is to be run, or not any more.
        self._recorded: Sequence[Sequence[int]] = ()
        self._job: Job | None = None
        # Where in the records the task ran last on each unit: it may have been tried again.
        self._last_runs = _last_runs(history) if tools is not None else {}
        self._has_left = False

    def take(self, place: int, record: Record) -> None:
        """Do once more what the next record says."""
        again = _AGAIN.get(type(record))
        if again is not None:
            again(self, record)
        elif isinstance(record, Ran):
            self._run_again(place, record)
        elif isinstance(record, ServedMany) and self._tools is not None:
            for served in served_in(record.fields):
                start_ms, finish_ms = 1000 * served.start_steady_s, 1000 * served.finish_steady_s
                self._take_in(served.number, self._at(start_ms))
                self._run_once_more(start_ms, finish_ms)
        elif isinstance(record, Arrived) or (
            self._tools is None and isinstance(record, (Fetched, ServedMany, Withdrawn, Ended))
        ):
            self.rig.kept.add_read(record)

    def _give_back_again(self, record: Asked) -> None:
        self.rig.give_back(record.asked, Now(record.wall_ms, record.steady_ms))

    def _begin_anew(self, record: Anew) -> None:
        self.rig.begin_anew(self._at(record.steady_ms))

    def _at(self, steady_ms: float) -> Now:
        return Now(math.floor(steady_ms + self._history.wall_offset_ms), steady_ms)

    # What gates and the join say.

    def _decide_again(self, record: Decided) -> None:
        now = Now(record.wall_ms, record.steady_ms)
        self._recorded, self._job = record.job or (), None
        if record.arrival is None:
            self._job = self.rig.decide(None, now)
        else:
            self._take_in(record.arrival, now)
        if self._job is not None and record.job is None:
            self._run_now(self._job, now)
            self._job = None

    def _take_in(self, number: int, now: Now) -> None:
        arrival = self._history.arrivals[number]
        example = self.rig.arrived(arrival)
        if example is None:
            self._has_left = True
            self.rig.settle(arrival, Fate.GATED, now)
        else:
            self._job = self.rig.decide(example, now)

    def _run_now(self, job: Job, now: Now) -> None:
        """Run what no recorded run was about: another gate may lead to another match."""
        self.rig.run(job, now.steady_ms, lambda _, measured_ms: measured_ms or 0.0)

    def _settle_again(self, record: Settled) -> None:
        now = self._at(record.steady_ms)
        if record.fate != Fate.GATED.value or not self._is_asked_about(record.number, now):
            self.rig.kept.add_read(record)

    def _give_up_again(self, record: GivenUp) -> None:
        now = self._at(record.steady_ms)
        if self._tools is None:
            self.rig.give_up(record.numbers, record.reason, now)
            return
        for number in record.numbers:
            if number not in self._history.fates_at_arrival:
                continue  # the recorded task raised, and this one did not
            if not self._is_asked_about(number, now):
                self.rig.give_up([number], record.reason, now)

    def _raise_again(self, record: GateRaised) -> None:
        """Ask the given gate; once, where the recorded one was tried again, and that when this was over."""
        if not self._has_gate(record.number):
            self.rig.kept.add_read(record)
        elif record.number in self._history.held_at_arrival:
            self._is_asked_about(record.number, self._at(record.steady_ms))

    def _has_gate(self, number: int) -> bool:
        return self._tools is not None and self._tools.has_gate(self._history.arrivals[number].source)

    def _is_asked_about(self, number: int, now: Now) -> bool:
        """Ask the given gate about what the recorded one did not pass. False if there is none."""
        if not self._has_gate(number):
            return False
        arrival = self._history.arrivals[number]
        example = self.rig.arrived(arrival)
        if example is None:
            self.rig.settle(arrival, Fate.GATED, now)
        else:
            self._has_left = True
            if (job := self.rig.decide(example, now)) is not None:
                self._run_now(job, now)
        return True

    # What the task makes of it.

    def _run_again(self, place: int, record: Ran) -> None:
        if self._tools is None and (record.arrival is not None or self._is_the_same_job()):
            self.rig.kept.add_read(record)
            return
        outputs = outputs_of(record)
        units = units_of(record, outputs, self._recorded)
        if record.error is not None:
            units = [unit for unit in units if self._last_runs.get(tuple(unit)) == place]
            if not units:
                return  # it was tried again
        if record.arrival is not None:
            self._take_in(record.arrival, self._at(record.start_steady_ms))
        parts = self._parts(outputs, units) if self._is_the_same_job() else None
        self._run_once_more(record.start_steady_ms, record.finish_steady_ms, record.fetch_ms, parts)

    def _run_once_more(
        self, start_ms: float, finish_ms: float, fetch_ms: float = 0.0, parts: Sequence[Sequence[Unit]] | None = None
    ) -> None:
        if self._job is not None:
            self.rig.run(self._job, start_ms, lambda *_: finish_ms - start_ms, parts=parts, fetch_ms=fetch_ms)
            if parts is None:
                self._job = None

    def _is_the_same_job(self) -> bool:
        if self._job is None or len(self._job.units) != len(self._recorded):
            return False
        return all(
            tuple(now) == tuple(then)
            for now, then in zip(map(numbers_of, self._job.units), self._recorded, strict=True)
        )

    def _parts(self, outputs: Sequence[Output], units: Sequence[Sequence[int]]) -> Sequence[Sequence[Unit]] | None:
        """The units that a run was about, together in each part; None: all those of the job.

        A batch that fails only as a whole was run in parts, each with an output of its own.
        """
        if self._job is None:
            return None
        if self._history.head.operator_class == "BatchCompute" and len(outputs) > 1:
            return [self._units_with(output.numbers or ()) for output in outputs]
        if len(units) == len(self._job.units):
            return None
        return [self._units_with([number for unit in units for number in unit])]

    def _units_with(self, numbers: Sequence[int]) -> Sequence[Unit]:
        wanted = frozenset(numbers)
        return (
            [unit for unit in self._job.units if wanted.issuperset(numbers_of(unit))] if self._job is not None else ()
        )

    def serve_the_rest(self) -> None:
        """Serve what another gate made wait beyond the last record."""
        while self._has_left and (wake_ms := self.rig.wake_steady_ms) is not None:
            now = self._at(max(wake_ms, self.rig.clock.time.steady_ms))
            if (job := self.rig.decide(None, now)) is not None:
                self._run_now(job, now)


_AGAIN: Mapping[type[Any], Callable[[_Moments, Any], None]] = {
    Decided: _Moments._decide_again,
    Settled: _Moments._settle_again,
    GateRaised: _Moments._raise_again,
    GivenUp: _Moments._give_up_again,
    Asked: _Moments._give_back_again,
    Anew: _Moments._begin_anew,
}


def _last_runs(history: History) -> dict[Numbers, int]:
    """Where in the records the task ran last on each unit on which it once failed."""
    last: dict[Numbers, int] = {}
    job: Sequence[Sequence[int]] = ()
    for place, record in enumerate(history.records):
        if isinstance(record, Decided):
            job = record.job or ()
        elif isinstance(record, Ran):
            for unit in map(tuple, units_of(record, outputs_of(record), job)):
                if record.error is not None or unit in last:
                    last[unit] = place
    return last
