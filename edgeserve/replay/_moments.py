"""Runs a log again moment by moment: what arrived is decided about at the very times at which it was.

With the join that was recorded, the decisions are those that were recorded.
"""

from __future__ import annotations

from edgeserve._core.clock import Now
from edgeserve._core.plans import Plan
from edgeserve._core.step import Fate, Job
from edgeserve._log.records import Anew, Arrived, Asked, Decided, GivenUp, Ran, Record, Settled
from edgeserve.replay._history import History
from edgeserve.replay._rig import Lasts, Rig
from edgeserve.replay._tools import Tools


def replay_moments(history: History, plan: Plan, tools: Tools | None) -> list[Record]:
    """The records of the run when it is made again."""
    moments = _Moments(history, plan, tools)
    for record in history.records:
        moments.take(record)
    moments.serve_at_once()
    return moments.rig.kept.all()


class _Moments:
    def __init__(self, history: History, plan: Plan, tools: Tools | None) -> None:
        self.rig = Rig(history, plan, tools)
        self._history = history
        self._job: Job | None = None

    def take(self, record: Record) -> None:
        rig = self.rig
        if isinstance(record, Decided):
            self._decide_again(record, Now(record.wall_ms, record.steady_ms))
        elif isinstance(record, Ran) and record.arrival is None:
            self._run_again(record)
        elif isinstance(record, GivenUp):
            rig.give_up(record.numbers, record.reason, Now(rig.clock.time.wall_ms, record.steady_ms))
        elif isinstance(record, Asked):
            rig.knows_slots(record.slots)
            rig.give_back(record.asked, Now(record.wall_ms, record.steady_ms))
        elif isinstance(record, Anew):
            rig.begin_anew()
        elif isinstance(record, (Arrived, Settled)):
            rig.kept.add(record)

    def _decide_again(self, record: Decided, now: Now) -> None:
        self._job = None
        example = None
        if record.arrival is not None:
            arrival = self._history.arrivals[record.arrival]
            example = self.rig.arrived(arrival)
            if example is None:
                self.rig.settle(arrival, Fate.GATED, now)
                return
        self._job = self.rig.decide(example, now)
        if self._job is not None and record.job is None:
            # Another gate may lead to another match, and there is none that was recorded.
            self.rig.run(self._job, now.steady_ms, lambda _, measured_ms: measured_ms or 0.0)
            self._job = None

    def _run_again(self, record: Ran) -> None:
        if self._job is None:
            return  # it is not matched any more, as another gate dropped something
        if record.error is not None:
            self.rig.kept.add(record)
            return
        lasted_ms = record.finish_steady_ms - record.start_steady_ms
        self.rig.run(self._job, record.start_steady_ms, _always(lasted_ms))

    def serve_at_once(self) -> None:
        """Serve what asked no join: each by itself, whenever it was."""
        if self.rig.join.serves_at_once is None:
            return
        for serving in self._history.servings:
            now = Now(round(serving.start_steady_ms + self._history.wall_offset_ms), serving.start_steady_ms)
            arrival = self._history.arrivals[serving.units[0][0]]
            example = self.rig.arrived(arrival)
            job = self.rig.decide(example, now)
            if job is None:
                self.rig.settle(arrival, Fate.GATED, now)
            else:
                self.rig.run(job, serving.start_steady_ms, _always(serving.duration_ms))


def _always(duration_ms: float) -> Lasts:
    """The task takes as long as it took."""

    def lasts(_job: Job, _measured_ms: float | None) -> float:
        return duration_ms

    return lasts
