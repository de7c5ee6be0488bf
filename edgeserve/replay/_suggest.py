"""Choosing knobs on a recorded run: the smallest matching interval, and the highest rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._core.plans import ComputePlan
from edgeserve._extras import require
from edgeserve._payload import Gate
from edgeserve.errors import UsageError
from edgeserve.replay._again import Log, Replayer, callables_of
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._grid import Trials
from edgeserve.replay._log import ReplayLog
from edgeserve.replay._operators import OperatorRun
from edgeserve.replay._tools import IsRight

if TYPE_CHECKING:
    import pandas as pd


# Which spreads of recorded matches are tried as intervals, and which multiples of the task's time as paces.
_SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_WORTH_IT = 0.9
_FACTORS = (0.5, 1, 1.25, 1.5, 2, 3, 5, 8, 13, 21, 34)
_FULL_RATE_MS = 0.0


@dataclass(frozen=True)
class Suggestion:
    """What `suggest` chose.

    Attributes:
        knobs: The arguments to give to the operator.
        is_met: Whether predictions are as timely, and as often right, as was asked for. If nothing that was tried does
            that, the knobs come closest. It says nothing of `coverage`, which the interval has at the full rate.
        expected: What is to be expected with them: the row of `tried`. Its `coverage` is what is used at their pace.
        tried: All that was tried, as the table of a `Grid`.
        why: The choice in words.
    """

    knobs: Mapping[str, Any]
    is_met: bool
    expected: Mapping[str, Any]
    tried: pd.DataFrame
    why: str


def suggest(
    log: Log,
    operator: str | OperatorRun | None = None,
    *,
    timeliness_ms: float | None = None,
    staleness_ms: float | None = None,
    coverage: float = 0.95,
    widest_ms: int | None = None,
    accuracy: float | None = None,
    task: Callable[..., Any] | None = None,
    gate_in: Gate | Mapping[str, Gate] | None = None,
    decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None,
    inputs: Mapping[str, str] | None = None,
    task_ms: float | str | None = None,
    is_right: IsRight | None = None,
) -> Suggestion:
    """Choose the smallest matching interval and the highest rate that meet what is asked for.

    First the smallest `max_time_diff_ms` with which so many of the first source's examples are still matched (and, if
    it is asked for, the predictions are right) as `coverage` says, at the full rate, whichever rate was recorded; then,
    with that, the smallest `min_interval_ms` with which predictions are as timely as they are to be: an operator that
    starts more often than its task can end falls behind. What is tried are multiples of the time that the task takes
    here, as `task_ms` says.

    The two are apart, as no rate can be had at which a task that is too slow uses all that could be matched: the share
    that is used at the pace is `expected['coverage']`, and it is for you to judge.

    Args:
        log: The log, or where it is.
        operator: Whose run, by name, or one of the loaded log's `runs`; None where there is one operator that joins and
            sends.
        timeliness_ms: No more than this from the capture of the last input to the use, for 99 of 100 predictions.
        staleness_ms: The same from the capture of the first input.
        coverage: The share that is to be matched at the full rate, of what `widest_ms` would match; from 0 to 1. It
            chooses the interval alone: with a `min_interval_ms` fewer are used.
        widest_ms: The largest `max_time_diff_ms` that makes sense; None: the recorded one.
        accuracy: The share of predictions that are to be right; needs `task` and `is_right`.
        task: As for `run`.
        gate_in: As for `run`.
        decode: As for `run`.
        inputs: As for `run`.
        task_ms: As for `grid`.
        is_right: As for `run`.

    Raises:
        UsageError: As for `run`; or the operator is no `Compute`, a share is none, or nothing met.
        MissingExtra: pandas or pyarrow is not installed.
        Exception: What the task raises.
    """
    for name, share in (("coverage", coverage), ("accuracy", accuracy)):
        if share is not None and not 0 <= share <= 1:
            raise UsageError(f"{name} is {share!r}: expected a share from 0 to 1")
    if accuracy is not None and is_right is None:
        raise UsageError("accuracy= needs is_right=, which says what is right")
    replayer = Replayer(
        log,
        operator,
        callables_of(task, gate_in, decode, None, None),
        inputs=inputs,
        task_ms=task_ms if task_ms is not None else "recorded",
        is_right=is_right,
    )
    if not isinstance(replayer.history.plan, ComputePlan):
        raise UsageError(f"{replayer.history.head.operator!r} is no Compute: nothing of it is matched by time")
    limits = {"timeliness_p99_ms": timeliness_ms, "staleness_p99_ms": staleness_ms}
    asked = _Asked({name: ms for name, ms in limits.items() if ms is not None}, coverage, accuracy)
    return _Search(
        replayer, asked, widest_ms if widest_ms is not None else replayer.history.plan.max_time_diff_ms
    ).run()


@dataclass(frozen=True)
class _Asked:
    """What is asked for: limits in ms by the table's columns, and shares."""

    limits: Mapping[str, float]
    coverage: float
    accuracy: float | None

    def is_met(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the table meets it. A lower rate leaves out more, so coverage is for the interval alone."""
        return self.is_right(row) and all(row[name] <= limit_ms for name, limit_ms in self.limits.items())

    def is_right(self, row: Mapping[str, Any]) -> bool:
        """Whether so many of the predictions are right."""
        return self.accuracy is None or bool(row["accuracy"] >= self.accuracy)

    def excess(self, row: Mapping[str, Any]) -> float:
        """How far it is off, as a multiple of what was asked for."""
        return max([row[name] / max(limit_ms, 1e-9) for name, limit_ms in self.limits.items()], default=0.0)


class _Tried(NamedTuple):
    """What a trial leaves, which does not take the memory of its log.

    Attributes:
        row: The knobs and the figures.
        task_ms: How long the task took, half of the times.
    """

    row: Mapping[str, Any]
    task_ms: float


class _Search:
    """The interval first, at the full rate, whatever rate was recorded; then the pace."""

    def __init__(self, replayer: Replayer, asked: _Asked, widest_ms: int) -> None:
        self._trials = Trials(replayer)
        self._matches = len(replayer.history.plan.parameters) > 1
        self._asked = asked
        self._widest_ms = widest_ms
        self._rows: list[Mapping[str, Any]] = []

    def run(self) -> Suggestion:
        full = self._interval() if self._matches else self._try({"min_interval_ms": _FULL_RATE_MS})[0]
        row, is_met = self._pace(full)
        knobs = {name: row[name] for name in ("max_time_diff_ms", "min_interval_ms") if name in row}
        table = require("pandas", "replay", PURPOSE).DataFrame(self._rows)
        return Suggestion(knobs, is_met, row, table, _why(full.row, row, is_met=is_met))

    def _interval(self) -> _Tried:
        """The smallest matching interval that leaves enough to be matched, and right."""
        widest, log = self._try({"max_time_diff_ms": self._widest_ms, "min_interval_ms": _FULL_RATE_MS})
        if not len(log.predictions):
            raise UsageError(
                f"nothing meets within {self._widest_ms} ms in this log: there is no interval to suggest (widest_ms= "
                "allows a larger one)"
            )
        # What can make a difference: how far apart the captures of what met lay, when all could meet.
        met = log.predictions["spread_ms"].astype("float64")
        narrower = sorted({math.ceil(met.quantile(share)) for share in _SHARES} - {self._widest_ms})
        tried = [self._try({"max_time_diff_ms": ms, "min_interval_ms": _FULL_RATE_MS})[0] for ms in narrower] + [widest]
        most = max(each.row["coverage"] for each in tried)
        enough = [each for each in tried if each.row["coverage"] >= self._asked.coverage * most]
        right = [each for each in enough if self._asked.is_right(each.row)]
        return (right or enough)[0]

    def _pace(self, full: _Tried) -> tuple[Mapping[str, Any], bool]:
        """The highest rate at which what is asked for is met, and whether it is; else what comes closest."""
        closest = full.row
        if self._asked.is_met(closest):
            return closest, True
        knobs = {name: value for name, value in full.row.items() if name == "max_time_diff_ms"}
        for factor in _FACTORS if full.task_ms else ():
            row = self._try({**knobs, "min_interval_ms": round(full.task_ms * factor, 3)})[0].row
            if self._asked.is_met(row):
                return row, True
            # A lower rate is to bring more than chance does.
            if self._asked.excess(row) < _WORTH_IT * self._asked.excess(closest):
                closest = row
        return closest, False

    def _try(self, knobs: Mapping[str, Any]) -> tuple[_Tried, ReplayLog]:
        row, log = self._trials.run(knobs)
        self._rows.append(row)
        lasted_ms = (log.steps["finished_ms"] - log.steps["started_ms"]).dropna().astype("float64")
        return _Tried(row, float(lasted_ms.median()) if len(lasted_ms) else 0.0), log


def _why(full: Mapping[str, Any], row: Mapping[str, Any], *, is_met: bool) -> str:
    said = [f"{row['coverage']:.1%} of the first source's examples are used, {row['rate_per_s']:.3g} a second"]
    if row["min_interval_ms"]:
        said[0] += f", as the task starts at most every {row['min_interval_ms']:.3g} ms"
        said.append(f"{full['coverage']:.1%} would be at the full rate, later than was asked for or more often wrong")
    said.append(f"99 of 100 predictions are used {row['timeliness_p99_ms']:.3g} ms after their last capture or sooner")
    if "accuracy" in row:
        said.append(f"{row['accuracy']:.1%} are right")
    return ("" if is_met else "nothing that was tried meets what was asked for; closest: ") + "; ".join(said)
