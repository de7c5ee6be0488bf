"""Clocks of several hosts, told apart by the messages between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeserve
from edgeserve import Compute, DataSource, Materialize, replay
from edgeserve._log.head import Head
from edgeserve._log.reading import find_runs
from edgeserve._log.records import ARRIVED, SENT, Arrived, Sent
from edgeserve._log.writer import pack_block, pack_head
from edgeserve._operator import Operator
from edgeserve.replay._clocks import ClockPair, tell_clocks
from edgeserve.replay._log import ReplayLog
from edgeserve.testing import end_memory_broker, memory_broker
from tests.replay.recorded import arrived, served


def test_messages_both_ways_tell_the_offset_and_how_wrong_it_may_be() -> None:
    # b is 100 ms ahead; messages take 2 ms there and 4 ms back.
    clocks = tell_clocks(["a", "b"], {("a", "b"): 102.0, ("b", "a"): -96.0})
    assert clocks.pairs == [ClockPair("a", "b", 99.0, 3.0, -96.0, "a")]
    assert (clocks.shift_ms("a"), clocks.shift_ms("b"), clocks.shift_ms("unknown")) == (0, -99.0, 0)


def test_messages_one_way_correct_nothing_and_the_skew_is_said() -> None:
    clocks = tell_clocks(["a", "b"], {("b", "a"): -500.0})
    assert clocks.pairs == [ClockPair("a", "b", None, None, -500.0, "a")]
    assert clocks.shift_ms("b") == 0


def test_messages_that_contradict_each_other_correct_nothing() -> None:
    clocks = tell_clocks(["a", "b"], {("a", "b"): 10.0, ("b", "a"): -30.0})
    assert clocks.pairs == [ClockPair("a", "b", None, None, -30.0, "a")]
    assert clocks.shift_ms("b") == 0


def test_without_messages_between_them_nothing_is_said() -> None:
    assert tell_clocks(["a", "b"], {}).pairs == []
    assert tell_clocks([], {}).reference == ""
    assert tell_clocks(["a", "a"], {}).shift_ms("a") == 0


def test_a_host_is_corrected_by_way_of_another_one() -> None:
    seen = {("a", "b"): 11.0, ("b", "a"): -9.0, ("b", "c"): 21.0, ("c", "b"): -19.0, ("c", "d"): 5.0}
    clocks = tell_clocks(["a", "b", "c", "d"], seen)
    assert {host: clocks.shift_ms(host) for host in "abcd"} == {"a": 0, "b": -10, "c": -30, "d": 0}
    again = tell_clocks(["c", "b", "a", "d"], seen)
    assert {host: again.shift_ms(host) for host in "abcd"} == {"a": 30, "b": 20, "c": 0, "d": 0}


@given(st.floats(-1e6, 1e6), st.floats(0.01, 1000), st.floats(0.01, 1000))
def test_the_error_encloses_the_truth(ahead_ms: float, there_ms: float, back_ms: float) -> None:
    (pair,) = tell_clocks(["a", "b"], {("a", "b"): there_ms + ahead_ms, ("b", "a"): back_ms - ahead_ms}).pairs
    assert pair.offset_ms is not None
    assert pair.error_ms is not None
    assert abs(pair.offset_ms - ahead_ms) <= pair.error_ms + 1e-6


# Logs of several hosts: those of one, rewritten as if by others


def captured_at(record: Sequence[Any], shift_ms: int) -> list[Any]:
    """A record whose captures were so much later."""
    changed = list(record)
    if changed[0] == ARRIVED:
        captures = Arrived._fields.index("captures_ms")
        changed[captures] = [capture_ms + shift_ms for capture_ms in changed[captures]]
    elif changed[0] == SENT:
        changed[1] = fields = list(changed[1])
        captures = slice(Sent._fields.index("capture_ms"), None, len(Sent._fields))
        fields[captures] = [capture_ms + shift_ms for capture_ms in fields[captures]]
    return changed


def handed_over_later(record: Sequence[Any], late_s: float) -> list[Any]:
    """A record of a source that was held up for so long before it noted that it had handed an example over."""
    changed = list(record)
    if changed[0] == SENT:
        changed[1] = fields = list(changed[1])
        handed = slice(Sent._fields.index("handed_steady_s"), None, len(Sent._fields))
        fields[handed] = [handed_s + late_s for handed_s in fields[handed]]
    return changed


def moved(
    path: Path, into: Path, hosts: Mapping[str, str], ahead_ms: Mapping[str, int], *, late_s: float = 0
) -> ReplayLog:
    """The logs as if the operators had run on these hosts, with clocks that are so far ahead."""
    captures_ms = ahead_ms.get(hosts["cam"], 0)
    into.mkdir()
    for number, run in enumerate(find_runs(path)):
        host = hosts[run.head.operator]
        shift_ms = ahead_ms.get(host, 0)
        head = Head(**{**vars(run.head), "host": host, "started_ms": run.head.started_ms + shift_ms})
        parts = [pack_head(head)]
        for block in run.blocks():
            records = [handed_over_later(captured_at(record, captures_ms), late_s) for record in block.records]
            parts.append(pack_block(block.wall_ms + shift_ms, block.steady_ms, records))
        (into / f"{number}.log").write_bytes(b"".join(parts))
    return replay.load(into)


COUNT = 30


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a sink on one node, and a task on another one, to which examples go and from which they come."""
    path = tmp_path_factory.mktemp("logs")
    broker = memory_broker()
    seen: list[bytes] = []
    operators: list[Operator[object]] = []

    def take(payload: bytes) -> None:
        seen.append(payload)
        if len(seen) == COUNT:
            for operator in operators:
                operator.stop()

    source = DataSource((b"%d" % n for n in range(COUNT)), broker, "cam", topic="in", log_path=path)
    work = Compute(lambda cam: cam, broker, "work", topic_in="in", topic_out="out", log_path=path)
    sink = Materialize(take, broker, topic="out", sink_id="sink", log_path=path)
    operators += [source, work, sink]
    edgeserve.run(*operators)
    end_memory_broker(broker)
    return path


BOTH_WAYS = {"cam": "here", "work": "there", "sink": "here"}


@pytest.mark.parametrize("ahead_ms", [5000, -5000, 0])
def test_where_messages_went_both_ways_times_are_as_by_one_clock(recorded: Path, tmp_path: Path, ahead_ms: int) -> None:
    true = replay.load(recorded).predictions
    log = moved(recorded, tmp_path / "moved", BOTH_WAYS, {"there": ahead_ms})
    (pair,) = log.clocks
    assert (pair.host, pair.other) == ("here", "there")
    assert pair.offset_ms is not None
    assert pair.error_ms is not None
    assert abs(pair.offset_ms - ahead_ms) <= pair.error_ms + 2, "clocks are read in whole ms"
    error_ms = pair.error_ms + 2
    made = log.predictions
    # Sources and sinks are on the first host, whose clock counts: nothing of the way as a whole is touched.
    reference = 0 if find_runs(tmp_path / "moved")[0].head.host == "here" else ahead_ms
    for name in ("timeliness_ms", "compute_ms"):
        assert (made[name] - true[name]).abs().max() < 1e-3
    for name in ("age_ms", "transfer_ms", "queueing_ms"):
        assert (made[name] - true[name]).abs().max() <= error_ms
    for name in ("received_ms", "started_ms", "finished_ms", "used_ms"):
        assert (made[name] - true[name] - reference).abs().max() <= error_ms
    parts = made[["transfer_ms", "queueing_ms", "compute_ms"]].sum(axis="columns")
    assert (parts - made["timeliness_ms"]).abs().max() < 1e-6


def test_a_source_that_notes_late_what_has_arrived_by_then_does_not_mislead(recorded: Path, tmp_path: Path) -> None:
    log = moved(recorded, tmp_path / "moved", BOTH_WAYS, {"there": 5000}, late_s=1)
    (pair,) = log.clocks
    assert pair.offset_ms is not None
    assert pair.error_ms is not None
    error_ms = pair.error_ms + 2  # clocks are read in whole ms
    assert abs(pair.offset_ms - 5000) <= error_ms
    assert log.predictions["transfer_ms"].min() >= -error_ms
    assert log.predictions["queueing_ms"].min() >= -error_ms


def test_where_the_first_host_is_the_other_one_captures_are_brought_to_its_clock(
    recorded: Path, tmp_path: Path
) -> None:
    hosts = {"cam": "there", "work": "here", "sink": "there"}
    true = replay.load(recorded).predictions
    made = moved(recorded, tmp_path / "moved", hosts, {"there": 5000}).predictions
    assert (made["timeliness_ms"] - true["timeliness_ms"]).abs().max() < 1e-3
    assert (made["age_ms"] - true["age_ms"]).abs().max() < 4000, "where nothing is corrected, it is 5 s"


@pytest.mark.parametrize("hosts", [BOTH_WAYS, {"cam": "there", "work": "here", "sink": "there"}])
def test_a_run_made_again_is_told_by_the_same_clock(recorded: Path, tmp_path: Path, hosts: Mapping[str, str]) -> None:
    log = moved(recorded, tmp_path / "moved", hosts, {"there": 5000})
    made, again = log.predictions[log.predictions["operator"] == "work"], replay.run(log, "work").predictions
    assert again["output_id"].tolist() == made["output_id"].tolist()
    assert again["age_ms"].tolist() == pytest.approx(made["age_ms"].tolist(), abs=2), "clocks are read in whole ms"
    late = replay.grid(log, {"min_interval_ms": [0]}, "work").table["timeliness_p99_ms"][0]
    assert abs(late - made["timeliness_ms"].max()) < 1000, "where nothing is corrected, it is 5 s"


def test_drops_are_as_old_as_by_one_clock(tmp_path: Path) -> None:
    head = Head("cam", 1, "cam", "DataSource", [], ["in"], "", {}, "here", 1, 0, has_payloads=False)
    sent = (SENT, [number for n in range(2) for number in (n, b"%016d" % n, 10 * n, 10.0 * n, n / 100, 9)])
    (tmp_path / "cam.datasource").write_bytes(pack_head(head) + pack_block(0, 0.0, [sent]))
    head = Head("op", 1, "op", "Compute", ["in"], ["out"], "compute", {}, "there", 1, 5000, has_payloads=False)
    came = [arrived(n, 10 * n + 2, b"%016d" % n, 10 * n, source="cam", publish_ms=10 * n) for n in range(2)]
    steps = [came[0], served(0, 0.003, 0.004, b"o" * 16, 9), came[1], (1, 1, "gated", 13.0)]
    (tmp_path / "op.compute").write_bytes(pack_head(head) + pack_block(5000, 0.0, steps))
    head = Head("sink", 1, "sink", "Materialize", ["out"], [], "compute", {}, "here", 1, 0, has_payloads=False)
    came = [arrived(0, 6, b"o" * 16, 0, source="op", publish_ms=5004)]
    (tmp_path / "sink.destination").write_bytes(pack_head(head) + pack_block(0, 0.0, [*came, served(0, 0.007, 0.008)]))
    log = replay.load(tmp_path)
    assert log.clocks[0].offset_ms == 5000
    assert log.drops["age_ms"].tolist() == [3]
    assert log.drops["waited_ms"].tolist() == [1]


def test_where_they_went_one_way_nothing_is_corrected_and_the_skew_is_said(recorded: Path, tmp_path: Path) -> None:
    true = replay.load(recorded).predictions
    one_way = {"cam": "here", "work": "there", "sink": "there"}
    log = moved(recorded, tmp_path / "moved", one_way, {"there": -5000})
    (pair,) = log.clocks
    assert (pair.offset_ms, pair.error_ms) == (None, None)
    assert -5000 <= pair.least_ms < 0
    assert (log.predictions["timeliness_ms"] - true["timeliness_ms"] + 5000).abs().max() < 1e-3


def test_what_two_runs_made_of_the_same_says_nothing_of_clocks(recorded: Path, tmp_path: Path) -> None:
    """A successor makes again what its killed predecessor had made, with the same id and much later."""
    moved(recorded, tmp_path / "moved", BOTH_WAYS, {})
    (work,) = [run for run in find_runs(tmp_path / "moved") if run.head.operator == "work"]
    head = Head(**{**vars(work.head), "run": "again", "started_ms": work.head.started_ms + 60_000})
    data = [pack_block(each.wall_ms + 60_000, each.steady_ms, each.records) for each in work.blocks()]
    before = replay.load(tmp_path / "moved").clocks
    (tmp_path / "moved" / "again.log").write_bytes(pack_head(head) + b"".join(data))
    (pair,) = replay.load(tmp_path / "moved").clocks
    assert pair.offset_ms is None or abs(pair.offset_ms) < 1000, before


def test_what_is_malformed_and_what_was_not_sent_are_no_message(tmp_path: Path) -> None:
    nobody = bytes(16)
    for number, (host, operator) in enumerate(itertools.product(("a", "b"), ("x", "y"))):
        head = Head(f"{number}", 1, operator + host, "Compute", ["in"], ["out"], "compute", {}, host, 1, 0, False)
        came = arrived(0, 5, nobody, 5, source="")
        used = served(0, 0.005, 0.006)
        (tmp_path / f"{number}.compute").write_bytes(pack_head(head) + pack_block(0, 0.0, [came, used]))
    assert replay.load(tmp_path).clocks == []
