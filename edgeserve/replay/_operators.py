"""The operators of a log: the runs of each, and which of them is meant."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeserve.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

# So many runs are named in an error.
_MOST_NAMED = 10


@dataclass(frozen=True)
class OperatorRun:
    """One run of one operator, as its log says.

    Attributes:
        id: What tells it from all other runs.
        operator: Its operator's name.
        operator_class: Its operator's class.
        host: Where it ran.
        started_ms: When, ms since the epoch.
        topics_in: What it read.
        topics_out: What it wrote.
        knobs: The arguments of its join, by name; {} for a source.
        has_payloads: Whether its log has payloads.
        files: The files of its log, in order; none if it was made by running another one again.
        is_from_start: Whether its log begins where it did; else its first files are not there, as `max_bytes` had them
            removed.
        lost: How many records the log misses, as the disk did not take them in time.
        torn_bytes: How many bytes at the end of its files are no whole records: it was killed while it wrote them.
        was_closed: Whether it was closed; else it was killed, or is running.
    """

    id: str
    operator: str
    operator_class: str
    host: str
    started_ms: int
    topics_in: Sequence[str]
    topics_out: Sequence[str]
    knobs: Mapping[str, Any]
    has_payloads: bool
    files: Sequence[Path]
    is_from_start: bool
    lost: int
    torn_bytes: int
    was_closed: bool


@dataclass(frozen=True)
class LoggedOperator:
    """Runs of one operator, by their places in `ReplayLog.runs`.

    Attributes:
        name: What it is called: its name, and where others of the log have the same one, more.
        runs: The runs.
    """

    name: str
    runs: Mapping[int, OperatorRun]

    @property
    def latest(self) -> OperatorRun:
        """The last one that was started."""
        return max(self.runs.values(), key=lambda run: run.started_ms)

    @property
    def is_source(self) -> bool:
        """Whether it reads no topic."""
        return not self.latest.topics_in

    @property
    def is_sink(self) -> bool:
        """Whether it writes no topic."""
        return not self.latest.topics_out

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """What a table of the log has of it."""
        return table[table["run"].isin(list(self.runs))]

    def name_of(self, run: OperatorRun) -> str:
        """What one of its runs is called."""
        return self.name if len(self.runs) == 1 else f"{self.name} (run of {moment(run.started_ms)})"

    def only_place(self) -> int:
        """Where its run is.

        Raises:
            UsageError: There are several.
        """
        if len(self.runs) > 1:
            said = [f"runs[{place}] ({_where(run)})" for place, run in self.runs.items()]
            more = [f"{len(said) - _MOST_NAMED} more"] if len(said) > _MOST_NAMED else []
            raise UsageError(
                f"the log has {len(said)} runs of {self.name!r}: give operator= one of those of the loaded log: "
                f"{', '.join([*said[:_MOST_NAMED], *more])}"
            )
        return next(iter(self.runs))


def operators_of(runs: Sequence[OperatorRun]) -> list[LoggedOperator]:
    """The operators that had these runs: one for each name, class, and topics."""
    found: dict[tuple[str, str, str], dict[int, OperatorRun]] = {}
    for place, run in enumerate(runs):
        found.setdefault((run.operator, run.operator_class, _way(run)), {})[place] = run
    names = Counter(name for name, _, _ in found)
    ways = Counter((name, way) for name, _, way in found)
    operators = []
    for (name, kind, way), of in found.items():
        more = [] if names[name] == 1 else [way] if ways[name, way] == 1 else [kind, way]
        operators.append(LoggedOperator(f"{name} ({' '.join(more)})" if more else name, of))
    return operators


def named(operators: Iterable[LoggedOperator], name: str) -> list[LoggedOperator]:
    """Those of this name; with what is added to tell them apart, that one."""
    known = list(operators)
    return [each for each in known if each.name == name] or [each for each in known if each.latest.operator == name]


def joining(operators: Iterable[LoggedOperator], which: str | OperatorRun | None) -> LoggedOperator:
    """An operator that receives: the one of this name or run; or, where none is said, the one that sends as well.

    Raises:
        UsageError: There is none, or there are several.
    """
    known = [each for each in operators if not each.is_source]
    if which is None:
        found = [each for each in known if not each.is_sink] or known
        if len(found) != 1:
            raise UsageError(f"the log has runs of {_listed(known) or 'no operator that receives'}: give operator=")
        return found[0]
    if isinstance(which, OperatorRun):
        for each in known:
            for place, run in each.runs.items():
                if run.id == which.id:
                    return LoggedOperator(each.name_of(run), {place: run})
        raise UsageError(
            f"the log has no such run of an operator that receives: {which.operator!r} ({_where(which)}) is a source, "
            "or of another log"
        )
    found = named(known, which)
    if not found:
        raise UsageError(f"the log has no operator {which!r} that receives: it has {_listed(known)}")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} operators have the name {which!r}: give operator= one of {_listed(found)}, or one of the "
            "loaded log's runs"
        )
    return found[0]


def moment(wall_ms: float) -> str:
    """A time of a host's clock, in UTC."""
    at = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.timezone.utc)
    return at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00") + "Z"


def _way(run: OperatorRun) -> str:
    """Which topics it is between."""
    ends = {"from": run.topics_in, "to": run.topics_out}
    return " ".join(f"{word} {', '.join(topics)}" for word, topics in ends.items() if topics)


def _where(run: OperatorRun) -> str:
    """When it was started, and where its log is."""
    return f"{moment(run.started_ms)} in {run.files[0]}" if run.files else moment(run.started_ms)


def _listed(operators: Iterable[LoggedOperator]) -> str:
    return ", ".join(sorted(each.name for each in operators))
