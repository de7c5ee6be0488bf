"""Rows leave at the intervals that their first column says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve._core.clock import SYSTEM_CLOCK
from edgeserve.errors import UsageError
from edgeserve.sources.pacing import Captured
from edgeserve.sources.time_series import read_rows, time_series
from tests.sources.conftest import HandClock

UNEVEN = "10.0,a,1\n10.25,b,2\n10.25,c,3\n11.5,d,4\n11.501,e,5\n"


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


def test_rows_leave_at_uneven_intervals(csv_file: Path, clock: HandClock) -> None:
    csv_file.write_text(UNEVEN)
    rows = [(row.capture_ms - 1_700_000_000_000, row.value) for row in time_series(csv_file, clock=clock)]
    assert rows == [(0, ["a", "1"]), (250, ["b", "2"]), (250, ["c", "3"]), (1500, ["d", "4"]), (1501, ["e", "5"])]
    assert clock.waits_ms == [5250.0, 6500.0, pytest.approx(6501.0)]


def test_a_slow_step_delays_no_later_row(csv_file: Path, clock: HandClock) -> None:
    csv_file.write_text(UNEVEN)
    left_ms, captured_ms = [], []
    for row in time_series(csv_file, clock=clock):
        left_ms.append(clock.now().steady_ms - 5000)
        captured_ms.append(row.capture_ms - 1_700_000_000_000)
        clock.turn(400)
    assert left_ms == [0, 400, 800, 1500, 1900]
    assert captured_ms == [0, 250, 250, 1500, 1501]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=30), st.lists(st.integers(0, 300_000), min_size=30))
def test_no_row_leaves_early_nor_later_than_its_reader(
    tmp_path_factory: pytest.TempPathFactory, intervals_ms: list[int], steps_ms: list[int]
) -> None:
    times_ms = [sum(intervals_ms[: index + 1]) for index in range(len(intervals_ms))]
    csv_file = tmp_path_factory.mktemp("rows") / "rows.csv"
    csv_file.write_text("".join(f"{ms / 1000},x\n" for ms in times_ms))
    clock = HandClock()
    asked_ms = 5000.0
    for time_ms, step_ms, row in zip(times_ms, steps_ms, time_series(csv_file, clock=clock), strict=False):
        due_ms = time_ms - times_ms[0]
        assert clock.now().steady_ms == pytest.approx(max(5000 + due_ms, asked_ms))
        assert row.capture_ms == 1_700_000_000_000 + due_ms
        clock.turn(step_ms)
        asked_ms = clock.now().steady_ms


def test_rows_are_on_schedule_in_real_time(csv_file: Path) -> None:
    csv_file.write_text("0,a\n0.03,b\n0.04,c\n0.1,d\n")
    started_ms = SYSTEM_CLOCK.now().steady_ms
    rows, left_ms = [], []
    for row in time_series(csv_file):
        rows.append(row)
        left_ms.append(SYSTEM_CLOCK.now().steady_ms - started_ms)
    assert [row.value for row in rows] == [["a"], ["b"], ["c"], ["d"]]
    assert [row.capture_ms - rows[0].capture_ms for row in rows] == [0, 30, 40, 100]
    assert all(left >= due for left, due in zip(left_ms, [0, 30, 40, 100], strict=True))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\n\n", []),
        ("seconds,x\n", []),
        ("seconds,x\n1,a\n", [(1.0, ["a"])]),
        (",x\n1,a\n", [(1.0, ["a"])]),
        ("\n\nseconds\n\n1\n  \n2\n\n", [(1.0, []), (2.0, [])]),
        ("1,a", [(1.0, ["a"])]),
        ("1,a\r\n2,b\r\n", [(1.0, ["a"]), (2.0, ["b"])]),
        ("\ufeff1,a\n", [(1.0, ["a"])]),
        (' 1 ,"a,\nb", c,\n', [(1.0, ["a,\nb", " c", ""])]),
        ("-1.5e0,a\n0,b\n", [(-1.5, ["a"]), (0.0, ["b"])]),
        ("1e9,a\n1000000000,b\n", [(1e9, ["a"]), (1e9, ["b"])]),
    ],
)
def test_rows_are_read_past_blank_lines_and_names_of_columns(
    csv_file: Path, text: str, rows: list[tuple[float, list[str]]]
) -> None:
    csv_file.write_text(text, encoding="utf-8", newline="")
    assert list(read_rows(csv_file)) == rows


@pytest.mark.parametrize(
    ("content", "says", "rows_before"),
    [
        (b"2,a\n1,b\n", r"rows.csv, line 2: 1.0 s come after 2.0 s; times must not decrease", 1),
        (b"a,b\nc,d\n", r"line 2: the first column is not a time in seconds: 'c'", 0),
        (b"1,a\nseconds,b\n", r"line 2: the first column is not a time", 1),
        (b"nan,a\n", r"line 1: the first column is not a time in seconds: 'nan'", 0),
        (b"1,a\ninf,b\n", r"line 2: the first column", 1),
        (b"1e300,a\n", r"line 1: the first column", 0),
        (b"1,a\n\n,b\n", r"line 3: the first column is not a time in seconds: ''", 1),
        (b'1,a\n2,"b\n', r"line 2: not CSV", 1),
        (b"1,a\n2,\xff\n", r"rows.csv, after line \d: not UTF-8 text", 0),
    ],
)
def test_a_wrong_line_is_an_error_with_its_number(
    csv_file: Path, clock: HandClock, content: bytes, says: str, rows_before: int
) -> None:
    csv_file.write_bytes(content)
    rows: list[Captured[list[str]]] = []
    with pytest.raises(UsageError, match=says):
        rows.extend(time_series(csv_file, clock=clock))
    assert [row.value for row in rows] == [["a"]] * rows_before


def test_a_missing_file_is_an_error_that_names_it(csv_file: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"rows\.csv"):
        next(time_series(csv_file))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs a list of open files")
def test_the_file_is_closed_when_the_reader_stops(csv_file: Path, clock: HandClock) -> None:
    def is_open() -> bool:
        links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
        return any(os.path.realpath(link) == str(csv_file) for link in links)

    csv_file.write_text("\n".join(f"{index},x" for index in range(100_000)))
    rows = time_series(csv_file, clock=clock)
    next(rows)
    assert is_open()
    rows.close()
    assert not is_open()
