"""Trying knobs on a recorded run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._extras import require
from edgeserve._payload import Gate
from edgeserve.errors import UsageError
from edgeserve.replay._again import Log, Replayer, callables_of
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._grid_picture import draw_grid
from edgeserve.replay._log import ReplayLog, answers
from edgeserve.replay._operators import OperatorRun
from edgeserve.replay._tools import IsRight

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_MOST_RUNS = 10_000


class Grid:
    """What a run would have been with each combination of some knobs.

    Attributes:
        table: A row for each combination: the knobs, then

            - `predictions`: how many there were, and `rate_per_s` how many a second, without those of a model that ask
              the next one of its cascade;
            - `coverage`: the share of the first source's examples that went into an output;
            - `timeliness_p50_ms`, `timeliness_p99_ms`: from the capture of a prediction's last input to its use; the
              way to the sink is taken to be as long as it was half of the time in the recorded run, and nothing if that
              has no sink;
            - `staleness_p50_ms`, `staleness_p99_ms`: the same from the capture of its first input;
            - `spread_p50_ms`, `spread_p99_ms`: how far apart its inputs were captured;
            - `dropped`: how many examples were not used;
            - `accuracy`: the share of right predictions, if `is_right` was given.
        knobs: The knobs that were tried, with their values.
    """

    def __init__(self, table: pd.DataFrame, knobs: Mapping[str, Sequence[Any]]) -> None:
        self.table = table
        self.knobs = knobs

    def plot(self, column: str = "timeliness_p99_ms", ax: Axes | None = None) -> Axes:
        """Draw a column of the table over the knobs: a line over one, a map of coloured and labelled cells over two.

        Knobs of which a single value was tried do not count.

        Args:
            column: Which.
            ax: Where to draw; None for a new figure of `matplotlib.pyplot`.

        Raises:
            UsageError: There is no such column, or more than two knobs were varied.
            MissingExtra: matplotlib is not installed.
        """
        return draw_grid(self.table, self.knobs, column, ax)

    def __repr__(self) -> str:
        return f"Grid of {', '.join(self.knobs)}:\n{self.table}"


def grid(
    log: Log,
    knobs: Mapping[str, Sequence[Any]],
    operator: str | OperatorRun | None = None,
    *,
    task: Callable[..., Any] | None = None,
    gate_in: Gate | Mapping[str, Gate] | None = None,
    decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None,
    gate_out: Gate | None = None,
    inputs: Mapping[str, str] | None = None,
    task_ms: float | str | None = None,
    is_right: IsRight | None = None,
) -> Grid:
    """Run a log again with each combination of some knobs.

    Args:
        log: The log, or where it is.
        knobs: Values to try, by the operator's argument: `{'max_time_diff_ms': [10, 50], 'min_interval_ms': [0, 100]}`.
        operator: Whose run, by name, or one of the loaded log's `runs`; None where there is one operator that joins and
            sends.
        task: As for `run`.
        gate_in: As for `run`.
        decode: As for `run`.
        gate_out: As for `run`.
        inputs: As for `run`.
        task_ms: As for `run`; None is `'recorded'` here, so that all combinations are compared on the same clock.
        is_right: As for `run`.

    Raises:
        UsageError: As for `run`; or there are no values, or too many combinations.
        MissingExtra: pandas or pyarrow is not installed.
        Exception: What the task raises.
    """
    count = _combinations(knobs)
    if not 0 < count <= _MOST_RUNS:
        raise UsageError(f"knobs= has {count} combinations: expected 1 to {_MOST_RUNS}")
    callables = callables_of(task, gate_in, decode, gate_out, None)
    replayer = Replayer(
        log,
        operator,
        callables,
        inputs=inputs,
        task_ms=task_ms if task_ms is not None else "recorded",
        is_right=is_right,
    )
    chosen = [dict(zip(knobs, values, strict=True)) for values in itertools.product(*knobs.values())]
    for each in chosen:
        replayer.plan(each)  # all are checked before the first one runs
    trials = Trials(replayer)
    table = require("pandas", "replay", PURPOSE).DataFrame([trials.run(each).row for each in chosen])
    return Grid(table, {name: list(values) for name, values in knobs.items()})


class Trial(NamedTuple):
    """One combination of knobs.

    Attributes:
        row: The knobs and the figures, as in the table of a `Grid`.
        log: The run.
    """

    row: dict[str, Any]
    log: ReplayLog


class Trials:
    """Tries combinations of knobs.

    Args:
        replayer: What runs them.
    """

    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer
        self._to_use_ms = _way_to_use_ms(replayer)

    def run(self, knobs: Mapping[str, Any]) -> Trial:
        """Try one."""
        log = self._replayer.run(knobs)
        return Trial({**knobs, **_figures(log, self._replayer, self._to_use_ms)}, log)


def _combinations(knobs: Mapping[str, Sequence[Any]]) -> int:
    if not isinstance(knobs, Mapping):
        raise UsageError(f"knobs is {knobs!r}: expected a dict of lists of values; the operator comes after it")
    count = 1
    for name, values in knobs.items():
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
            raise UsageError(f"knobs= has {values!r} for {name}: expected a list of values to try")
        count *= len(values)
    return count if knobs else 0


def _way_to_use_ms(replayer: Replayer) -> float:
    """How long it took from the end of the task to the use, half of the times; 0 where no sink has a log."""
    places = [place for place, run in enumerate(replayer.recorded.runs) if run.id == replayer.history.head.run]
    made = answers(replayer.recorded.predictions)
    mine = made[made["run"].isin(places) & made["used_ms"].notna()]
    return float((mine["used_ms"] - mine["finished_ms"]).astype("float64").median()) if len(mine) else 0.0


def _figures(again: ReplayLog, replayer: Replayer, to_use_ms: float) -> dict[str, Any]:
    made = answers(again.predictions)
    ages_ms, spreads_ms = made["age_ms"].astype("float64") + to_use_ms, made["spread_ms"].astype("float64")
    first_source = next(iter(replayer.plan({}).parameters.values()))
    of_first = again.examples[again.examples["source"] == first_source] if first_source else again.examples
    started = made["started_ms"]
    span_s = float(started.max() - started.min()) / 1000 if len(made) > 1 else 0.0
    figures: dict[str, Any] = {
        "predictions": len(made),
        "rate_per_s": (len(made) - 1) / span_s if span_s else float("nan"),
        "coverage": float((of_first["uses"] > 0).mean()) if len(of_first) else float("nan"),
    }
    for name, column in (("timeliness", ages_ms), ("staleness", ages_ms + spreads_ms), ("spread", spreads_ms)):
        for share in (50, 99):
            figures[f"{name}_p{share}_ms"] = float(column.quantile(share / 100)) if len(made) else float("nan")
    figures["dropped"] = len(again.drops)
    if "is_right" in made:
        right = made["is_right"].dropna()
        figures["accuracy"] = float(right.mean()) if len(right) else float("nan")
    return figures
