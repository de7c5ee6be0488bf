"""A replay log, read: its tables, and a summary of each operator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve._log.reading import LoggedRun, find_runs
from edgeserve.replay._arrays import numbers
from edgeserve.replay._clocks import ClockPair, tell_clocks
from edgeserve.replay._columns import HELD, PURPOSE, Columns, Logged
from edgeserve.replay._operators import LoggedOperator, OperatorRun, joining, operators_of
from edgeserve.replay._pictures import draw_drops, draw_latencies, draw_timeline
from edgeserve.replay._tables import Tables, make_tables
from edgeserve.replay._transfers import fastest_between
from edgeserve.replay._uses import capture_shifts

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class ReplayLog:
    """What was joined with what, when, how late, and what was dropped, over all operators of a run.

    All times are ms since the epoch (floats, where they are finer than ms), durations in ms; ids are text, 32
    hexadecimal digits. The tables are DataFrames, backed by Arrow; `operator` is the operator that a row is of, `run`
    the place of its run in `runs`.

    Attributes:
        examples: A row for each example that an operator received. `received_ms` is when the operator took it from the
            broker's client; `reached_ms` when it had reached the node, which is sooner where the operator was busy:
            then it is as long after it was published as the fastest one of its source took. `fate` is what became of
            it, at `settled_ms` (missing: it is held), `error` what was raised if it was given up, or why it is
            malformed; `uses` how often something came of it.
        sent: A row for each example that a source sent. `taken_ms` is when its stream yielded it, `handed_ms` when it
            had been handed over to be sent: where the source was held up just then, after it arrived.
        steps: A row for each step of an operator. `trigger_id` is the example that arrived (missing: a moment that was
            waited for), `outcome` what was decided: `'ran'`, `'failed'`, `'waits for a match'`, `'waits for its time'`
            (`min_interval_ms`, a batch, `max_wait_ms`), or the fate of the example. Where the task ran, `input_ids` is
            what it ran on; `compute_ms` is without `fetch_ms`.
        predictions: A row for each output that was sent. `input_ids` are the examples it was made from, `spread_ms`
            how far apart they were captured, `is_satisfied` what a model said, `is_escalated` whether it asks the next
            model of a cascade instead of answering. `age_ms` is the time from the capture of its last input until it
            was finished, `timeliness_ms` until it was used, which is when the function of the sink `used_by` was called
            with it, the first one if there are several; `staleness_ms` the same from the capture of the first input. On
            the last input's way, `transfer_ms` was spent between nodes, `queueing_ms` waiting on one, for a match or a
            turn or to be sent, and `compute_ms` in tasks and fetches: they add up to `timeliness_ms`. Where a source
            has no log, its part is in `transfer_ms`. `clock_shift_ms` is what brings `capture_ms` to the clock of the
            other times. `is_right` is there if it was asked for.
        uses: A row for each time that a sink took something: a prediction, or what a source sent. Its times are as in
            the table of predictions.
        drops: The examples that were received and not used, with their fates and errors; `waited_ms` since they had
            reached the node, `age_ms` since they were captured. And the items that sources did not send, which have
            neither of these times.
        runs: What each operator's log says of its run. One of them can be given where an operator is.
        clocks: What is known of each two hosts' clocks.
    """

    def __init__(
        self,
        logged: Sequence[Logged],
        scores: Mapping[bytes, bool] | None = None,
        recorded: ReplayLog | None = None,
    ) -> None:
        """Make the tables of runs; of one that was made again, with what is known by the log that it is of."""
        self._logged = list(logged)
        columns = [Columns(run) for run in self._logged]
        hosts = list(dict.fromkeys(run.head.host for run in columns))
        if recorded is None:
            self._clocks = tell_clocks(hosts, fastest_between(columns) if len(hosts) > 1 else {})
        else:
            self._clocks = recorded._clocks
        self.clocks: Sequence[ClockPair] = self._clocks.pairs
        self.runs: Sequence[OperatorRun] = [_run_of(each, of) for each, of in zip(columns, self._logged, strict=True)]
        self._operators = operators_of(self.runs)
        self._held = [int((run.fate == HELD).sum()) for run in columns]
        known = recorded.origins() if recorded is not None else None
        tables: Tables = make_tables(columns, self._clocks, known)
        self.examples, self.sent, self.steps, self.predictions, self.uses, self.drops = tables
        self._origins = known if known is not None else self.sent
        if scores is not None:
            right = {output_id.hex(): is_right for output_id, is_right in scores.items()}
            said = [right.get(output_id) for output_id in self.predictions["output_id"]]
            pandas = require("pandas", "replay", PURPOSE)
            self.predictions["is_right"] = pandas.array(said, dtype="boolean")

    def origins(self) -> pd.DataFrame:
        """What senders say of examples: `example_id`, `clock_shift_ms`, and a source `taken_ms` and `handed_ms`."""
        pandas = require("pandas", "replay", PURPOSE)
        columns = ["example_id", "taken_ms", "handed_ms", "clock_shift_ms"]
        unknown = {"taken_ms": float("nan"), "handed_ms": float("nan")}
        made = self.predictions.rename(columns={"output_id": "example_id"}).assign(**unknown)
        tables = [each[columns] for each in (self._origins, made) if len(each)]
        return pandas.concat(tables, ignore_index=True) if tables else self._origins

    def logged(self, operator: str | OperatorRun | None = None) -> Logged:
        """The run of an operator that joins, of which there is one, or which is named; or this run.

        Raises:
            UsageError: There is none, or there are several.
        """
        return self._logged[joining(self._operators, operator).only_place()]

    def summary(self) -> pd.DataFrame:
        """A row for each operator, over its runs: what it received and made of it, how fast, how late, what it dropped.

        Operators of one name that are of several classes, or between several topics, have a row each.
        `escalated` are those of `sent` that ask the next model of a cascade, and whose times do not count. `rate_per_s`
        is that of its runs over the time from the first to the last, without the time between several runs of the
        operator; `p50` and `p99` are medians and 99th percentiles.
        """
        pandas = require("pandas", "replay", PURPOSE)
        return pandas.DataFrame([self._row(each) for each in self._operators])

    def _row(self, of: LoggedOperator) -> dict[str, Any]:
        steps, made, is_source = of.rows(self.steps), of.rows(self.predictions), of.is_source
        ran, answered = steps[steps["started_ms"].notna()], answers(made)
        timed = of.rows(self.sent) if is_source else ran
        times = timed["handed_ms" if is_source else "started_ms"]
        of_runs = times.groupby(timed["run"])
        span_s, gaps = float((of_runs.max() - of_runs.min()).sum()) / 1000, int((of_runs.count() - 1).sum())
        return {
            "operator": of.name,
            "class": of.latest.operator_class,
            "received": len(of.rows(self.examples)),
            "runs": len(times) if is_source else len(ran),
            "sent": len(times) if is_source else len(made),
            "escalated": len(made) - len(answered),
            "dropped": len(of.rows(self.drops)),
            "held": sum(self._held[place] for place in of.runs),
            "rate_per_s": gaps / span_s if span_s else float("nan"),
            "compute_p50_ms": _quantile(ran["compute_ms"], 0.5),
            "compute_p99_ms": _quantile(ran["compute_ms"], 0.99),
            "age_p50_ms": _quantile(answered["age_ms"], 0.5),
            "age_p99_ms": _quantile(answered["age_ms"], 0.99),
            "timeliness_p50_ms": _quantile(answered["timeliness_ms"], 0.5),
            "timeliness_p99_ms": _quantile(answered["timeliness_ms"], 0.99),
        }

    def plot_timeline(
        self,
        operator: str | OperatorRun | None = None,
        start_ms: float | None = None,
        duration_ms: float | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw which examples met in which prediction.

        Each source has a lane with a mark for each example at its capture time, whose colour and shape say what became
        of it; above are the predictions, each when it was finished, with lines to what it was made from. For a sink,
        these are its uses.

        Args:
            operator: Whose, by name, over all its runs; or one of `runs`. None where there is one that joins and sends.
            start_ms: Where the window begins, ms since the epoch as in the tables; None: with the first prediction.
            duration_ms: How long it is; None: 30 predictions, or fewer where there were many examples meanwhile.
            ax: Where to draw; None for a new figure of `matplotlib.pyplot`.

        Raises:
            UsageError: There is no such operator, or there are several.
            MissingExtra: matplotlib is not installed.
        """
        of = joining(self._operators, operator)
        examples = of.rows(self.examples).reset_index(drop=True)
        made = of.rows(self.predictions)
        if of.is_sink:
            made = of.rows(self.steps)
            made = made[made["outcome"] == "ran"]
        shifts_ms = capture_shifts(examples["example_id"], self._origins, self.predictions)
        examples = examples.assign(capture_ms=numbers(examples["capture_ms"]) + shifts_ms)
        lanes = self._sources(of, examples)
        return draw_timeline(of.name, examples, made, lanes, start_ms, duration_ms, ax, is_sink=of.is_sink)

    def plot_latencies(self, operator: str | OperatorRun | None = None, ax: Axes | None = None) -> Axes:
        """Draw which share of the predictions was used within how long of its last input's capture.

        With the predictions of one operator, also what of that was spent between nodes, waiting, and computing. Where
        the log has no sink that used them, the time is that until they were finished.

        Args:
            operator: Whose predictions, or by what sink they were used, by name, over all its runs; or one of `runs`.
                None: all, with a line for each operator.
            ax: Where to draw; None for a new figure of `matplotlib.pyplot`.

        Raises:
            UsageError: There is no such operator.
            MissingExtra: matplotlib is not installed.
        """
        made = answers(self.predictions)
        used = made[made["used_ms"].notna()]
        of = joining(self._operators, operator) if operator is not None else None
        if of is not None:
            made, used = of.rows(made), of.rows(self.uses if of.is_sink else used)
        shown, total, end = (used, "timeliness_ms", "use") if len(used) else (made, "age_ms", "finish")
        times = {each.name: numbers(each.rows(shown)[total]) for each in self._operators}
        times = {name: each for name, each in times.items() if len(each)}
        title = f"from the last input's capture to the {end}"
        if len(times) > 1:
            return draw_latencies(times, title, ax)
        parts = {f"to the {end}": numbers(shown[total])}
        if len(used):
            parts |= {part: numbers(shown[f"{part}_ms"]) for part in ("transfer", "queueing", "compute")}
        return draw_latencies(parts, ": ".join([*([of.name] if of is not None else times), title]), ax)

    def plot_drops(self, operator: str | OperatorRun | None = None, ax: Axes | None = None) -> Axes:
        """Draw how many examples were dropped over time, by their fate, and how many were received.

        Args:
            operator: Whose, by name, over all its runs; or one of `runs`. None where there is one that joins and sends.
            ax: Where to draw; None for a new figure of `matplotlib.pyplot`.

        Raises:
            UsageError: There is no such operator, or there are several.
            MissingExtra: matplotlib is not installed.
        """
        of = joining(self._operators, operator)
        return draw_drops(of.name, of.rows(self.examples), ax)

    def _sources(self, of: LoggedOperator, examples: pd.DataFrame) -> list[str]:
        """Where its examples come from: first in the order of the task's parameters, then in that of arrival."""
        plans = [self._logged[place].head.plan for place in of.runs]
        named = [str(source) for plan in plans for source in plan.get("parameters", {}).values()]
        arrived = [str(source) for source in examples["source"].unique()]
        return [source for source in dict.fromkeys([*named, *arrived]) if source in arrived]

    def __repr__(self) -> str:
        names = ", ".join(f"{run.operator} ({run.operator_class})" for run in self.runs)
        return (
            f"ReplayLog of {names}: {len(self.examples)} examples, {len(self.steps)} steps, "
            f"{len(self.predictions)} predictions, {len(self.drops)} drops"
        )


def load(path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> ReplayLog:
    """Read the replay logs of a run: a folder with all that is in it, a file, or several of either.

    A file that is cut off, by a crash or because it is still written to, is read as far as it goes.

    Raises:
        UsageError: There is none, or one was written by a newer version.
        MissingExtra: pandas or pyarrow is not installed.
    """
    return ReplayLog(find_runs(path))


def answers(predictions: pd.DataFrame) -> pd.DataFrame:
    """Those that answer; the others ask the next model of a cascade."""
    return predictions[~predictions["is_escalated"].astype(bool)]


def _run_of(columns: Columns, run: Logged) -> OperatorRun:
    head = columns.head
    return OperatorRun(
        head.run,
        head.operator,
        head.operator_class,
        head.host,
        head.started_ms,
        head.topics_in,
        head.topics_out,
        {name: value for name, value in head.plan.items() if name not in ("parameters", "has_signal")},
        head.has_payloads,
        [file.path for file in run.files] if isinstance(run, LoggedRun) else [],
        run.is_from_start if isinstance(run, LoggedRun) else True,
        columns.lost,
        run.torn_bytes if isinstance(run, LoggedRun) else 0,
        columns.ended is not None,
    )


def _quantile(column: pd.Series, share: float) -> float:
    return float(column.dropna().astype("float64").quantile(share)) if len(column) else float("nan")
