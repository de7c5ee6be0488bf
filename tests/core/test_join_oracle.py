"""Both joins against a brute-force oracle: literal readings of their definitions, over thousands of random runs.

The oracles recompute everything from the whole history at each step, where the joins keep only what they need.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from edgeserve._core.clock import Now
from edgeserve._core.join import Join, JoinPolicy, LatestJoin, NoJoin
from edgeserve._core.ledger import Ledger
from edgeserve._core.nearest_join import NearestJoin
from edgeserve._core.step import Decision, Example, Fate, Parcel

START_MS = 1_700_000_000_000


@dataclass
class Run:
    """A random set-up and the arrivals in it: (steady ms at arrival, source, capture ms)."""

    policy: JoinPolicy
    arrivals: list[tuple[float, str, int]]
    rng: random.Random


def random_run(seed: int, *, overlapping: bool | None = None, paced: bool | None = None, aged: bool = True) -> Run:
    rng = random.Random(seed)
    sources = "abcd"[: rng.randint(1 if paced is None else 2, 4)]
    periods = {source: rng.choice([1, 3, 10, 40]) for source in sources}
    skew = {source: rng.choice([0, 0, 5, -7, 30]) for source in sources}
    arrivals = []
    for source in sources:
        time_ms = 0.0
        for _ in range(rng.randint(0, 25)):
            time_ms += rng.choice([0, 1, 1, 2]) * periods[source]
            late_ms = rng.choice([0, 0, 0, 1, 15, 60])
            arrivals.append((time_ms + late_ms, source, START_MS + int(time_ms) + skew[source]))
    arrivals.sort(key=lambda arrival: arrival[0])
    policy = JoinPolicy(
        {source: source for source in sources},
        max_time_diff_ms=rng.choice([0, 1, 5, 20, 1000]),
        no_overlap=rng.random() < 0.4 if overlapping is None else not overlapping,
        min_interval_ms=(rng.choice([0, 0, 7, 50]) if paced is None else 7 * paced),
        drop_if_older_than_ms=rng.choice([None, None, 10, 40]) if aged else None,
    )
    return Run(policy, arrivals, rng)


@dataclass
class Played:
    """What a join decided: the matches as tuples of indices of arrivals, by parameter, and every fate."""

    matches: list[tuple[int, ...]] = field(default_factory=list)
    fates: dict[int, Fate] = field(default_factory=dict)
    moments: int = 0


def held_by(join: Join) -> list[Example]:
    """What a join may still use."""
    if isinstance(join, NoJoin):
        return [] if join._next is None else [join._next]
    if isinstance(join, LatestJoin):
        return list(join._held.values())
    assert isinstance(join, NearestJoin)
    return [*join._waiting, *(example for candidates in join._candidates.values() for example in candidates)]


def play(join: Join, run: Run, *, end_ms: float = 1e6) -> Played:
    """Feed arrivals and due moments to a join as an operator does, checking the ledger's sum at every step."""
    ledger, played, wake_ms = Ledger(), Played(), None
    examples: dict[bytes, int] = {}
    acknowledged: set[int] = set()

    def carry_out(decision: Decision) -> None:
        nonlocal wake_ms
        wake_ms = decision.wake_steady_ms
        fates = [*decision.fates]
        if decision.job is not None:
            fates += [(example, Fate.USED) for example in decision.job.examples if example.fate is None]
            played.matches.append(tuple(examples[example.id] for example in decision.job.examples))
        acknowledged.update(parcel.delivery for parcel in ledger.carry_out(decision))
        for example, fate in fates:
            assert examples[example.id] not in played.fates
            played.fates[examples[example.id]] = fate
        if decision.job is not None:
            ledger.settle(decision.job.examples, Fate.USED)
            assert acknowledged.isdisjoint(examples[example.id] for example in decision.job.examples)
            acknowledged.update(parcel.delivery for parcel in ledger.release(decision.job.examples))
        assert acknowledged == set(examples.values()) - {examples[example.id] for example in held_by(join)}
        stats = ledger.stats(sent=0, unconfirmed=0)
        assert stats.received == sum(stats.fates.values()) + stats.held
        assert dict(Counter(played.fates.values())) == dict(stats.fates)

    def moments_until(steady_ms: float) -> None:
        while wake_ms is not None and wake_ms <= steady_ms:
            played.moments += 1
            assert played.moments < 10_000, "the join asks for the same moment again and again"
            carry_out(join.decide(None, Now(START_MS + int(wake_ms), wake_ms)))

    for index, (steady_ms, source, capture_ms) in enumerate(run.arrivals):
        moments_until(steady_ms - 0.001)
        example = Example(index.to_bytes(16, "big"), source, index, capture_ms, parcel=Parcel(index))
        example.arrived_steady_ms = steady_ms
        examples[example.id] = index
        ledger.receive([example])
        assert example.fate is None
        carry_out(join.decide(example, Now(START_MS + int(steady_ms), steady_ms)))
    moments_until(end_ms)
    held = ledger.stats(sent=0, unconfirmed=0).held
    assert held == len(run.arrivals) - len(played.fates)
    return played


class LatestOracle:
    """The definition of `join='latest'`, recomputed from the whole history at each moment."""

    def __init__(self, run: Run) -> None:
        self.policy, self.arrivals = run.policy, run.arrivals
        self.sources = list(run.policy.parameters)
        self.seen: list[int] = []
        self.gone: dict[int, Fate | None] = {}
        self.used: set[int] = set()
        self.matches: list[tuple[int, ...]] = []
        self.next_start_ms = float("-inf")

    def capture(self, index: int) -> int:
        return self.arrivals[index][2]

    def lose(self, index: int, fate: Fate) -> None:
        self.gone[index] = None if index in self.used else fate

    def current(self, source: str) -> int | None:
        held = [index for index in self.seen if self.arrivals[index][1] == source and index not in self.gone]
        assert len(held) <= 1
        return held[0] if held else None

    def is_old(self, index: int, now_ms: float) -> bool:
        limit = self.policy.drop_if_older_than_ms
        return limit is not None and START_MS + int(now_ms) - self.capture(index) > limit

    def offer(self, index: int, now_ms: float) -> None:
        source = self.arrivals[index][1]
        if self.is_old(index, now_ms):
            self.gone[index] = Fate.TOO_OLD
            return
        rivals = self.seen if len(self.sources) > 1 else [i for i in self.seen if i not in self.gone]
        if any(self.arrivals[i][1] == source and self.capture(i) > self.capture(index) for i in rivals):
            self.gone[index] = Fate.OUT_OF_ORDER
            return
        before = self.current(source)
        if before is not None:
            self.lose(before, Fate.SUPERSEDED)
        self.seen.append(index)
        if len(self.sources) > 1:
            for i in self.seen:
                others = [j for j in self.seen if self.arrivals[j][1] != self.arrivals[i][1]]
                is_passed = any(self.capture(j) - self.capture(i) > self.policy.max_time_diff_ms for j in others)
                if i not in self.gone and is_passed:
                    self.lose(i, Fate.EXPIRED)

    def candidates(self) -> tuple[int, ...] | None:
        held = [self.current(source) for source in self.sources]
        chosen = tuple(index for index in held if index is not None)
        if len(chosen) < len(held) or all(index in self.used for index in chosen):
            return None
        spread = max(map(self.capture, chosen)) - min(map(self.capture, chosen))
        return chosen if spread <= self.policy.max_time_diff_ms else None

    def fire(self, now_ms: float) -> None:
        chosen = self.candidates()
        if chosen is None or now_ms < self.next_start_ms:
            return
        old = [index for index in chosen if index not in self.used and self.is_old(index, now_ms)]
        for index in old:
            self.lose(index, Fate.TOO_OLD)
        if old:
            return
        self.next_start_ms = now_ms + self.policy.min_interval_ms
        self.matches.append(chosen)
        for index in chosen:
            self.used.add(index)
            if self.policy.no_overlap or len(self.sources) == 1:
                self.gone[index] = None

    def run(self) -> Played:
        for index, (now_ms, _, _) in enumerate(self.arrivals):
            self.moments(now_ms - 0.001)
            self.offer(index, now_ms)
            self.fire(now_ms)
        self.moments(1e6)
        fates = {index: fate for index, fate in self.gone.items() if fate is not None and index not in self.used}
        return Played(self.matches, fates | dict.fromkeys(self.used, Fate.USED))

    def moments(self, until_ms: float) -> None:
        while self.candidates() is not None and self.next_start_ms <= until_ms:
            self.fire(self.next_start_ms)


def nearest_oracle(run: Run) -> Played:
    """The definition of `join='nearest'` for a run without time limits, from each source's accepted sequence alone."""
    first, *others = run.policy.parameters
    accepted: dict[str, list[int]] = {source: [] for source in run.policy.parameters}
    played = Played()
    for index, (_, source, capture_ms) in enumerate(run.arrivals):
        if accepted[source] and run.arrivals[accepted[source][-1]][2] > capture_ms:
            played.fates[index] = Fate.OUT_OF_ORDER
        else:
            accepted[source].append(index)

    def capture(index: int) -> int:
        return run.arrivals[index][2]

    taken: set[int] = set()
    for head in accepted[first]:
        nearest = []
        for source in others:
            free = [i for i in accepted[source] if not (run.policy.no_overlap and i in taken)]
            within = [i for i in free if abs(capture(i) - capture(head)) <= run.policy.max_time_diff_ms]
            nearest += [min(within, key=lambda i: (abs(capture(i) - capture(head)), capture(i), i))] if within else []
        if len(nearest) == len(others):
            played.matches.append((head, *nearest))
            taken.update(nearest)
            played.fates[head] = Fate.USED
        else:
            played.fates[head] = Fate.EXPIRED
    for index in taken:
        played.fates[index] = Fate.USED
    return played


@pytest.mark.parametrize("block", range(20))
def test_the_latest_join_does_what_its_definition_says(block: int) -> None:
    for seed in range(block * 250, (block + 1) * 250):
        run = random_run(seed)
        expected = LatestOracle(run).run()
        is_single = len(run.policy.parameters) == 1
        played = play(NoJoin(run.policy) if is_single else LatestJoin(run.policy), run)
        assert played.matches == expected.matches, f"seed {seed}: {run.policy}"
        assert played.fates == expected.fates, f"seed {seed}: {run.policy}"


@pytest.mark.parametrize("block", range(20))
def test_the_nearest_join_does_what_its_definition_says(block: int) -> None:
    for seed in range(block * 200, (block + 1) * 200):
        run = random_run(seed, paced=False, aged=False)
        expected = nearest_oracle(run)
        played = play(NearestJoin(run.policy, max_wait_ms=1e5), run)
        assert played.matches == expected.matches, f"seed {seed}: {run.policy}"
        first = next(iter(run.policy.parameters))
        for index, (_, source, _) in enumerate(run.arrivals):
            if source == first or expected.fates.get(index) in (Fate.USED, Fate.OUT_OF_ORDER):
                assert played.fates[index] is expected.fates[index], f"seed {seed}: arrival {index}"
            else:  # never the nearest: given up early, late, or still held at the end
                assert played.fates.get(index) in (None, Fate.SUPERSEDED, Fate.EXPIRED), f"seed {seed}: {index}"


@pytest.mark.parametrize("block", range(5))
def test_the_nearest_join_does_not_depend_on_how_the_sources_interleave(block: int) -> None:
    for seed in range(block * 100, (block + 1) * 100):
        run = random_run(seed, paced=False, aged=False)
        expected = play(NearestJoin(run.policy, max_wait_ms=1e5), run).matches

        def captures(matches: list[tuple[int, ...]], arrivals: list[tuple[float, str, int]]) -> list[tuple[int, ...]]:
            return [tuple(arrivals[index][2] for index in match) for match in matches]

        by_source = {source: [a for a in run.arrivals if a[1] == source] for source in run.policy.parameters}
        for _ in range(4):
            order = [source for source, items in by_source.items() for _ in items]
            run.rng.shuffle(order)
            streams = {source: iter(items) for source, items in by_source.items()}
            shuffled = [(float(i), *next(streams[source])[1:]) for i, source in enumerate(order)]
            again = play(NearestJoin(run.policy, max_wait_ms=1e5), Run(run.policy, shuffled, run.rng)).matches
            assert captures(again, shuffled) == captures(expected, run.arrivals), f"seed {seed}"


@pytest.mark.parametrize("block", range(5))
def test_the_nearest_join_with_every_limit_keeps_its_promises(block: int) -> None:
    for seed in range(block * 200, (block + 1) * 200):
        run = random_run(seed, paced=bool(seed % 2))
        max_waiting = run.rng.choice([1, 3, 100])
        join = NearestJoin(run.policy, max_wait_ms=run.rng.choice([0, 20, 200]), max_waiting=max_waiting)
        played = play(join, run)
        captures = [[run.arrivals[index][2] for index in match] for match in played.matches]
        for match in captures:
            assert all(abs(ms - match[0]) <= run.policy.max_time_diff_ms for ms in match), f"seed {seed}"
        heads = [match[0] for match in played.matches]
        assert heads == sorted(heads, key=lambda index: (run.arrivals[index][2], index)), f"seed {seed}"
        assert len(set(heads)) == len(heads), f"seed {seed}"
        if run.policy.no_overlap:
            every = [index for match in played.matches for index in match]
            assert len(set(every)) == len(every), f"seed {seed}"
        first = next(iter(run.policy.parameters))
        waiting = [i for i, arrival in enumerate(run.arrivals) if arrival[1] == first and i not in played.fates]
        assert waiting == [], f"seed {seed}: no example of the first source waits for ever"
