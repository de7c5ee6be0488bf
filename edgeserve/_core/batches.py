"""Micro-batches: which units a task runs on together, and when.

A batch leaves when it is full by count or by bytes, or when its first unit has waited long enough, whichever is first.
A unit that can't be part of the batch that is being filled begins the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Now
from edgeserve._core.pacing import Pace
from edgeserve._core.step import Decision, Example, Job, Unit

_NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Batching:
    """How large a batch becomes.

    Attributes:
        max_count: How many units it has at most.
        max_bytes: How many bytes its examples have at most, as they travelled; one that is larger is alone.
        timeout_ms: How long its first unit waits for others.
        max_time_diff_ms: How far apart the capture times in it may lie, ends included; None: any time.
        min_interval_ms: The least time from the start of one batch to that of the next.
    """

    max_count: int = 1
    max_bytes: int = 10 * 1024 * 1024
    timeout_ms: float = 0
    max_time_diff_ms: int | None = None
    min_interval_ms: float = 0

    def __post_init__(self) -> None:
        check_count("batch_max_num_msg", self.max_count)
        check_count("batch_max_bytes", self.max_bytes)
        check_ms("batch_timeout_ms", self.timeout_ms)
        if self.max_time_diff_ms is not None:
            check_ms("max_time_diff_ms", self.max_time_diff_ms)
        check_ms("min_interval_ms", self.min_interval_ms)


class _Ready:
    """A unit that waits to be served."""

    __slots__ = ("flow_id", "newest_ms", "oldest_ms", "since_steady_ms", "size", "unit")

    def __init__(self, unit: Unit, flow_id: bytes | None, now: Now) -> None:
        captures = [example.capture_ms for example in unit.values()]
        self.unit = unit
        self.flow_id = flow_id
        self.size = sum([len(example.data) for example in unit.values()])
        self.oldest_ms, self.newest_ms = min(captures), max(captures)
        self.since_steady_ms = now.steady_ms


class Batcher:
    """Units on their way to the task, in the order in which they came."""

    def __init__(self, policy: Batching) -> None:
        self._policy = policy
        self._pace = Pace(policy.min_interval_ms)
        self._later: deque[_Ready] = deque()
        self._begin()

    def _begin(self) -> None:
        self._batch: list[_Ready] = []
        self._flow_ids: set[bytes] = set()
        self._batch_bytes = 0
        self._oldest_ms = self._newest_ms = 0
        self._is_full = False

    def __len__(self) -> int:
        return len(self._batch) + len(self._later)

    def put(self, unit: Unit, now: Now, flow_id: bytes | None = None) -> None:
        """Take a unit in. Those of one flow are never in the same batch."""
        self._add(_Ready(unit, flow_id, now))

    def _add(self, ready: _Ready) -> None:
        if self._is_full or not self._fits(ready):
            self._is_full = True
            self._later.append(ready)
            return
        if not self._batch:
            self._oldest_ms, self._newest_ms = ready.oldest_ms, ready.newest_ms
        else:
            self._oldest_ms = min(self._oldest_ms, ready.oldest_ms)
            self._newest_ms = max(self._newest_ms, ready.newest_ms)
        self._batch.append(ready)
        self._batch_bytes += ready.size
        if ready.flow_id is not None:
            self._flow_ids.add(ready.flow_id)
        self._is_full = len(self._batch) >= self._policy.max_count or self._batch_bytes >= self._policy.max_bytes

    def _fits(self, ready: _Ready) -> bool:
        if not self._batch:
            return True
        policy = self._policy
        if self._batch_bytes + ready.size > policy.max_bytes or ready.flow_id in self._flow_ids:
            return False
        reach_ms = policy.max_time_diff_ms
        return (
            reach_ms is None
            or max(self._newest_ms, ready.newest_ms) - min(self._oldest_ms, ready.oldest_ms) <= reach_ms
        )

    def take(self, now: Now, decision: Decision) -> None:
        """Have the decision run a batch, if one is due, or say when to look again."""
        if not self._batch:
            return
        if self._is_due(now) and self._pace.is_due(now):
            self._pace.started(now)
            decision.job = self._job()
            for example in decision.job.examples:
                example.is_used = True
            decision.released.extend(decision.job.examples)
        if self._batch:
            decision.wake_steady_ms = self._due_steady_ms(now)

    def _job(self) -> Job:
        batch, later = self._batch, self._later
        self._begin()
        self._later = deque()
        while later and not self._is_full:
            self._add(later.popleft())
        self._later.extend(later)
        return Job([ready.unit for ready in batch])

    def _is_due(self, now: Now) -> bool:
        return self._is_full or now.steady_ms >= self._batch[0].since_steady_ms + self._policy.timeout_ms

    def _due_steady_ms(self, now: Now) -> float:
        due_ms = now.steady_ms if self._is_full else self._batch[0].since_steady_ms + self._policy.timeout_ms
        next_start_ms = self._pace.next_start_steady_ms
        return due_ms if next_start_ms is None else max(due_ms, next_start_ms)


class BatchJoin:
    """Nothing is joined: all examples are served, in batches, in the order in which they arrive.

    Args:
        parameter: What each example is to the task.
        policy: How large the batches become.
        max_waiting: How many examples may wait, as when they come faster than `min_interval_ms` lets them be served;
            beyond that no more are read.
    """

    serves_at_once = None

    def __init__(self, parameter: str, policy: Batching, max_waiting: int) -> None:
        check_count("max_waiting", max_waiting)
        self._parameter = parameter
        self._batcher = Batcher(policy)
        self._max_waiting = max_waiting
        self._full = frozenset((parameter,))

    @property
    def full(self) -> frozenset[str]:
        """See `Join`."""
        return self._full if len(self._batcher) >= self._max_waiting else _NOTHING

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for."""
        decision = Decision()
        if arrival is not None:
            self._batcher.put({self._parameter: arrival}, now)
        self._batcher.take(now, decision)
        return decision

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Nothing that was used is held."""
        return []
