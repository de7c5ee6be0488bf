"""What replay logs say, in sections of words and numbers for people, and as one object for programs."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve.errors import UsageError
from edgeserve.replay._log import answers

if TYPE_CHECKING:
    import pandas as pd

    from edgeserve.replay import ClockPair, OperatorRun, ReplayLog

_COUNTS = ("received", "runs", "sent", "dropped", "held")
_PARTS = ("transfer_ms", "queueing_ms", "compute_ms")


class Section(NamedTuple):
    """A table.

    Attributes:
        title: What it is about.
        headings: Of its columns.
        rows: The texts of its cells.
        words: How many columns, from the left, are words; the others are numbers.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int


class Report:
    """What a log says.

    Args:
        log: The log.
        operator: The operator that it is about; None for all.

    Raises:
        UsageError: There is no such operator.
    """

    def __init__(self, log: ReplayLog, operator: str | None) -> None:
        names = list(dict.fromkeys(run.operator for run in log.runs))
        if operator is not None and operator not in names:
            raise UsageError(f"--operator is {operator!r}: the log has {', '.join(names)}")
        self.log = log
        self.operators = names if operator is None else [operator]
        self.runs = [run for run in log.runs if run.operator in self.operators]
        summary = log.summary()
        self._summary = summary[summary["operator"].isin(self.operators)]

    @property
    def joining(self) -> Sequence[str]:
        """The operators that received something; sinks come last, as they do on the way."""
        received = set(self.log.examples["operator"].unique())
        sending = {run.operator for run in self.runs if run.topics_out}
        return sorted((name for name in self.operators if name in received), key=lambda name: name not in sending)

    def sections(self) -> Sequence[Section]:
        """All that there is a row for."""
        sections = [self._counts(), self._times(), self._drops()]
        return [section for section in sections if section.rows]

    def _counts(self) -> Section:
        runs = {run.operator: run for run in self.runs}
        rows = []
        for row in self._summary.to_dict("records"):
            run = runs[row["operator"]]
            told = [*(["received", "runs"] if run.topics_in else []), *(["sent"] if run.topics_out else [])]
            told += ["dropped", "held"] if run.topics_in else ["dropped"] if row["dropped"] else []
            texts = [f"{row[name]:,}" if name in told else "" for name in _COUNTS]
            rate = "" if math.isnan(row["rate_per_s"]) else f"{_digits(row['rate_per_s'])}/s"
            rows.append([run.operator, run.operator_class, run.host, *texts, rate])
        headings = ["operator", "class", "host", *_COUNTS, "rate"]
        if len({run.host for run in self.log.runs}) == 1:
            headings, rows = _without(2, headings), [_without(2, row) for row in rows]
        return Section("Operators", headings, rows, headings.index("received"))

    def _times(self) -> Section:
        rows = []
        for name in self.operators:
            lines = [(label, column) for label, column in self._durations(name) if len(column)]
            for place, (label, column) in enumerate(lines):
                shown = [duration(float(column.quantile(share))) for share in (0.5, 0.99)]
                rows.append([name if place == 0 else "", label, *shown])
        return Section("Times", ["operator", "time", "p50", "p99"], rows, 2)

    def _durations(self, name: str) -> Iterable[tuple[str, pd.Series]]:
        """What is told of an operator's times: of those that there are, without what is missing."""
        log = self.log
        ran = log.steps[log.steps["operator"] == name]
        made = answers(log.predictions[log.predictions["operator"] == name])
        yield "in the task", _known(ran["compute_ms"])
        yield "from capture to finish", _known(made["age_ms"])
        yield "from capture to use", _known(made["timeliness_ms"])
        for part in _PARTS:
            yield f"  {part.removesuffix('_ms')}", _known(made[part])

    def _drops(self) -> Section:
        rows = []
        for name, fate, dropped, received in self._drop_counts():
            of_fate = self.log.drops[(self.log.drops["operator"] == name) & (self.log.drops["fate"] == fate)]
            times = [_known(of_fate[column]) for column in ("waited_ms", "age_ms")]
            share = f"{_digits(100 * dropped / received)} %"
            medians = [duration(float(each.median())) if len(each) else "" for each in times]
            rows.append([name, fate, f"{dropped:,}", share, *medians])
        headings = ["operator", "fate", "examples", "of received", "waited (p50)", "age (p50)"]
        return Section("Drops", headings, rows, 2)

    def _drop_counts(self) -> Iterable[tuple[str, str, int, int]]:
        """Operator, fate, how many there were, and how many it received or took from its stream."""
        log = self.log
        for name in dict.fromkeys([*self.joining, *self.operators]):
            counts = log.drops[log.drops["operator"] == name]["fate"].value_counts()
            received = int((log.examples["operator"] == name).sum())
            if name not in self.joining:
                received = int((log.sent["operator"] == name).sum() + counts.sum())
            for fate, count in counts.items():
                yield name, str(fate), int(count), received

    def notes(self) -> Sequence[str]:
        """What the reader has to know of the numbers: what is missing in the logs, and what is known of clocks."""
        notes = [note for run in self.runs for note in self._notes_of(run)]
        made = answers(self.log.predictions[self.log.predictions["operator"].isin(self.operators)])
        if len(made) and not made["used_ms"].notna().any():
            notes.append("no log of a sink is here that used the predictions: when they were used is not known")
        return [*notes, *[_clock_note(pair) for pair in self.log.clocks]]

    def _notes_of(self, run: OperatorRun) -> Iterable[str]:
        is_one_of_several = [each.operator for each in self.log.runs].count(run.operator) > 1
        name = f"{run.operator} (run of {moment(run.started_ms)})" if is_one_of_several else run.operator
        if run.lost:
            yield f"{name}: {run.lost:,} records are missing, as the disk did not take them in time"
        if run.torn_bytes:
            yield f"{name}: the last {run.torn_bytes:,} bytes are no whole records, and were left out"
        if not run.was_closed:
            yield f"{name}: it was not closed: it is running still, or was killed"

    def heading(self) -> str:
        """Which time the logs are of."""
        log, of = self.log, self.operators
        columns = [(log.sent, "handed_ms"), (log.examples, "received_ms"), (log.steps, "finished_ms")]
        known = [_known(table[table["operator"].isin(of)][column]) for table, column in columns]
        first = min(run.started_ms for run in self.runs)
        last = max((float(column.max()) for column in known if len(column)), default=float(first))
        runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        return f"{runs}, {moment(first)} and the {duration(max(0.0, last - first))} that followed"

    def as_json(self) -> dict[str, Any]:
        """The numbers: what is not known is None."""
        operators = [{str(name): value for name, value in row.items()} for row in self._summary.to_dict("records")]
        for row in operators:
            made = answers(self.log.predictions[self.log.predictions["operator"] == row["operator"]])
            for part in _PARTS:
                known = _known(made[part])
                for percent in (50, 99):
                    name = f"path_{part.removesuffix('_ms')}_p{percent}_ms"
                    row[name] = float(known.quantile(percent / 100)) if len(known) else None
        drops = [{"operator": name, "fate": fate, "examples": count} for name, fate, count, _ in self._drop_counts()]
        return {
            "operators": [_without_nan(row) for row in operators],
            "drops": drops,
            "runs": [asdict(run) for run in self.runs],
            "clocks": [asdict(pair) for pair in self.log.clocks],
        }


def duration(ms: float) -> str:
    """A time for people; "" for NaN."""
    if math.isnan(ms):
        return ""
    for unit, factor, limit in (("µs", 1000.0, 1.0), ("ms", 1.0, 1000.0), ("s", 0.001, 120_000.0)):
        if abs(ms) < limit:
            return f"{_digits(ms * factor)} {unit}"
    return f"{_digits(ms / 60_000)} min" if abs(ms) < 7_200_000 else f"{_digits(ms / 3_600_000)} h"


def moment(wall_ms: float) -> str:
    """A time of a host's clock, in UTC."""
    at = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.timezone.utc)
    return at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00") + "Z"


def _clock_note(pair: ClockPair) -> str:
    hosts = f"clocks of {pair.host} and {pair.other}: "
    if pair.offset_ms is not None and pair.error_ms is not None:
        ahead = "ahead of" if pair.offset_ms >= 0 else "behind"
        return (
            f"{hosts}{pair.other} is {duration(abs(pair.offset_ms))} ± {duration(pair.error_ms)} {ahead} {pair.host}, "
            "which the times make up for"
        )
    if pair.least_ms < 0:
        return (
            f"{hosts}they differ by {duration(-pair.least_ms)} or more, as messages seem to arrive before they left. "
            "Messages went one way only, so a difference can't be told from the time on the way: nothing is corrected"
        )
    return (
        f"{hosts}messages went one way only, the fastest in {duration(pair.least_ms)}: a difference can't be told "
        "from the time on the way, and nothing is corrected"
    )


def _known(column: pd.Series) -> pd.Series:
    return column.dropna().astype("float64")


def _digits(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _without(place: int, texts: Sequence[str]) -> list[str]:
    return [*texts[:place], *texts[place + 1 :]]


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
