"""Which examples belong together, and when the task runs on them.

A join takes the examples of several sources one at a time, in the order in which they arrive, and decides by their
capture times. There are two: `LatestJoin` combines the newest values there are, `NearestJoin` (in `nearest_join`)
finds for each example of one source its nearest neighbours in the others; `NoJoin` is for a single source. All are
pure: time comes in with each step, and what they hold is all that they know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeserve._core.checks import check_ms
from edgeserve._core.clock import Now
from edgeserve._core.pacing import Pace
from edgeserve._core.step import Decision, Example, Fate, Job


@dataclass(frozen=True)
class JoinPolicy:
    """What all of them are told.

    Attributes:
        parameters: The task's parameters in order, each with the name of the source that it takes.
        max_time_diff_ms: How far apart the capture times of one job may lie, ends included.
        no_overlap: Whether each example is used once at most.
        min_interval_ms: The least time between two starts.
        drop_if_older_than_ms: How far back the capture of an example may lie when it arrives and when it is first
            used; None: any time.
    """

    parameters: Mapping[str, str]
    max_time_diff_ms: int = 10_000
    no_overlap: bool = False
    min_interval_ms: float = 0
    drop_if_older_than_ms: int | None = None

    def __post_init__(self) -> None:
        check_ms("max_time_diff_ms", self.max_time_diff_ms)
        check_ms("min_interval_ms", self.min_interval_ms)
        if self.drop_if_older_than_ms is not None:
            check_ms("drop_if_older_than_ms", self.drop_if_older_than_ms)

    def is_too_old(self, example: Example, now: Now) -> bool:
        """Whether the example's capture lies too far back to start something with it."""
        limit_ms = self.drop_if_older_than_ms
        return limit_ms is not None and now.wall_ms - example.capture_ms > limit_ms


class Join(Protocol):
    """Decides step by step what a task runs on."""

    @property
    def serves_at_once(self) -> str | None:
        """The task's parameter, where `decide` would make a job of each arrival and nothing else."""

    @property
    def full(self) -> frozenset[str]:
        """Sources of which it can't take more for now."""

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for (`arrival` is None)."""

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Use these examples no more, if they are held. Those that were, for the caller to release."""


class NoJoin:
    """One source: nothing is joined, and all of it is served, in the order in which it arrives.

    Also what comes late, as after the death of a replica. Only what arrives during the interval between two starts
    competes: the newest is served when the interval ends.
    """

    full: frozenset[str] = frozenset()

    def __init__(self, policy: JoinPolicy) -> None:
        self._policy = policy
        self._pace = Pace(policy.min_interval_ms)
        (self._parameter,) = policy.parameters
        is_limited = policy.min_interval_ms > 0 or policy.drop_if_older_than_ms is not None
        self.serves_at_once = None if is_limited else self._parameter
        self._next: Example | None = None

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for."""
        decision = Decision()
        if arrival is not None:
            self._offer(arrival, now, decision)
        chosen = self._next
        if chosen is None:
            return decision
        if not self._pace.is_due(now):
            decision.wake_steady_ms = self._pace.next_start_steady_ms
            return decision
        self._next = None
        if self._policy.is_too_old(chosen, now):
            decision.let_go(chosen, Fate.TOO_OLD)
            return decision
        self._pace.started(now)
        chosen.is_used = True
        decision.job = Job(({self._parameter: chosen},), (chosen,))
        decision.released.append(chosen)
        return decision

    def _offer(self, example: Example, now: Now, decision: Decision) -> None:
        waiting = self._next
        if self._policy.is_too_old(example, now):
            decision.let_go(example, Fate.TOO_OLD)
        elif waiting is not None and example.capture_ms < waiting.capture_ms:
            decision.let_go(example, Fate.OUT_OF_ORDER)
        else:
            if waiting is not None:
                decision.let_go(waiting, Fate.SUPERSEDED)
            self._next = example

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Nothing that was used is held."""
        return []


class LatestJoin:
    """Runs as soon as any source has something new, on the newest example of each.

    An example stays until a newer one of its source takes its place, or until another source is further on than
    `max_time_diff_ms`, when it can never match again. With `no_overlap` it goes when it is used.
    """

    serves_at_once = None
    full: frozenset[str] = frozenset()

    def __init__(self, policy: JoinPolicy) -> None:
        self._policy = policy
        self._pace = Pace(policy.min_interval_ms)
        self._sources = tuple(policy.parameters.values())
        self._held: dict[str, Example] = {}
        self._newest_ms: dict[str, int] = {}

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for."""
        decision = Decision()
        if arrival is not None:
            self._offer(arrival, now, decision)
        if not self._is_complete():
            return decision
        if not self._pace.is_due(now):
            decision.wake_steady_ms = self._pace.next_start_steady_ms
            return decision
        if not self._has_grown_old(now, decision):
            decision.job = self._start(now, decision)
        return decision

    def _offer(self, example: Example, now: Now, decision: Decision) -> None:
        if self._policy.is_too_old(example, now):
            decision.let_go(example, Fate.TOO_OLD)
            return
        source, capture_ms = example.source, example.capture_ms
        if capture_ms < self._newest_ms.get(source, capture_ms):
            decision.let_go(example, Fate.OUT_OF_ORDER)
            return
        before = self._held.get(source)
        if before is not None:
            decision.let_go(before, Fate.SUPERSEDED)
        self._held[source] = example
        self._newest_ms[source] = capture_ms
        self._expire(source, decision)

    def _expire(self, changed: str, decision: Decision) -> None:
        """Give up what can't match again now that the source `changed` has got further on."""
        reach_ms = self._policy.max_time_diff_ms
        horizon_ms = self._newest_ms[changed] - reach_ms
        furthest_ms = max(self._newest_ms.values())
        for source in self._sources:
            held = self._held.get(source)
            if held is not None and held.capture_ms < (horizon_ms if source != changed else furthest_ms - reach_ms):
                del self._held[source]
                decision.let_go(held, Fate.EXPIRED)

    def _is_complete(self) -> bool:
        """Whether every source has a value, they lie close enough together, and one of them is new."""
        held = self._held
        if len(held) < len(self._sources):
            return False
        captures = [example.capture_ms for example in held.values()]
        if max(captures) - min(captures) > self._policy.max_time_diff_ms:
            return False
        return any(not example.is_used for example in held.values())

    def _has_grown_old(self, now: Now, decision: Decision) -> bool:
        """Whether something that would be used for the first time has become too old; it is dropped then."""
        if self._policy.drop_if_older_than_ms is None:
            return False
        held = [example for example in self._held.values() if not example.is_used]
        old = [example for example in held if self._policy.is_too_old(example, now)]
        for example in old:
            del self._held[example.source]
            decision.let_go(example, Fate.TOO_OLD)
        return bool(old)

    def _start(self, now: Now, decision: Decision) -> Job:
        self._pace.started(now)
        job = Job(({parameter: self._held[source] for parameter, source in self._policy.parameters.items()},))
        for example in job.examples:
            example.is_used = True
        if self._policy.no_overlap:
            decision.released.extend(self._held.values())
            self._held.clear()
        return job

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Use these examples no more."""
        held = [example for example in examples if self._held.get(example.source) is example]
        for example in held:
            del self._held[example.source]
        return held
