"""What replay logs say, in sections of words and numbers for people, and as one object for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve.errors import UsageError
from edgeserve.replay._log import answers
from edgeserve.replay._operators import LoggedOperator, moment, named, operators_of

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
        operator: The name of the operator that it is about, or of several that have the same; None for all.

    Raises:
        UsageError: There is no such operator.
    """

    def __init__(self, log: ReplayLog, operator: str | None) -> None:
        known = operators_of(log.runs)
        self.log = log
        self.operators = known if operator is None else named(known, operator)
        if not self.operators:
            raise UsageError(f"--operator is {operator!r}: the log has {', '.join(each.name for each in known)}")
        self.runs = [run for each in self.operators for run in each.runs.values()]
        summary = log.summary()
        self._summary = summary[summary["operator"].isin([each.name for each in self.operators])].to_dict("records")

    @property
    def joining(self) -> Sequence[LoggedOperator]:
        """The operators that received something; sinks come last, as they do on the way."""
        received = [each for each in self.operators if len(each.rows(self.log.examples))]
        return sorted(received, key=lambda each: each.is_sink)

    def sections(self) -> Sequence[Section]:
        """All that there is a row for."""
        sections = [self._counts(), self._times(), self._drops()]
        return [section for section in sections if section.rows]

    def _counts(self) -> Section:
        rows = []
        for of, row in zip(self.operators, self._summary, strict=True):
            run = of.latest
            told = [*(["received", "runs"] if run.topics_in else []), *(["sent"] if run.topics_out else [])]
            told += ["dropped", "held"] if run.topics_in else ["dropped"] if row["dropped"] else []
            texts = [f"{row[name]:,}" if name in told else "" for name in _COUNTS]
            rate = "" if math.isnan(row["rate_per_s"]) else f"{_digits(row['rate_per_s'])}/s"
            rows.append([of.name, run.operator_class, run.host, *texts, rate])
        headings = ["operator", "class", "host", *_COUNTS, "rate"]
        if len({run.host for run in self.log.runs}) == 1:
            headings, rows = _without(2, headings), [_without(2, row) for row in rows]
        return Section("Operators", headings, rows, headings.index("received"))

    def _times(self) -> Section:
        rows = []
        for of in self.operators:
            lines = [(label, column) for label, column in self._durations(of) if len(column)]
            for place, (label, column) in enumerate(lines):
                shown = [duration(float(column.quantile(share))) for share in (0.5, 0.99)]
                rows.append([of.name if place == 0 else "", label, *shown])
        return Section("Times", ["operator", "time", "p50", "p99"], rows, 2)

    def _durations(self, of: LoggedOperator) -> Iterable[tuple[str, pd.Series]]:
        """What is told of an operator's times: of those that there are, without what is missing."""
        made = answers(of.rows(self.log.predictions))
        yield "in the task", _known(of.rows(self.log.steps)["compute_ms"])
        yield "from capture to finish", _known(made["age_ms"])
        yield "from capture to use", _known(made["timeliness_ms"])
        for part in _PARTS:
            yield f"  {part.removesuffix('_ms')}", _known(made[part])

    def _drops(self) -> Section:
        rows = []
        for of, source, fate, dropped, received in self._drop_counts():
            drops = of.rows(self.log.drops)
            of_fate = drops[(drops["fate"] == fate) & (drops["source"] == source)]
            times = [_known(of_fate[column]) for column in ("waited_ms", "age_ms")]
            share = f"{_digits(100 * dropped / received)} %"
            medians = [duration(float(each.median())) if len(each) else "" for each in times]
            rows.append([of.name, source, fate, f"{dropped:,}", share, *medians])
        headings = ["operator", "of source", "fate", "examples", "of its", "waited (p50)", "age (p50)"]
        return Section("Drops", headings, rows, 3)

    def _drop_counts(self) -> Iterable[tuple[LoggedOperator, str, str, int, int]]:
        """Operator, source, fate, how many there were, and how many of that source it received or took in."""
        joining = self.joining
        for of in [*joining, *(each for each in self.operators if each not in joining)]:
            counts = of.rows(self.log.drops)[["source", "fate"]].value_counts()
            received = of.rows(self.log.examples)["source"].value_counts()
            taken_in = len(of.rows(self.log.sent)) + int(counts.sum())
            for (source, fate), count in counts.items():
                yield of, str(source), str(fate), int(count), int(received[source]) if of in joining else taken_in

    def notes(self) -> Sequence[str]:
        """What the reader has to know of the numbers: what is missing in the logs, and what is known of clocks."""
        notes = [note for of in self.operators for run in of.runs.values() for note in _notes_of(of.name_of(run), run)]
        made = answers(self._rows(self.log.predictions))
        if len(made) and not made["used_ms"].notna().any():
            notes.append("no log of a sink is here that used the predictions: when they were used is not known")
        return [*notes, *[_clock_note(pair) for pair in self.log.clocks]]

    def _rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """What a table has of what the report is about."""
        return table[table["run"].isin([place for of in self.operators for place in of.runs])]

    def heading(self) -> str:
        """Which time the logs are of."""
        log = self.log
        columns = [(log.sent, "handed_ms"), (log.examples, "received_ms"), (log.steps, "finished_ms")]
        known = [_known(self._rows(table)[column]) for table, column in columns]
        first = min(run.started_ms for run in self.runs)
        last = max((float(column.max()) for column in known if len(column)), default=float(first))
        runs = "1 run" if len(self.runs) == 1 else f"{len(self.runs)} runs"
        return f"{runs}, {moment(first)} and the {duration(max(0.0, last - first))} that followed"

    def as_json(self) -> dict[str, Any]:
        """The numbers: what is not known is None."""
        operators = [{str(name): value for name, value in row.items()} for row in self._summary]
        for of, row in zip(self.operators, operators, strict=True):
            made = answers(of.rows(self.log.predictions))
            for part in _PARTS:
                known = _known(made[part])
                for percent in (50, 99):
                    name = f"path_{part.removesuffix('_ms')}_p{percent}_ms"
                    row[name] = float(known.quantile(percent / 100)) if len(known) else None
        drops = [
            {"operator": of.name, "source": source, "fate": fate, "examples": count}
            for of, source, fate, count, _ in self._drop_counts()
        ]
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


def _notes_of(name: str, run: OperatorRun) -> Iterable[str]:
    if not run.is_from_start:
        yield f"{name}: its log does not begin where it did: its first files are not here, as max_bytes removes them"
    if run.lost:
        yield f"{name}: {run.lost:,} records are missing, as the disk did not take them in time"
    if run.torn_bytes:
        yield f"{name}: the last {run.torn_bytes:,} bytes are no whole records, and were left out"
    if not run.was_closed:
        yield f"{name}: it was not closed: it is running still, or was killed"


def _clock_note(pair: ClockPair) -> str:
    hosts = f"clocks of {pair.host} and {pair.other}: "
    if pair.offset_ms is not None and pair.error_ms is not None:
        ahead = "ahead of" if pair.offset_ms >= 0 else "behind"
        return (
            f"{hosts}{pair.other} is {duration(abs(pair.offset_ms))} ± {duration(pair.error_ms)} {ahead} {pair.host}, "
            "which the times make up for"
        )
    if pair.least_ms < 0:
        sender = pair.host if pair.arrived_at == pair.other else pair.other
        return (
            f"{hosts}{pair.arrived_at} is {duration(-pair.least_ms)} or more behind {sender}, as messages seem to "
            "arrive there before they left. By how much is not known, as messages went one way only or a clock was set "
            "meanwhile: nothing is corrected"
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
