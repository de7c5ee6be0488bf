"""Which examples belong together, and when the task runs on them.

A join takes the examples of several sources one at a time, in the order in which they arrive, and decides by their
capture times. There are two: `LatestJoin` combines the newest values there are, `NearestJoin` finds for each
example of one source its nearest neighbours in the others; `NoJoin` is for a single source. All are pure: time comes
in with each step, and what they hold is all that they know.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Now
from edgeserve._core.pacing import Pace
from edgeserve._core.step import Decision, Example, Fate, Job

_capture_ms = attrgetter("capture_ms")


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


class NearestJoin:
    """Matches each example of the first parameter once, with the nearest of every other source (ties: the earlier).

    A match is final when every other source has come at or past the nearest distance, so that nothing nearer can
    arrive, or after `max_wait_ms`. What is decided then does not depend on how the sources interleaved. An example
    of another source stays as long as it can be the nearest to something that is still to come.
    """

    serves_at_once = None
    full: frozenset[str] = frozenset()

    def __init__(self, policy: JoinPolicy, *, max_wait_ms: float = 1000, max_waiting: int = 10_000) -> None:
        check_ms("max_wait_ms", max_wait_ms)
        check_count("max_waiting", max_waiting)
        self._policy = policy
        self._pace = Pace(policy.min_interval_ms)
        self._max_wait_ms = max_wait_ms
        self._max_waiting = max_waiting
        (self._first_parameter, self._first), *others = policy.parameters.items()
        self._others = dict(others)
        self._waiting: deque[Example] = deque()
        self._candidates: dict[str, list[Example]] = {source: [] for source in self._others.values()}
        self._newest_ms: dict[str, int] = {}

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for."""
        decision = Decision()
        if arrival is not None:
            self._offer(arrival, now, decision)
        self._drop_old(now, decision)
        while self._waiting:
            head = self._waiting[0]
            if self._policy.is_too_old(head, now):
                self._give_up(Fate.TOO_OLD, decision)
                continue
            deadline_ms = head.arrived_steady_ms + self._max_wait_ms
            matched = self._final_match(head)
            # With an arrival more may be there already, and what is there goes before a deadline that has come.
            if matched is None and (arrival is not None or now.steady_ms < deadline_ms):
                decision.wake_steady_ms = deadline_ms
                break
            if matched is None:
                matched = self._nearest_so_far(head)
            if len(matched) < len(self._others):
                self._give_up(Fate.EXPIRED, decision)
            elif not self._pace.is_due(now):
                self._give_up(Fate.SUPERSEDED, decision)
            elif decision.job is None:
                decision.job = self._start(matched, now, decision)
            else:
                decision.wake_steady_ms = now.steady_ms  # one job a step: the next one is due at once
                break
        self._forget(decision)
        return decision

    def _offer(self, example: Example, now: Now, decision: Decision) -> None:
        if self._policy.is_too_old(example, now):
            decision.let_go(example, Fate.TOO_OLD)
            return
        source = example.source
        if example.capture_ms < self._newest_ms.get(source, example.capture_ms):
            decision.let_go(example, Fate.OUT_OF_ORDER)
            return
        self._newest_ms[source] = example.capture_ms
        if source == self._first:
            self._waiting.append(example)
            if len(self._waiting) > self._max_waiting:
                self._give_up(Fate.EVICTED, decision)
        else:
            candidates = self._candidates[source]
            candidates.append(example)
            if len(candidates) > self._max_waiting:
                decision.let_go(candidates.pop(0), Fate.EVICTED)

    def _give_up(self, fate: Fate, decision: Decision) -> None:
        decision.let_go(self._waiting.popleft(), fate)

    def _final_match(self, head: Example) -> dict[str, Example] | None:
        """The final matches of `head` by source, without those that have none; None while any is not final."""
        reach_ms = self._policy.max_time_diff_ms
        matched = self._nearest_so_far(head)
        for source in self._candidates:
            nearest = matched.get(source)
            newest_ms = self._newest_ms.get(source)
            if newest_ms is None:
                return None
            if nearest is not None:
                if newest_ms < head.capture_ms + abs(nearest.capture_ms - head.capture_ms):
                    return None
            elif newest_ms <= head.capture_ms + reach_ms:
                return None
        return matched

    def _nearest_so_far(self, head: Example) -> dict[str, Example]:
        """The nearest example of each source within reach of `head`, among those that have arrived."""
        nearest = {}
        for source, candidates in self._candidates.items():
            index = _nearest_index(candidates, head.capture_ms)
            if index is not None and _distance_ms(candidates[index], head) <= self._policy.max_time_diff_ms:
                nearest[source] = candidates[index]
        return nearest

    def _drop_old(self, now: Now, decision: Decision) -> None:
        """Drop what would be used for the first time now and is too old for that."""
        if self._policy.drop_if_older_than_ms is None:
            return
        oldest_ms = now.wall_ms - self._policy.drop_if_older_than_ms
        for source, candidates in self._candidates.items():
            old = bisect_left(candidates, oldest_ms, key=_capture_ms)
            if old:
                _let_go_all([example for example in candidates[:old] if not example.is_used], Fate.TOO_OLD, decision)
                self._candidates[source] = [example for example in candidates[:old] if example.is_used]
                self._candidates[source] += candidates[old:]

    def _start(self, matched: Mapping[str, Example], now: Now, decision: Decision) -> Job:
        self._pace.started(now)
        head = self._waiting.popleft()
        decision.released.append(head)
        inputs = {self._first_parameter: head}
        inputs |= {parameter: matched[source] for parameter, source in self._others.items()}
        for example in inputs.values():
            example.is_used = True
        if self._policy.no_overlap:
            for source, example in matched.items():
                self._candidates[source].remove(example)
            decision.released.extend(matched.values())
        return Job((inputs,))

    def _forget(self, decision: Decision) -> None:
        """Let go of candidates that can't be the nearest to anything that waits or is still to come."""
        if self._waiting:
            earliest_ms = self._waiting[0].capture_ms
        elif self._first in self._newest_ms:
            earliest_ms = self._newest_ms[self._first]
        else:
            return
        for source, candidates in self._candidates.items():
            out_of_reach = bisect_left(candidates, earliest_ms - self._policy.max_time_diff_ms, key=_capture_ms)
            _let_go_all(candidates[:out_of_reach], Fate.EXPIRED, decision)
            superseded = out_of_reach
            if not self._policy.no_overlap:
                superseded = _first_useful(candidates, earliest_ms, out_of_reach)
                _let_go_all(candidates[out_of_reach:superseded], Fate.SUPERSEDED, decision)
            if superseded:
                self._candidates[source] = candidates[superseded:]

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Use these examples no more."""
        held = [example for example in examples if example in self._candidates.get(example.source, ())]
        for example in held:
            self._candidates[example.source].remove(example)
        return held


def _distance_ms(one: Example, other: Example) -> int:
    return abs(one.capture_ms - other.capture_ms)


def _nearest_index(candidates: list[Example], capture_ms: int) -> int | None:
    """Where in `candidates`, sorted by capture, the nearest to `capture_ms` is; the earliest of several."""
    after = bisect_left(candidates, capture_ms, key=_capture_ms)
    if after == 0:
        return 0 if candidates else None
    before_ms = candidates[after - 1].capture_ms
    if after < len(candidates) and candidates[after].capture_ms - capture_ms < capture_ms - before_ms:
        return after
    return bisect_left(candidates, before_ms, key=_capture_ms)


def _first_useful(candidates: list[Example], earliest_ms: int, start: int) -> int:
    """The first of those captured last before or at `earliest_ms`: what is earlier is always further away."""
    past = bisect_right(candidates, earliest_ms, key=_capture_ms)
    if past <= start:
        return start
    return max(start, bisect_left(candidates, candidates[past - 1].capture_ms, key=_capture_ms))


def _let_go_all(examples: Iterable[Example], fate: Fate, decision: Decision) -> None:
    for example in examples:
        decision.let_go(example, fate)
