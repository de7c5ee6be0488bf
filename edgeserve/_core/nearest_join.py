"""The join that gives each example of one source its nearest neighbours in the others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Now
from edgeserve._core.join import JoinPolicy
from edgeserve._core.pacing import Pace
from edgeserve._core.step import Decision, Example, Fate, Job

_capture_ms = attrgetter("capture_ms")


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
