"""Choosing knobs on a recorded run: the smallest matching interval, and the highest rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserve._core.plans import ComputePlan
from edgeserve._extras import require
from edgeserve._payload import Gate
from edgeserve.errors import UsageError
from edgeserve.replay._again import Log, Replayer, callables_of
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._grid import tried
from edgeserve.replay._tools import IsRight

if TYPE_CHECKING:
    import pandas as pd


# Which spreads of recorded matches are tried as intervals, and which multiples of the task's time as paces.
_SHARES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_WORTH_IT = 0.9
_FACTORS = (0.5, 1, 1.25, 1.5, 2, 3, 5, 8, 13, 21, 34)


@dataclass(frozen=True)
class Suggestion:
    """What `suggest` chose.

    Attributes:
        knobs: The arguments to give to the operator.
        is_met: Whether they meet what was asked for. If nothing does, they come closest.
        expected: What is to be expected with them: the row of `tried`.
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
    operator: str | None = None,
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
    it is asked for, the predictions are right) as `coverage` says; then, with that, the smallest `min_interval_ms` with
    which predictions are as timely as they are to be: an operator that starts more often than its task can end falls
    behind.

    Args:
        log: The log, or where it is.
        operator: Whose run; None where there is one operator that joins and sends.
        timeliness_ms: No more than this from the capture of the last input to the use, for 99 of 100 predictions.
        staleness_ms: The same from the capture of the first input.
        coverage: The share that is to be matched at the full rate, of what `widest_ms` would match; from 0 to 1. A
            lower rate leaves out more of them.
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
        is_right = self.accuracy is None or row["accuracy"] >= self.accuracy
        return is_right and all(row[name] <= limit_ms for name, limit_ms in self.limits.items())

    def excess(self, row: Mapping[str, Any]) -> float:
        """How far it is off, as a multiple of what was asked for."""
        return max([row[name] / max(limit_ms, 1e-9) for name, limit_ms in self.limits.items()], default=0.0)


class _Search:
    def __init__(self, replayer: Replayer, asked: _Asked, widest_ms: int) -> None:
        self._replayer = replayer
        self._asked = asked
        self._widest_ms = widest_ms
        self._pandas = require("pandas", "replay", PURPOSE)
        self._tables: list[pd.DataFrame] = []

    def run(self) -> Suggestion:
        plan = self._replayer.history.plan
        matches = len(plan.parameters) > 1
        knobs = {"max_time_diff_ms": self._interval()} if matches else {}
        row, is_met = self._pace(knobs)
        knobs["min_interval_ms"] = row["min_interval_ms"]
        tables = self._pandas.concat(self._tables, ignore_index=True)
        return Suggestion(knobs, is_met, row, tables, self._why(row, is_met=is_met))

    def _interval(self) -> int:
        """The smallest matching interval that leaves enough to be matched, and right."""
        candidates = self._intervals()
        table = self._try({"max_time_diff_ms": candidates})
        if not table["predictions"].any():
            raise UsageError(
                f"nothing meets within {self._widest_ms} ms in this log: there is no interval to suggest (widest_ms= "
                "allows a larger one)"
            )
        enough = table["coverage"] >= self._asked.coverage * table["coverage"].max()
        if self._asked.accuracy is not None:
            right = enough & (table["accuracy"] >= self._asked.accuracy)
            enough = right if right.any() else enough
        return int(table[enough]["max_time_diff_ms"].min())

    def _intervals(self) -> list[int]:
        """What can make a difference: how far apart the captures of what met lay, when all could meet."""
        met = self._replayer.run({"max_time_diff_ms": self._widest_ms}).predictions["spread_ms"].astype("float64")
        spreads = {math.ceil(met.quantile(share)) for share in _SHARES} if len(met) else set()
        return sorted({*spreads, self._widest_ms})

    def _pace(self, knobs: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The highest rate at which what is asked for is met, and whether it is; else what comes closest."""
        closest: dict[str, Any] = {}
        for interval_ms in self._paces():
            row = self._try({**{name: [value] for name, value in knobs.items()}, "min_interval_ms": [interval_ms]})
            found = {str(name): value for name, value in row.iloc[0].to_dict().items()}
            if self._asked.is_met(found):
                return found, True
            # A lower rate is to bring more than chance does.
            if not closest or self._asked.excess(found) < _WORTH_IT * self._asked.excess(closest):
                closest = found
        return closest, False

    def _paces(self) -> list[float]:
        """No limit, then multiples of what the task takes."""
        lasted = sorted(serving.duration_ms for serving in self._replayer.history.servings)
        task_ms = lasted[len(lasted) // 2] if lasted else 1.0
        return [0.0, *(round(task_ms * factor, 3) for factor in _FACTORS if task_ms)]

    def _try(self, knobs: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        table = tried(self._replayer, knobs).table
        self._tables.append(table)
        return table

    def _why(self, row: Mapping[str, Any], *, is_met: bool) -> str:
        said = [f"{row['coverage']:.1%} of the first source's examples are used, {row['rate_per_s']:.3g} a second"]
        said.append(
            f"99 of 100 predictions are used {row['timeliness_p99_ms']:.3g} ms after their last capture or sooner"
        )
        if "accuracy" in row:
            said.append(f"{row['accuracy']:.1%} are right")
        return ("" if is_met else "nothing that was tried meets what was asked for; closest: ") + "; ".join(said)
