"""Logs as tables: predictions lead back to what they were made from, and their times add up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeserve
from edgeserve import BatchCompute, BatchModel, Compute, DataSource, Materialize, Model, UsageError, replay
from edgeserve._log.head import Head
from edgeserve._log.reading import Block
from edgeserve._log.writer import pack_block, pack_head
from edgeserve._operator import Operator
from edgeserve.replay._columns import Columns
from edgeserve.replay._log import ReplayLog
from edgeserve.testing import end_memory_broker, memory_broker
from tests.operators.conftest import Wire
from tests.replay.recorded import arrived, only_run, served

PARTS = ["transfer_ms", "queueing_ms", "compute_ms"]


def run_all(*operators: Operator[Any]) -> None:
    edgeserve.run(*operators)


def stopping(operators: list[Operator[Any]], count: int, seen: list[Any]) -> Any:
    """A sink's function that stops all operators with the last one."""

    def take(value: Any) -> None:
        seen.append(value)
        if len(seen) == count:
            for operator in operators:
                operator.stop()

    return take


def assert_times_add_up(log: ReplayLog) -> None:
    used = log.predictions[log.predictions["used_ms"].notna()]
    parts = used[PARTS].astype("float64")
    timeliness = used["timeliness_ms"].astype("float64")
    assert (parts.sum(axis="columns") - timeliness).abs().max() < 1e-6
    assert (parts > -2).all().all(), "clocks are read in whole ms"
    assert ((used["staleness_ms"] - used["timeliness_ms"] - used["spread_ms"]).abs() < 1e-6).all()
    assert (used["age_ms"] <= used["timeliness_ms"] + 2).all()


def test_predictions_lead_back_to_what_they_were_made_from(broker: str, wire: Wire, logs: Path) -> None:
    count = 12
    operators: list[Operator[Any]] = []
    seen: list[bytes] = []
    joined: list[tuple[bytes, bytes]] = []
    middle = f"{wire.dst}-middle"

    def first(left: bytes, right: bytes) -> bytes:
        joined.append((left, right))
        return left + b"+" + right

    options: dict[str, Any] = {"log_path": logs}
    start_ms = edgeserve._core.clock.wall_ms() - 1000  # type: ignore[attr-defined]
    for name, shift_ms in (("left", 0), ("right", 3)):
        with DataSource(
            range(count), broker, name, gate=lambda number, name=name: f"{name[0]}{number}", topic=wire.src,
            event_time=lambda number, shift_ms=shift_ms: start_ms + 20 * number + shift_ms, **options,
        ) as source:  # fmt: skip
            assert len(list(source)) == count
    payloads = {}
    one = Compute(
        first, broker, "one", topic_in=wire.src, topic_out=middle, join="nearest", max_time_diff_ms=5, **options
    )
    two = Compute(lambda one: one.upper(), broker, "two", topic_in=middle, topic_out=wire.dst, **options)
    # Nothing comes after the last pair, which is matched when it has waited.
    sink = Materialize(stopping(operators, count, seen), broker, topic=wire.dst, **options)
    operators += [one, two, sink]
    run_all(*operators)
    log = replay.load(logs)
    assert_times_add_up(log)
    sent = {"left": log.sent[log.sent["operator"] == "left"], "right": log.sent[log.sent["operator"] == "right"]}
    payloads = {
        example_id: f"{name[0]}{number}".encode()
        for name, rows in sent.items()
        for number, example_id in enumerate(rows["example_id"])
    }
    made = {operator: log.predictions[log.predictions["operator"] == operator] for operator in ("one", "two")}
    assert [tuple(payloads[each] for each in inputs) for inputs in made["one"]["input_ids"]] == joined
    assert made["one"]["spread_ms"].tolist() == [3] * count
    assert made["one"]["used_by"].isna().all(), "the next operator is no sink"
    back = dict(zip(made["one"]["output_id"], made["one"]["input_ids"], strict=True))
    ways = [[payloads[root] for root in back[inputs[0]]] for inputs in made["two"]["input_ids"]]
    assert [(left + b"+" + right).upper() for left, right in ways] == seen
    assert made["two"]["used_by"].tolist() == ["my-sub"] * count
    assert made["two"]["capture_ms"].tolist() == [start_ms + 20 * number + 3 for number in range(count)]
    assert made["two"][PARTS].notna().all().all()
    received = log.examples[log.examples["operator"] == "my-sub"].set_index("example_id")
    assert set(received.index) == set(made["two"]["output_id"])
    rows = {row["operator"]: row for row in log.summary().to_dict("records")}
    assert {name: (row["received"], row["sent"], row["dropped"]) for name, row in rows.items()} == {
        "left": (0, count, 0), "right": (0, count, 0), "one": (2 * count, count, 0), "two": (count, count, 0),
        "my-sub": (count, 0, 0),
    }  # fmt: skip


def test_each_output_of_a_batch_has_its_own_inputs(broker: str, wire: Wire, logs: Path, topic: str) -> None:
    flows = [f"f{number}" for number in range(7)]
    batches: list[list[bytes]] = []

    def many(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return dict.fromkeys(batch, True), dict(batch)

    def merge(items: list[bytes]) -> bytes:
        batches.append(items)
        return b",".join(items)

    data, answers, merged = f"{topic}-data", f"{topic}-answers", f"{topic}-merged"
    options: dict[str, Any] = {"batch_max_num_msg": 3, "batch_timeout_ms": 100, "log_path": logs}
    with DataSource(flows, broker, "src", str.encode, data, flow_id=str, log_path=logs) as source:
        assert len(list(source)) == 7
    with BatchModel(many, broker, data, answers, model_id="m", **options) as model:
        sent = [next(model) for _ in range(3)]
    with BatchCompute(merge, broker, "b", topic_in=answers, topic_out=merged, **options) as compute:
        while sum(map(len, batches)) < 7:
            next(compute)
    assert [list(each or ()) for each in sent] == [[b"f0", b"f1", b"f2"], [b"f3", b"f4", b"f5"], [b"f6"]]
    log = replay.load(logs)
    by_id = dict(zip(log.sent["example_id"], flows, strict=True))
    of_model = log.predictions[log.predictions["operator"] == "m"]
    assert [[by_id[each] for each in inputs] for inputs in of_model["input_ids"]] == [[flow] for flow in flows]
    assert of_model["flow_id"].tolist() == flows
    answered = dict(zip(of_model["output_id"], of_model["input_ids"], strict=True))
    of_batches = log.predictions[log.predictions["operator"] == "b"]
    assert [[by_id[answered[each][0]].encode() for each in inputs] for inputs in of_batches["input_ids"]] == batches
    assert (of_batches["is_satisfied"].isna()).all()


def test_the_way_through_a_cascade_is_that_of_the_signal(broker: str, topic: str, logs: Path) -> None:
    data, asks, out = f"{topic}-data", f"{topic}-asks", f"{topic}-out"
    flows = [f"f{number}" for number in range(9)]
    seen: list[tuple[bytes, bytes]] = []
    operators: list[Operator[Any]] = []
    cheap = Model(
        lambda data: (int(data[1:]) % 3 != 0, b"cheap"), broker, data, out, topic_out_signal=asks, model_id="cheap",
        log_path=logs,
    )  # fmt: skip
    dear = Model(
        lambda data, signal: (data != b"f6", b"dear"), broker, data, out, topic_in_signal=asks, model_id="dear",
        log_path=logs, send_unsatisfied=True,
    )  # fmt: skip
    sink = Materialize(stopping(operators, 9, seen), broker, topic=out, with_flow_id=True, log_path=logs)
    source = DataSource(flows, broker, "src", str.encode, data, flow_id=str, log_path=logs)
    operators += [source, cheap, dear, sink]
    run_all(*operators)
    log = replay.load(logs)
    assert_times_add_up(log)
    made = log.predictions.set_index(["operator", "flow_id"])
    assert {flow: made.loc[("cheap", flow), "is_satisfied"] for flow in flows} == {
        flow: number % 3 != 0 for number, flow in enumerate(flows)
    }
    assert dict(made.loc["dear"]["is_satisfied"]) == {"f0": True, "f3": True, "f6": False}
    for flow in ("f0", "f3", "f6"):
        cheaper, dearer = made.loc[("cheap", flow)], made.loc[("dear", flow)]
        assert dearer["last_input_id"] == cheaper["output_id"]
        assert len(dearer["input_ids"]) == 2
        assert dearer["capture_ms"] == cheaper["capture_ms"]
        assert (dearer["used_by"], math.isnan(dearer["timeliness_ms"])) == ("my-sub", False)
        assert pd.isna(cheaper["used_ms"])


def test_what_several_sinks_took_was_used_when_the_first_of_them_took_it(broker: str, wire: Wire, logs: Path) -> None:
    wire.send("a", b"1")
    with Compute(lambda a: a, broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs) as compute:
        next(compute)
    # Opened first, and called last.
    late = Materialize(lambda payload: None, broker, topic=wire.dst, sink_id="late", log_path=logs)
    with Materialize(lambda payload: None, broker, topic=wire.dst, sink_id="early", log_path=logs) as early:
        next(early)
    with late:
        next(late)
    (made,) = replay.load(logs).predictions.to_dict("records")
    assert made["used_by"] == "early"
    started = replay.load(logs).steps.set_index("operator")["started_ms"]
    assert made["used_ms"] == started["early"] < started["late"]


def logged(path: Path, operator: str, records: Sequence[Any], *, is_sink: bool = False) -> None:
    """The log of one operator: a model, or a sink."""
    kind, plan = ("compute", {"parameters": {"example": ""}}) if is_sink else ("flows", {"has_signal": True})
    name = "Materialize" if is_sink else "Model"
    topics_out = [] if is_sink else ["out"]
    head = Head(operator, 1, operator, name, ["in"], topics_out, kind, plan, "here", 1, 0, has_payloads=False)
    path.mkdir(exist_ok=True)
    (path / f"{operator}.log").write_bytes(pack_head(head) + pack_block(0, 0.0, records))


def test_the_wait_of_data_for_a_signal_that_was_captured_later_is_in_what_adds_up(tmp_path: Path) -> None:
    # A model's output has the capture time of its data, 20, and its signal is from 50.
    data, signal, first, second = (letter * 16 for letter in (b"d", b"s", b"1", b"2"))
    decided = (2, 1, 60, 60.0, [], [[0, 1]], [], None, None)
    ran = (3, None, 60.0, 0.0, 70.0, None, None, [(first, 0, 5, None, None, True)])
    logged(tmp_path, "one", [arrived(0, 25.0, data, 20), arrived(1, 55.0, signal, 50), decided, ran])
    decided = (2, 0, 80, 80.0, [], [[0]], [], None, None)
    ran = (3, None, 81.0, 0.0, 91.0, None, None, [(second, 0, 5, None, None, True)])
    logged(tmp_path, "two", [arrived(0, 75.0, first, 20), decided, ran])
    logged(tmp_path, "sink", [arrived(0, 95.0, second, 20), served(0, 0.1, 0.101)], is_sink=True)
    log = replay.load(tmp_path)
    assert_times_add_up(log)
    (made,) = log.predictions[log.predictions["operator"] == "two"].to_dict("records")
    assert (made["timeliness_ms"], made["compute_ms"]) == (100 - 20, 20)
    assert made["transfer_ms"] == (55 - 50) + (75 - 70) + (95 - 91)
    assert made["queueing_ms"] == (50 - 20) + (60 - 55) + (81 - 75) + (100 - 95)


# Several runs


def send(broker: str, count: int) -> None:
    with DataSource([b"%d" % number for number in range(count)], broker, "only", topic="in") as source:
        assert len(list(source)) == count


def record(broker: str, path: Path, count: int, name: str = "w") -> None:
    send(broker, count)
    with Compute(lambda only: only, broker, name, topic_in="in", topic_out="out", log_path=path) as compute:
        for _ in range(count):
            next(compute)


@pytest.fixture
def two_runs(logs: Path) -> Path:
    broker = memory_broker()
    record(broker, logs / "monday", 3)
    record(broker, logs / "tuesday" / "deep", 4)
    record(broker, logs / "tuesday", 3, "late")  # it reads nothing of what the other one has had
    end_memory_broker(broker)
    return logs


def test_several_runs_are_one_log_of_which_each_operator_is_one_row(two_runs: Path) -> None:
    log = replay.load(two_runs)
    assert sorted(run.operator for run in log.runs) == ["late", "w", "w"]
    counts = log.examples.groupby("operator").size().to_dict()
    assert counts == {"late": 3, "w": 7}
    summary = log.summary().set_index("operator")
    assert summary.index.tolist() == ["w", "late"]
    assert summary[["received", "runs", "sent", "held"]].loc["w"].tolist() == [7, 7, 7, 0]
    with pytest.raises(UsageError, match="2 runs of 'w'"):
        replay.run(log, "w")


def test_a_path_may_be_a_folder_or_a_file_or_several_of_either(two_runs: Path) -> None:
    file = next((two_runs / "monday").iterdir())
    for path, count in (
        (two_runs / "monday", 3), (str(file), 3), ([file], 3), ([file, two_runs / "tuesday" / "deep"], 7),
        ((two_runs / "tuesday"), 7), (iter([str(two_runs)]), 10),
    ):  # fmt: skip
        assert len(replay.load(path).examples) == count
    (two_runs / "monday" / "server.log").write_text("not ours\n")
    assert len(replay.load(two_runs).examples) == 10


def test_what_several_sinks_use_is_used_by_each(tmp_path: Path) -> None:
    captured, output = b"c" * 16, b"o" * 16
    ran = (3, None, 10.0, 0.0, 20.0, None, None, [(output, 0, 5, None, None, True)])
    logged(tmp_path, "op", [arrived(0, 5, captured, 2, publish_ms=3), (2, 0, 10, 10.0, [], [[0]], [], None, None), ran])
    for name, at_ms in (("slow", 500), ("quick", 25)):
        came = arrived(0, at_ms, output, 2, publish_ms=at_ms - 1)
        used = served(0, (at_ms + 1) / 1000, (at_ms + 2) / 1000)
        logged(tmp_path, name, [came, used], is_sink=True)
    log = replay.load(tmp_path)
    assert_times_add_up(log)
    assert log.predictions[["used_by", "timeliness_ms"]].to_numpy().tolist() == [["quick", 24]]
    uses = log.uses.set_index("operator")
    assert uses["example_id"].tolist() == [output.hex()] * 2
    assert uses["timeliness_ms"].to_dict() == {"slow": 499, "quick": 24}
    assert (uses[PARTS].sum(axis=1) == uses["timeliness_ms"]).all()
    assert [len(log.plot_latencies(name).lines) for name in ("op", "slow", "quick")] == [8, 8, 8]


def test_a_sink_of_a_source_has_uses_too(tmp_path: Path) -> None:
    logged(tmp_path, "sink", [arrived(0, 9, b"c" * 16, 2, publish_ms=3), served(0, 0.01, 0.011)], is_sink=True)
    (use,) = replay.load(tmp_path).uses.to_dict("records")
    assert (use["timeliness_ms"], use["transfer_ms"], use["queueing_ms"], use["compute_ms"]) == (8, 7, 1, 0)


def test_what_was_made_again_after_a_crash_was_used_once(tmp_path: Path) -> None:
    captured, output = b"c" * 16, b"o" * 16
    for name, at_ms in (("killed", 10), ("successor", 1000)):
        ran = (3, None, at_ms, 0.0, at_ms + 5, None, None, [(output, 0, 5, None, None, True)])
        decided = (2, 0, at_ms, at_ms, [], [[0]], [], None, None)
        logged(tmp_path, name, [arrived(0, at_ms, captured, 2, publish_ms=3), decided, ran])
    logged(tmp_path, "sink", [arrived(0, 20, output, 2), served(0, 0.021, 0.022)], is_sink=True)
    made = replay.load(tmp_path).predictions.set_index("operator")
    assert made["used_by"].to_dict()["killed"] == "sink"
    assert made.loc["successor", ["used_by", "used_ms", "timeliness_ms"]].isna().all()


def test_what_is_held_when_it_ends_is_told_apart_from_what_is_dropped(logs: Path) -> None:
    broker = memory_broker()
    with Compute(
        lambda left, right: left + right, broker, "join", topic_in=["left", "right"], log_path=logs, idle_timeout_ms=100
    ) as compute:
        for payload in (b"1", b"2"):
            with DataSource([payload], broker, "left", topic="left") as source:
                next(source)
        assert [output for output in compute if output] == []
    end_memory_broker(broker)
    log = replay.load(logs)
    assert log.examples["fate"].isna().tolist() == [False, True]
    (drop,) = log.drops.to_dict("records")
    assert (drop["fate"], drop["example_id"]) == ("superseded", log.examples["example_id"][0])
    assert drop["waited_ms"] == drop["dropped_ms"] - drop["reached_ms"] >= 0
    assert log.summary()["held"].tolist() == [1]
    assert log.predictions.empty
    assert log.summary()[["sent", "dropped"]].to_numpy().tolist() == [[0, 1]]


def test_what_a_source_does_not_send_is_a_drop_of_its_own(logs: Path) -> None:
    broker = memory_broker()
    with DataSource(
        [b"1", None, b"2", b"3"], broker, "s", lambda item: item if item != b"2" else None, log_path=logs
    ) as s:
        for _ in s:
            pass
        fates = {fate.value: count for fate, count in s.stats.fates.items()}
    end_memory_broker(broker)
    log = replay.load(logs)
    assert log.drops["fate"].tolist() == ["gated", "gated"]
    assert log.drops["operator"].tolist() == ["s", "s"]
    assert log.drops[["example_id", "capture_ms", "waited_ms", "age_ms"]].isna().all(axis=None)
    assert log.drops["dropped_ms"].is_monotonic_increasing
    assert fates == {"gated": 2, "used": 2}
    assert log.summary()[["sent", "dropped"]].to_numpy().tolist() == [[2, 2]]


def test_of_what_was_given_up_it_is_told_what_was_raised(broker: str, wire: Wire, logs: Path) -> None:
    def reject(item: bytes) -> bytes:
        if item == b"2":
            raise ValueError("2 is none")
        return item

    def fail(only: bytes) -> bytes:
        if only == b"3":
            raise KeyError(3)
        return only

    with Compute(fail, broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs, on_error="skip") as compute:
        with DataSource([b"1", b"2", b"3"], broker, "only", reject, topic=wire.src, log_path=logs) as source:
            next(source)
            with pytest.raises(ValueError, match="2 is none"):
                next(source)
            next(source)
        wire.send_raw(b"no example")
        assert [next(compute) for _ in range(3)] == [b"1", None, None]
    log = replay.load(logs)
    drops = sorted(log.drops[["operator", "fate", "error"]].itertuples(index=False, name=None))
    assert drops[0] == ("only", "failed", "ValueError: 2 is none")
    assert drops[1] == ("worker1", "failed", "KeyError: 3")
    assert drops[2][:2] == ("worker1", "malformed")
    assert drops[2][2].startswith("MalformedMessage: ")
    assert log.examples["error"].isna().tolist() == [True, False, False]
    for again in (replay.run(log), replay.run(log, task_ms="recorded")):
        assert again.examples["error"].tolist()[1:] == log.examples["error"].tolist()[1:]


def test_of_what_a_source_sent_only_flows_and_urls_are_kept_beside_the_columns(logs: Path) -> None:
    broker = memory_broker()
    for name, flow_id in (("plain", None), ("flows", str)):
        with DataSource(range(3), broker, name, str, flow_id=flow_id, log_path=logs, log_verbose=True) as source:
            assert len(list(source)) == 3
    end_memory_broker(broker)
    assert Columns(only_run(logs, "plain")).sent_more == {}
    assert [each.flow_id for each in Columns(only_run(logs, "flows")).sent_more.values()] == [b"0", b"1", b"2"]
    sent = replay.load(logs).sent.set_index("operator")
    assert sent.loc["flows", "flow_id"].tolist() == ["0", "1", "2"]
    assert sent.loc["plain", "flow_id"].isna().all()
    assert len(sent.loc["plain"]) == 3


# Whatever the records are


class Random:
    """A run of random records, of which none contradicts another."""

    def __init__(self, messages: Sequence[int], job_sizes: Sequence[int], dropped: Sequence[int], cut: int) -> None:
        self.head = Head("r", 1, "op", "Compute", ["in"], ["out"], "batches", {}, "here", 1, 0, has_payloads=False)
        self.total = sum(messages)
        records: list[Any] = []
        first = 0
        for count in messages:
            ids = b"".join(b"%016d" % number for number in range(first, first + count))
            captures = list(range(100 + first, 100 + first + count))
            records.append((0, 1.0 * first, "in", first, first, count > 1, ids, captures, "a", None,
                            [1] * count, None, None, None))  # fmt: skip
            first += count
        drops = sorted({number for number in dropped if number < self.total})
        records += [(1, number, "gated", 1.0) for number in drops]
        left = [number for number in range(self.total) if number not in drops]
        self.jobs: list[list[int]] = []
        for size in job_sizes:
            job, left = left[:size], left[size:]
            if not job:
                break
            self.jobs.append(job)
            records.append((2, job[-1], 5, 5.0, [], [[number] for number in job], [], None, None))
            output = (b"o%015d" % len(self.jobs), 0, 3, None, None)
            records.append((3, None, 6.0, 0.0, 7.0, None, None, [output]))
        self.drops = drops
        self.held = left
        self._records = records
        self._cut = cut

    def blocks(self) -> Any:
        for at in range(0, len(self._records), self._cut):
            yield Block(1000, 0.0, self._records[at : at + self._cut])


@settings(max_examples=60)
@given(
    st.builds(
        Random,
        st.lists(st.integers(1, 5), max_size=12),
        st.lists(st.integers(1, 4), max_size=12),
        st.lists(st.integers(0, 40), max_size=10),
        st.integers(1, 7),
    )
)
def test_no_example_is_lost_or_doubled(run: Random) -> None:
    log = ReplayLog([run])
    assert [bytes.fromhex(each) for each in log.examples["example_id"]] == [b"%016d" % n for n in range(run.total)]
    fates = Counter(log.examples["fate"].fillna("held"))
    expected = {"gated": len(run.drops), "used": sum(map(len, run.jobs)), "held": len(run.held)}
    assert fates == {fate: count for fate, count in expected.items() if count}
    made = [[int(bytes.fromhex(each)) for each in inputs] for inputs in log.predictions["input_ids"]]
    assert made == run.jobs
    assert log.predictions["capture_ms"].tolist() == [100 + max(job) for job in run.jobs]
    assert log.predictions["spread_ms"].tolist() == [max(job) - min(job) for job in run.jobs]
    assert len(log.steps) == len(run.drops) + len(run.jobs)
    assert [len(inputs) for inputs in log.steps["input_ids"] if len(inputs)] == [len(job) for job in run.jobs]
