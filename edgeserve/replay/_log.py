"""A replay log, read: its tables, and a summary of each operator."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve._log.reading import LoggedRun, find_runs
from edgeserve.errors import UsageError
from edgeserve.replay._clocks import ClockPair, tell_clocks
from edgeserve.replay._columns import HELD, PURPOSE, Columns, Logged
from edgeserve.replay._tables import Tables, make_tables
from edgeserve.replay._transfers import fastest_between

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OperatorRun:
    """One run of one operator, as its log says.

    Attributes:
        operator: Its name.
        operator_class: Its class.
        host: Where it ran.
        started_ms: When, ms since the epoch.
        topics_in: What it read.
        topics_out: What it wrote.
        knobs: The arguments of its join, by name; {} for a source.
        has_payloads: Whether its log has payloads.
        lost: How many records the log misses, as the disk did not take them in time.
        torn_bytes: How many bytes at the end of its files are no whole records: it was killed while it wrote them.
        was_closed: Whether it was closed; else it was killed, or is running.
    """

    operator: str
    operator_class: str
    host: str
    started_ms: int
    topics_in: Sequence[str]
    topics_out: Sequence[str]
    knobs: Mapping[str, Any]
    has_payloads: bool
    lost: int
    torn_bytes: int
    was_closed: bool


class ReplayLog:
    """What was joined with what, when, how late, and what was dropped, over all operators of a run.

    All times are ms since the epoch (floats, where they are finer than ms), durations in ms; ids are text, 32
    hexadecimal digits. The tables are DataFrames, backed by Arrow.

    Attributes:
        examples: A row for each example that an operator received. `received_ms` is when the broker's client handed it
            over; `fate` what became of it, at `settled_ms` (missing: it is held); `uses` how often a task ran on it.
        sent: A row for each example that a source sent. `taken_ms` is when its stream yielded it, `handed_ms` when it
            was handed over to be sent.
        steps: A row for each step of an operator. `trigger_id` is the example that arrived (missing: a moment that was
            waited for), `outcome` what was decided: `'ran'`, `'failed'`, `'waits for a match'`, `'waits for its time'`
            (`min_interval_ms`, a batch, `max_wait_ms`), or the fate of the example. Where the task ran, `input_ids` is
            what it ran on; `compute_ms` is without `fetch_ms`.
        predictions: A row for each output that was sent. `input_ids` are the examples it was made from, `spread_ms`
            how far apart they were captured, `is_satisfied` what a model said. `age_ms` is the time from the capture of
            its last input until it was finished, `timeliness_ms` until it was used, which is when the function of the
            sink `used_by` was called with it; `staleness_ms` the same from the capture of the first input. On the last
            input's way, `transfer_ms` was spent between nodes, `queueing_ms` waiting on one, for a match or a turn, and
            `compute_ms` in tasks and fetches: they add up to `timeliness_ms`. `is_right` is there if it was asked for.
        drops: The examples that were received and not used, with their fates; `waited_ms` since they were received,
            `age_ms` since they were captured.
        runs: What each operator's log says of its run.
        clocks: What is known of each two hosts' clocks.
    """

    def __init__(self, logged: Sequence[Logged], scores: Mapping[bytes, bool] | None = None) -> None:
        self._logged = list(logged)
        columns = [Columns(run) for run in self._logged]
        hosts = list(dict.fromkeys(run.head.host for run in columns))
        clocks = tell_clocks(hosts, fastest_between(columns) if len(hosts) > 1 else {})
        self.clocks: Sequence[ClockPair] = clocks.pairs
        self.runs: Sequence[OperatorRun] = [_run_of(each, of) for each, of in zip(columns, self._logged, strict=True)]
        self._held: Counter[str] = Counter()
        for each in columns:
            self._held[each.head.operator] += int((each.fate == HELD).sum())
        tables: Tables = make_tables(columns, clocks)
        self.examples, self.sent, self.steps, self.predictions, self.drops = tables
        if scores is not None:
            right = {output_id.hex(): is_right for output_id, is_right in scores.items()}
            said = [right.get(output_id) for output_id in self.predictions["output_id"]]
            pandas = require("pandas", "replay", PURPOSE)
            self.predictions["is_right"] = pandas.array(said, dtype="boolean")

    def logged(self, operator: str | None = None) -> Logged:
        """The run of an operator that joins, of which there is one, or which is named.

        Raises:
            UsageError: There is none, or there are several.
        """
        joining = [run for run in self._logged if run.head.plan_kind]
        names = sorted({run.head.operator for run in joining})
        if operator is None:
            joining = [run for run in joining if run.head.topics_out] or joining
            if len(joining) != 1:
                raise UsageError(f"the log has runs of {', '.join(names) or 'no operator that joins'}: give operator=")
            return joining[0]
        found = [run for run in joining if run.head.operator == operator]
        if not found:
            raise UsageError(f"the log has no run of {operator!r} that joins: it has those of {', '.join(names)}")
        if len(found) > 1:
            raise UsageError(f"the log has {len(found)} runs of {operator!r}: load the files of one of them")
        return found[0]

    def summary(self) -> pd.DataFrame:
        """A row for each operator, over its runs: what it received and made of it, how fast, how late, what it dropped.

        `rate_per_s` is that of its runs over the time from the first to the last; `p50` and `p99` are medians and 99th
        percentiles.
        """
        pandas = require("pandas", "replay", PURPOSE)
        first_runs = {run.operator: run for run in reversed(self.runs)}
        names = dict.fromkeys(run.operator for run in self.runs)
        return pandas.DataFrame([self._row(first_runs[name]) for name in names])

    def _row(self, run: OperatorRun) -> dict[str, Any]:
        name = run.operator
        examples = self.examples[self.examples["operator"] == name]
        ran = self.steps[(self.steps["operator"] == name) & self.steps["started_ms"].notna()]
        made = self.predictions[self.predictions["operator"] == name]
        is_source = not run.topics_in
        times = self.sent["handed_ms"] if is_source else ran["started_ms"]
        if is_source:
            times = times[self.sent["operator"] == name]
        span_s = (times.max() - times.min()) / 1000 if len(times) > 1 else 0.0
        return {
            "operator": name,
            "class": run.operator_class,
            "received": len(examples),
            "runs": len(times) if is_source else len(ran),
            "sent": len(times) if is_source else len(made),
            "dropped": int((self.drops["operator"] == name).sum()),
            "held": self._held[name],
            "rate_per_s": (len(times) - 1) / span_s if span_s else float("nan"),
            "compute_p50_ms": _quantile(ran["compute_ms"], 0.5),
            "compute_p99_ms": _quantile(ran["compute_ms"], 0.99),
            "age_p50_ms": _quantile(made["age_ms"], 0.5),
            "age_p99_ms": _quantile(made["age_ms"], 0.99),
            "timeliness_p50_ms": _quantile(made["timeliness_ms"], 0.5),
            "timeliness_p99_ms": _quantile(made["timeliness_ms"], 0.99),
        }

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


def _run_of(columns: Columns, run: Logged) -> OperatorRun:
    head = columns.head
    return OperatorRun(
        head.operator,
        head.operator_class,
        head.host,
        head.started_ms,
        head.topics_in,
        head.topics_out,
        {name: value for name, value in head.plan.items() if name not in ("parameters", "has_signal")},
        head.has_payloads,
        columns.lost,
        run.torn_bytes if isinstance(run, LoggedRun) else 0,
        columns.ended is not None,
    )


def _quantile(column: pd.Series, share: float) -> float:
    return float(column.dropna().astype("float64").quantile(share)) if len(column) else float("nan")
