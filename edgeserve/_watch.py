"""The open operators of this process, for those who watch them: what they count, and while somebody asks, how long.

Meters are on while somebody watches, and off otherwise: then an operator's step costs what it costs unwatched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from edgeserve._core.clock import Clock
from edgeserve._core.histogram import Histogram
from edgeserve._core.kinds import kinds_of
from edgeserve._core.ledger import FetchStats, Stats
from edgeserve._core.meter import Meter
from edgeserve._core.observing import Observer

# Of so many keys it is kept what closed operators had counted; then those are forgotten of which none was closed for
# the longest.
_MOST_PAST = 5000


class Key(NamedTuple):
    """Which operator it is. Replicas in one process, and an operator that is made anew, have the same."""

    operator: str
    kind: str
    topics_in: tuple[str, ...]
    topics_out: tuple[str, ...]


class Watched:
    """An open operator, as far as watching goes.

    Args:
        key: Which it is.
        clock: Its clock.
        stats: Its counts.
        queue_length: How much has arrived and was not taken by a step: examples, and messages that were not opened.
        tell: Adds an observer.
        tell_no_more: Takes it away.
    """

    def __init__(
        self,
        key: Key,
        clock: Clock,
        stats: Callable[[], Stats],
        queue_length: Callable[[], int],
        tell: Callable[[Observer], None],
        tell_no_more: Callable[[Observer], None],
    ) -> None:
        self.key = key
        self.meter = Meter(clock)
        self.stats = stats
        self.queue_length = queue_length
        self._tell = tell
        self._tell_no_more = tell_no_more

    def measure(self, *, on: bool) -> None:
        """Turn its meter on or off; it goes on where it was."""
        if on:
            self.meter.begin()
            self._tell(self.meter)
        else:
            self._tell_no_more(self.meter)


@dataclass(frozen=True)
class Reading:
    """What was seen of one operator, or of all that have its key.

    Attributes:
        stats: The counts.
        queued: How much had arrived and was not taken by a step.
        step, fetch, end_to_end: See `Meter`; of the time for which it was on.
        open: How many operators are open.
    """

    stats: Stats
    queued: int
    step: Histogram
    fetch: Histogram
    end_to_end: Histogram
    open: int = 1

    def plus(self, other: Reading) -> Reading:
        """Both together."""
        return Reading(
            _sum_of(self.stats, other.stats),
            self.queued + other.queued,
            self.step.plus(other.step),
            self.fetch.plus(other.fetch),
            self.end_to_end.plus(other.end_to_end),
            self.open + other.open,
        )

    def closed(self) -> Reading:
        """What stays of it when its operator is closed: what was counted."""
        fetches = replace(self.stats.fetches, unmoved_bytes=0)
        return replace(self, stats=replace(self.stats, held=0, unconfirmed=0, fetches=fetches), queued=0, open=0)


def _sum_of(one: Stats, other: Stats) -> Stats:
    added: dict[str, Any] = {}
    for each in fields(Stats):
        mine, others = getattr(one, each.name), getattr(other, each.name)
        if isinstance(mine, Mapping):
            added[each.name] = {name: mine.get(name, 0) + others.get(name, 0) for name in {**mine, **others}}
        elif isinstance(mine, FetchStats):
            counts = {name.name: getattr(mine, name.name) + getattr(others, name.name) for name in fields(FetchStats)}
            # Of two medians there is no sum: the histogram has the times.
            added[each.name] = FetchStats(**{**counts, "median_ms": 0.0, "p99_ms": 0.0})
        else:
            added[each.name] = mine + others
    return Stats(**added)


class _State:
    """What this process knows; a child of fork begins with nothing.

    Attributes:
        lock: Guards the rest. Nothing of the user's runs under it.
        open: The open operators.
        past: What those that were closed had counted, while somebody keeps totals.
        watchers: Who watches.
        keepers: Those of them who keep totals.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler of the user's may close operators, too
        self.open: dict[Watched, None] = {}
        self.past: dict[Key, Reading] = {}
        self.watchers: set[str] = set()
        self.keepers: set[str] = set()


_state = _State()


def opened(watched: Watched) -> None:
    """An operator was opened."""
    with _state.lock:
        _state.open[watched] = None
        if _state.watchers:
            watched.measure(on=True)


def closed(watched: Watched) -> None:
    """An operator was closed."""
    with _state.lock:
        if watched in _state.open:
            del _state.open[watched]
            if _state.keepers:
                last = _read(watched).closed()
                before = _state.past.pop(watched.key, None)
                _state.past[watched.key] = last if before is None else before.plus(last)
                if len(_state.past) > _MOST_PAST:
                    del _state.past[next(iter(_state.past))]


def has_open() -> bool:
    """Whether any operator is open."""
    with _state.lock:
        return bool(_state.open)


def forget_parents() -> None:
    """In a child of fork: what is open is the parent's."""
    global _state  # noqa: PLW0603 - its lock may have been taken
    _state = _State()


def turn_on(watcher: str, *, keeps_totals: bool = False) -> None:
    """Have steps measured from now on, for one who watches; with totals, of operators that are closed meanwhile too."""
    with _state.lock:
        if not _state.watchers:
            for watched in _state.open:
                watched.measure(on=True)
        _state.watchers.add(watcher)
        if keeps_totals:
            _state.keepers.add(watcher)


def turn_off(watcher: str) -> None:
    """Have them measured no longer, unless somebody else watches."""
    with _state.lock:
        if watcher not in _state.watchers:
            return
        _state.watchers.discard(watcher)
        _state.keepers.discard(watcher)
        if not _state.watchers:
            for watched in _state.open:
                watched.measure(on=False)
        if not _state.keepers:
            _state.past.clear()


def readings() -> Mapping[Watched, Reading]:
    """What is to be seen of each open operator."""
    with _state.lock:
        return {watched: _read(watched) for watched in _state.open}


def totals() -> Mapping[Key, Reading]:
    """What was counted since somebody keeps totals, and before by operators that were open then; by key."""
    with _state.lock:
        found = dict(_state.past)
        for watched in _state.open:
            reading = _read(watched)
            before = found.get(watched.key)
            found[watched.key] = reading if before is None else before.plus(reading)
        return found


def _read(watched: Watched) -> Reading:
    meter = watched.meter
    times = (meter.step.copy(), meter.fetch.copy(), meter.end_to_end.copy())
    return Reading(watched.stats(), watched.queue_length(), *times)


def key_of(operator: Any, name: str, topics_in: Sequence[str], topics_out: Sequence[str]) -> Key:
    """The key of an operator."""
    return Key(name, kind_of(operator), tuple(topics_in), tuple(topics_out))


def kind_of(operator: Any) -> str:
    """An operator's class; of a class of the user's, that which it is made of."""
    return kinds_of(operator)[0]
