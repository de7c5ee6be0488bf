from __future__ import annotations

import itertools
import uuid
from pathlib import Path

import pytest

from edgeserve import CodeSource, DataSource, Fate, SimulateTimeSeries
from edgeserve._core.clock import wall_ms
from edgeserve.testing import ManualClock
from tests.operators.conftest import CAPTURE_MS, Wire


def test_an_infinite_stream_is_sent_item_by_item(broker: str, wire: Wire) -> None:
    with DataSource(itertools.count(), broker, "count", str, wire.dst) as source:
        assert [next(source) for _ in range(3)] == [b"0", b"1", b"2"]
    assert [payload for _, _, payload, _ in wire.sent_on(3)] == [b"0", b"1", b"2"]


def test_a_for_loop_ends_with_the_stream_and_closing_confirms_all(broker: str, wire: Wire) -> None:
    with DataSource([bytes([number]) for number in range(100)], broker, "numbers", topic=wire.dst) as source:
        assert len(list(source)) == 100
    assert source.stats.fates == {Fate.USED: 100}
    assert source.stats.unconfirmed == 0
    assert [payload for _, _, payload, _ in wire.sent_on(100)] == [bytes([number]) for number in range(100)]


def test_items_of_none_and_gated_items_are_not_sent(broker: str, wire: Wire) -> None:
    items = [None, b"drop", b"", b"keep"]
    with DataSource(items, broker, "s", lambda item: None if item == b"drop" else item, wire.dst) as source:
        assert list(source) == [None, None, b"", b"keep"]
    assert source.stats.fates == {Fate.GATED: 2, Fate.USED: 2}
    assert [payload for _, _, payload, _ in wire.sent_on(2)] == [b"", b"keep"]


@pytest.mark.parametrize("item", [b"x", bytearray(b"x"), memoryview(b"x"), "x"])
def test_bytes_like_and_text_leave_as_they_are(broker: str, wire: Wire, item: object) -> None:
    with DataSource([item], broker, "s", topic=wire.dst) as source:
        assert next(source) == b"x"
    assert wire.sent_on(1)[0][2] == b"x"


def test_the_capture_time_is_taken_from_the_item_or_else_from_the_clock(broker: str, wire: Wire) -> None:
    items = [(b"a", CAPTURE_MS + 1), (b"b", CAPTURE_MS + 2.9)]
    with DataSource(items, broker, "s", lambda item: item[0], wire.dst, event_time=lambda item: item[1]) as source:
        list(source)
    with DataSource([b"c"], broker, "s", topic=wire.dst, clock=ManualClock(CAPTURE_MS + 7)) as source:
        list(source)
    before = wall_ms() - CAPTURE_MS
    with DataSource([b"d"], broker, "s", topic=wire.dst) as source:
        list(source)
    captures = [capture for *_, capture in wire.sent_on(4)]
    assert captures[:3] == [1, 2, 7]
    assert captures[3] is not None
    assert before <= captures[3] <= wall_ms() - CAPTURE_MS


@pytest.mark.parametrize("time_ms", [0, -1, "noon", None, float("nan"), float("inf"), 10**30])
def test_a_capture_time_that_cannot_travel_is_an_error_and_the_stream_goes_on(
    broker: str, wire: Wire, time_ms: object
) -> None:
    times = iter([time_ms, CAPTURE_MS])
    with DataSource([b"1", b"2"], broker, "s", topic=wire.dst, event_time=lambda _: next(times)) as source:
        with pytest.raises(ValueError, match="event_time"):
            next(source)
        assert next(source) == b"2"
        assert source.stats.fates == {Fate.FAILED: 1, Fate.USED: 1}


def test_a_stream_that_raises_raises_in_the_step_and_what_it_gave_before_is_delivered(broker: str, wire: Wire) -> None:
    def stream() -> object:
        yield b"1"
        raise OSError("the sensor is unplugged")

    with DataSource(stream(), broker, "s", topic=wire.dst) as source:  # type: ignore[arg-type]
        assert next(source) == b"1"
        with pytest.raises(OSError, match="unplugged"):
            next(source)
    assert wire.sent_on(1)[0][2] == b"1"


def test_a_gate_that_raises_loses_its_item_alone_and_says_so(broker: str, wire: Wire) -> None:
    with DataSource([0, 2], broker, "s", lambda item: str(4 // item), wire.dst) as source:
        with pytest.raises(ZeroDivisionError):
            next(source)
        assert next(source) == b"2"
        assert source.stats.fates == {Fate.FAILED: 1, Fate.USED: 1}


def test_code_travels_as_text(broker: str, wire: Wire) -> None:
    with CodeSource(["print('é')"], broker, topic=wire.dst) as source:
        assert next(source) == "print('é')".encode()
    assert wire.sent_on(1)[0][1] == "code-source"


def test_a_time_series_leaves_row_by_row_with_the_intervals_of_its_first_column(
    broker: str, wire: Wire, tmp_path: Path
) -> None:
    file = tmp_path / "uneven.csv"
    file.write_text("seconds,x,y\n10.0,1,a\n10.02,2,b\n10.02,3,c\n10.05,4,d\n")
    with SimulateTimeSeries(str(file), broker, "rows", topic=wire.dst) as source:
        assert list(source) == [b"1,a", b"2,b", b"3,c", b"4,d"]
    captures = [capture for *_, capture in wire.sent_on(4)]
    assert [capture - captures[0] for capture in captures] == [0, 20, 20, 50]  # type: ignore[operator]


def test_a_time_series_passes_the_values_of_a_row_through_its_gate(broker: str, wire: Wire, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("0,1,2\n")
    with SimulateTimeSeries(file, broker, "rows", lambda values: values[1], wire.dst) as source:
        assert next(source) == b"2"


def test_ids_are_random_uuids(broker: str, wire: Wire) -> None:
    with DataSource([b"x"] * 300, broker, "s", topic=wire.dst) as source:
        list(source)
    ids = {sent.id for sent in wire.sent_on(300)}
    assert len(ids) == 300
    assert {(each.version, each.variant) for each in ids} == {(4, uuid.RFC_4122)}
