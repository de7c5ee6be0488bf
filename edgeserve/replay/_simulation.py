"""Runs a log again with other knobs, on a simulated clock.

Arrivals come when they reached the node, the operator takes them one at a time, and is busy for as long as its task
takes. What the step costs besides the task, some microseconds, is left out.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from operator import itemgetter

from edgeserve._core.clock import Now
from edgeserve._core.plans import FlowPlan, Plan
from edgeserve._core.step import Example, Fate, Job
from edgeserve._extras import require
from edgeserve._log.reading import Block
from edgeserve._log.records import ARRIVED, Decided, Ran
from edgeserve.errors import UsageError
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._history import Arrival, History
from edgeserve.replay._reaching import reached_ms
from edgeserve.replay._rig import Rig
from edgeserve.replay._tools import Tools

# What a gate says or raises: the same gate would again, and another one may not.
_OF_GATES = (Fate.GATED, Fate.FAILED)


def reached_times_ms(history: History) -> list[float]:
    """When each arrival reached the node, on its steady clock, in the order in which they were received."""
    np = require("numpy", "replay", PURPOSE)
    arrivals = list(history.arrivals.values())
    senders: dict[str, int] = {}
    at_work_ms = [serving.start_steady_ms + serving.duration_ms for serving in history.servings]
    for record in history.records:
        if isinstance(record, Decided):
            at_work_ms.append(record.steady_ms)
        elif isinstance(record, Ran):
            at_work_ms.append(record.finish_steady_ms)
    times_ms = reached_ms(
        np,
        np.array([each.received_steady_ms for each in arrivals], dtype=np.float64),
        np.array([each.publish_ms - history.wall_offset_ms for each in arrivals], dtype=np.float64),
        np.array([senders.setdefault(each.source, len(senders)) for each in arrivals], dtype=np.int64),
        np.array(at_work_ms, dtype=np.float64),
        history.head.started_ms - history.wall_offset_ms,
    )
    in_order: list[float] = np.maximum.accumulate(times_ms).tolist()
    return in_order


class TaskTimes:
    """How long the task takes.

    Args:
        history: What was recorded.
        given: A number of ms for each run; `"recorded"`: as long as the recorded run on as many units took that was
            nearest in time; `"measured"`: as long as it really takes now.
    """

    def __init__(self, history: History, given: float | str) -> None:
        self._given = given
        self._by_units: dict[int, list[tuple[float, float]]] = {}
        for serving in history.servings:
            of_size = self._by_units.setdefault(len(serving.units), [])
            of_size.append((serving.start_steady_ms, serving.duration_ms))
        for of_size in self._by_units.values():
            of_size.sort()
        self._slope_ms, self._base_ms = _line(self._by_units)

    def of(self, job: Job, start_ms: float, measured_ms: float | None) -> float:
        """How long it takes for a job that starts then."""
        if isinstance(self._given, (int, float)):
            return self._given
        if self._given == "measured" and measured_ms is not None:
            return measured_ms
        recorded = self._by_units.get(len(job.units))
        if recorded is None:
            return max(0.0, self._base_ms + self._slope_ms * len(job.units))
        at = bisect_left(recorded, (start_ms, 0.0))
        near = recorded[max(0, at - 1) : at + 1]
        return min(near, key=lambda each: abs(each[0] - start_ms))[1]


def _line(by_units: dict[int, list[tuple[float, float]]]) -> tuple[float, float]:
    """How much longer a run takes for each unit more, and what it takes besides: least squares over the recorded."""
    points = [(count, duration) for count, of_size in by_units.items() for _, duration in of_size]
    if not points:
        return 0.0, 0.0
    mean_count = sum(count for count, _ in points) / len(points)
    mean_ms = sum(duration for _, duration in points) / len(points)
    spread = sum((count - mean_count) ** 2 for count, _ in points)
    if spread == 0:
        return 0.0, mean_ms
    slope = sum((count - mean_count) * (duration - mean_ms) for count, duration in points) / spread
    return slope, mean_ms - slope * mean_count


def simulate(history: History, plan: Plan, tools: Tools | None, task_times: TaskTimes) -> list[Block]:
    """The records of the run that would have been.

    Raises:
        UsageError: Others had the subscription meanwhile.
    """
    if history.began_anew:
        raise UsageError(
            f"others had the subscription of {history.head.operator!r} meanwhile, and what it held came again or "
            "went to them: its log can be run again with the knobs that were recorded, and without task_ms="
        )
    simulation = _Simulation(history, plan, tools, task_times)
    simulation.run()
    return [Block(0, -history.wall_offset_ms, simulation.rig.kept.taken())]


class _Simulation:
    def __init__(self, history: History, plan: Plan, tools: Tools | None, task_times: TaskTimes) -> None:
        self.rig = Rig(history, plan, tools, gives_back=False)
        self._history = history
        self._tools = tools
        self._task_times = task_times
        sources = frozenset(plan.parameters.values())
        self._sources = None if "" in sources else sources
        # What comes, when, and its number; by role where a join can be full of one and take others.
        self._coming: dict[str, deque[tuple[float, int]]] = {}
        self._end_ms = self._time_ms = 0.0
        self._by_role = isinstance(plan, FlowPlan)
        for time_ms, arrival in zip(reached_times_ms(history), history.arrivals.values(), strict=True):
            self.rig.kept.add(_arrived(arrival, time_ms))
            self._coming.setdefault(arrival.source if self._by_role else "", deque()).append((time_ms, arrival.number))
            self._time_ms = time_ms if arrival.number == 0 else self._time_ms
            self._end_ms = max(self._end_ms, time_ms)

    def run(self) -> None:
        while True:
            number = self._next_arrival()
            if number is not None:
                self._take(self._history.arrivals[number])
                continue
            next_ms, wake_ms = self._next_arrival_ms(), self._wake_ms()
            if min(next_ms, wake_ms) == math.inf:
                return
            self._time_ms = max(self._time_ms, min(next_ms, wake_ms))
            if next_ms > self._time_ms:  # what is there goes before a moment that is due
                self._decide(None)

    def _now(self) -> Now:
        return Now(math.floor(self._time_ms + self._history.wall_offset_ms), self._time_ms)

    def _next_arrival(self) -> int | None:
        """The next one that is there and may be taken."""
        full = self.rig.join.full
        heads = [
            (coming[0][1], coming)
            for role, coming in self._coming.items()
            if coming and coming[0][0] <= self._time_ms and not (full and (not self._by_role or role in full))
        ]
        if not heads:
            return None
        return min(heads, key=itemgetter(0))[1].popleft()[1]

    def _next_arrival_ms(self) -> float:
        """When the next one comes. What is there and has to wait, and what is behind it, is not waited for."""
        heads_ms = [coming[0][0] for coming in self._coming.values() if coming]
        return min([time_ms for time_ms in heads_ms if time_ms > self._time_ms], default=math.inf)

    def _wake_ms(self) -> float:
        """When to step without an arrival."""
        wake_ms = self.rig.wake_steady_ms if self.rig.wake_steady_ms is not None else math.inf
        look_ms = self.rig.look_steady_ms
        return min(wake_ms, look_ms) if look_ms is not None and look_ms <= self._end_ms else wake_ms

    def _take(self, arrival: Arrival) -> None:
        history = self._history
        fate = history.fates_at_arrival.get(arrival.number)
        is_held = arrival.number in history.held_at_arrival
        if self._tools is not None and self._tools.has_gate(arrival.source) and (is_held or fate in _OF_GATES):
            fate, is_held = None, False  # the given gate is asked
        if is_held:
            return
        if arrival.number in history.given_back:
            self.rig.note_given_back(arrival, self._now())
            return
        if fate is None and self._sources is not None and arrival.source not in self._sources:
            fate = Fate.UNKNOWN_SOURCE  # the task that was recorded took it, and this one does not
        if fate is None:
            example = self.rig.arrived(arrival)
            if example is not None:
                self._decide(example)
                return
            fate = Fate.GATED
        self.rig.settle(arrival, fate, self._now())

    def _decide(self, example: Example | None) -> None:
        job = self.rig.decide(example, self._now())
        if job is not None:
            start_ms = self._time_ms
            self._time_ms = self.rig.run(
                job, start_ms, lambda job, measured_ms: self._task_times.of(job, start_ms, measured_ms)
            )


def _arrived(arrival: Arrival, time_ms: float) -> Sequence[object]:
    return (
        ARRIVED,
        time_ms,
        arrival.topic,
        arrival.publish_ms,
        arrival.number,
        arrival.is_in_pack,
        arrival.id,
        (arrival.capture_ms,),
        arrival.source,
        (arrival.flow_id,) if arrival.flow_id else None,
        (arrival.size,),
        (0,) if arrival.is_url else None,
        None,
        None,
    )
