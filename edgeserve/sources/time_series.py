"""Rows of a CSV file, at the pace at which they were recorded."""

from __future__ import annotations

import csv
import os
from collections.abc import Generator
from contextlib import closing

from edgeserve._core.clock import SYSTEM_CLOCK, Clock
from edgeserve.errors import UsageError
from edgeserve.sources.pacing import Captured, Schedule

# 30,000 years; beyond it a float no longer tells ms apart.
MAX_SECONDS = 1e12


def time_series(
    filename: str | os.PathLike[str], *, clock: Clock = SYSTEM_CLOCK
) -> Generator[Captured[list[str]], None, None]:
    """Rows of a CSV file in UTF-8 whose first column is seconds, in real pacing.

    A row leaves (its seconds - the first row's seconds) after the first one, whatever its reader did in
    between; a late reader gets at once what is due. Blank lines are skipped, and so is a first line that does
    not begin with a number (the names of the columns). A file without rows yields nothing.

    Args:
        filename: The file; it is open from the first row until the generator is closed or ends.
        clock: What is read and waited on.

    Yields:
        The row's values after the first column, as they stand in the file, captured when the row was due.

    Raises:
        UsageError: A line does not begin with seconds, its seconds are less than those of the line before, or
            it is not CSV; the message has the line's number. The rows before it have been yielded.
        OSError: The file cannot be opened or read.
    """
    schedule = Schedule(clock)
    first_s: float | None = None
    with closing(read_rows(filename)) as rows:
        for seconds, values in rows:
            if first_s is None:
                first_s = seconds
            yield Captured(schedule.wait_for((seconds - first_s) * 1000), values)


def read_rows(filename: str | os.PathLike[str]) -> Generator[tuple[float, list[str]], None, None]:
    """Seconds and the other values of each row, without pacing; see `time_series`."""
    last_s: float | None = None
    # A byte order mark, which spreadsheets write, would hide the first number.
    with open(filename, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        try:
            header_may_come = True
            for row in reader:
                where = f"{os.fspath(filename)}, line {reader.line_num}"
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                seconds = _number(row[0])
                if seconds is None and header_may_come:
                    header_may_come = False
                    continue
                header_may_come = False
                if seconds is None or not abs(seconds) < MAX_SECONDS:
                    raise UsageError(f"{where}: the first column is not a time in seconds: {row[0]!r:.80}")
                if last_s is not None and seconds < last_s:
                    raise UsageError(f"{where}: {seconds} s come after {last_s} s; times must not decrease")
                last_s = seconds
                yield seconds, row[1:]
        except csv.Error as error:
            raise UsageError(f"{os.fspath(filename)}, line {reader.line_num}: not CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{os.fspath(filename)}, after line {reader.line_num}: not UTF-8 text: {error.reason}"
            ) from error


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
