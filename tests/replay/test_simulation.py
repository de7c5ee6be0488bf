"""A log that is run again with other knobs or another task, on times that the test says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeserve import UsageError, replay
from edgeserve._log.head import Head
from edgeserve._log.writer import pack_block, pack_head
from edgeserve.replay._history import History
from edgeserve.replay._log import ReplayLog
from edgeserve.replay._simulation import reached_times_ms
from tests.replay.recorded import arrived, only_run, random_batches, random_compute, random_flows, served

WALL_MS = 1_700_000_000_000

Came = tuple[float, str, float]
"""When an example came, of which source, and when it was captured."""


def write_log(
    path: Path,
    arrivals: Sequence[Came],
    sources: Sequence[str],
    *,
    task_ms: float | None = None,
    payloads: bool = True,
    settled: Mapping[int, str] | None = None,
    **plan: Any,
) -> ReplayLog:
    """The log of an operator to which these examples came; if `task_ms` is given, it ran on each by itself at once."""
    fields = {"parameters": {source.replace("-", "_"): source for source in sources}, **plan}
    head = Head("r", 1, "op", "Compute", ["in"], ["out"], "compute", fields, "here", 1, WALL_MS, payloads)
    records: list[Any] = []
    for number, (at_ms, source, capture_ms) in enumerate(arrivals):
        payload = b"%s%d" % (source.encode(), number) if payloads else None
        example_id, captured_ms, published_ms = b"%016d" % number, int(WALL_MS + capture_ms), int(WALL_MS + at_ms)
        came = arrived(number, at_ms, example_id, captured_ms, source=source, publish_ms=published_ms, payload=payload)
        records.append(came)
        if number in (settled or {}):
            records.append((1, number, (settled or {})[number], float(at_ms)))
        elif task_ms is not None:
            records.append(served(number, at_ms / 1000, (at_ms + task_ms) / 1000, b"o%015d" % number, 9))
    path.mkdir(exist_ok=True)
    (path / "op.compute").write_bytes(pack_head(head) + pack_block(WALL_MS, 0.0, records))
    return replay.load(path)


def every(interval_ms: float, source: str = "cam", count: int = 50, at_ms: float = 0) -> list[Came]:
    """Examples at a steady rate, captured when they came."""
    return [(at_ms + interval_ms * n, source, at_ms + interval_ms * n) for n in range(count)]


def pairs(apart_ms: float = 30, count: int = 40) -> list[Came]:
    """Two sources of which the second one is captured so much later."""
    return sorted([*every(100, "left", count), *every(100, "right", count, at_ms=apart_ms)])


def starts(log: ReplayLog) -> list[float]:
    return [ms - WALL_MS for ms in log.predictions["started_ms"]]


def numbers(log: ReplayLog) -> list[list[int]]:
    """What each prediction was made of."""
    return [[int(bytes.fromhex(each)) for each in inputs] for inputs in log.predictions["input_ids"]]


# Time


def test_what_came_while_the_operator_waited_reached_it_when_it_was_received(tmp_path: Path) -> None:
    write_log(tmp_path, every(10, count=5), ["cam"])
    assert reached_times_ms(History.of(only_run(tmp_path, "op"))) == [0, 10, 20, 30, 40]


def test_a_task_that_is_too_slow_falls_behind_and_a_fast_one_does_not(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10), ["cam"])
    slow, fast = replay.run(log, task_ms=30), replay.run(log, task_ms=5)
    assert slow.predictions["age_ms"].tolist() == [30 * (n + 1) - 10 * n for n in range(50)]
    assert fast.predictions["age_ms"].tolist() == [5] * 50
    assert numbers(slow) == numbers(fast) == [[n] for n in range(50)], "it is busy, and takes them in order"
    assert starts(slow) == [30 * n for n in range(50)]


def test_a_task_may_take_no_time_at_all(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10), ["cam"], task_ms=8)
    assert replay.run(log, task_ms=0).predictions["age_ms"].tolist() == [0] * 50
    assert replay.run(log, task_ms="recorded").predictions["age_ms"].tolist() == pytest.approx([8] * 50)
    assert replay.run(log, min_interval_ms=1).predictions["age_ms"].tolist() == pytest.approx([8] * 50)


@pytest.mark.parametrize("interval_ms", [25, 40, 10.5])
def test_the_least_time_between_two_starts_is_kept_to_the_ms_and_used(tmp_path: Path, interval_ms: float) -> None:
    log = write_log(tmp_path, every(10), ["cam"])
    again = replay.run(log, min_interval_ms=interval_ms, task_ms=1)
    assert starts(again)[:10] == pytest.approx([interval_ms * n for n in range(10)])
    newest = [math.floor(at_ms / 10 + 1e-9) for at_ms in starts(again)]
    assert numbers(again)[:-1] == [[number] for number in newest][:-1]
    assert set(again.drops["fate"]) == {"superseded"}
    assert len(again.drops) + len(again.predictions) == 50


def test_what_is_too_old_by_then_is_dropped(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10), ["cam"])
    again = replay.run(log, drop_if_older_than_ms=15, task_ms=35)
    assert again.predictions["age_ms"].max() <= 15 + 35
    assert set(again.drops["fate"]) == {"too old"}
    assert len(again.drops) + len(again.predictions) == 50


@pytest.mark.parametrize("knobs", [{"max_time_diff_ms": 50}, {"join": "nearest", "max_time_diff_ms": 60}])
def test_with_the_same_knobs_and_a_task_that_takes_no_time_the_matches_are_the_same(
    tmp_path: Path, knobs: dict[str, Any]
) -> None:
    arrivals = sorted([*every(20, "left"), *every(33, "right", 30, at_ms=1.5)])
    log = write_log(tmp_path, arrivals, ["left", "right"], **knobs)
    idle = replay.run(log, task_ms=0)
    assert numbers(idle) == numbers(replay.run(log, task_ms=0.001))
    assert numbers(idle) == numbers(replay.run(log, task_ms=0, **knobs))
    assert len(numbers(idle)) > 20
    assert idle.examples["example_id"].tolist() == log.examples["example_id"].tolist()


def test_a_join_of_nearest_matches_more_the_further_apart_they_may_be(tmp_path: Path) -> None:
    arrivals = sorted([*every(20, "left", 60), *[(at + 1, name, at) for at, name, _ in every(27, "right", 50)]])
    log = write_log(tmp_path, arrivals, ["left", "right"], join="nearest")
    table = replay.grid(log, {"max_time_diff_ms": [0, 2, 4, 6, 8, 10, 13, 14, 30]}, task_ms=1).table
    assert table["coverage"].is_monotonic_increasing
    assert table["coverage"].iloc[0] < 0.1
    assert table["coverage"].iloc[-1] > 0.95
    assert (table["spread_p99_ms"] <= table["max_time_diff_ms"]).all()
    assert (table["predictions"] + table["dropped"] <= len(arrivals)).all()


def test_what_no_join_saw_is_not_seen_again(tmp_path: Path) -> None:
    settled = {3: "gated", 4: "malformed", 5: "duplicate", 6: "unknown source"}
    log = write_log(tmp_path, every(10, count=10), ["cam"], settled=settled)
    again = replay.run(log, task_ms=1)
    assert numbers(again) == [[0], [1], [2], [7], [8], [9]]
    assert again.drops["fate"].tolist() == list(settled.values())


@pytest.mark.parametrize(
    ("record", "options", "knobs"),
    [
        (random_compute, {"max_time_diff_ms": 50}, {"min_interval_ms": 5}),
        (random_compute, {"max_time_diff_ms": 50, "on_error": "skip"}, {"join": "nearest", "max_wait_ms": 30}),
        (random_flows, {}, {"max_waiting_flows": 5, "max_time_diff_ms": 20}),
        (random_batches, {"batch_max_num_msg": 7}, {"batch_max_num_msg": 3, "batch_timeout_ms": 9}),
    ],
    ids=["latest", "nearest", "flows", "batches"],
)
def test_every_example_of_a_run_that_is_made_again_has_one_place_in_it(
    tmp_path: Path, record: Any, options: dict[str, Any], knobs: dict[str, Any]
) -> None:
    record(tmp_path, 7, **options)
    log = replay.load(tmp_path)
    again = replay.run(log, **knobs)
    came = log.examples
    assert sorted(again.examples["example_id"]) == sorted(came["example_id"])
    used = {each for inputs in again.predictions["input_ids"] for each in inputs}
    assert used <= set(again.examples[again.examples["fate"] == "used"]["example_id"])
    assert set(again.drops["example_id"]).isdisjoint(used)
    assert (again.predictions["started_ms"] >= again.predictions["received_ms"]).all()
    assert again.predictions["started_ms"].is_monotonic_increasing


# Other tasks


def test_another_task_runs_on_the_payloads_and_is_told_right_from_wrong(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(count=10), ["left", "right"], max_time_diff_ms=50)
    asked: list[tuple[Any, dict[str, Any]]] = []

    def is_right(output: Any, arguments: Mapping[str, Any]) -> bool:
        asked.append((output, dict(arguments)))
        return bool(output[-1:] != b"0")

    again = replay.run(
        log, task=lambda left, right: left + b"&" + right, is_right=is_right, task_ms=3, gate_out=lambda out: out[:4]
    )
    assert asked[0] == (b"left0&right1", {"left": b"left0", "right": b"right1"})
    assert again.predictions["is_right"].tolist() == [int(out[-1:]) != 0 for out, _ in asked]
    assert again.predictions["size_bytes"].tolist() == [4] * 10
    grid = replay.grid(log, {"max_time_diff_ms": [10, 50]}, task=lambda left, right: right, is_right=is_right)
    assert grid.table["predictions"].tolist() == [0, 10]
    assert math.isnan(grid.table["accuracy"][0])
    assert grid.table["accuracy"][1] == 1


def test_where_nothing_is_matched_nothing_is_right_and_no_column_is_missing(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(count=5), ["left", "right"], max_time_diff_ms=1)
    options: dict[str, Any] = {"task": lambda left, right: left, "is_right": lambda output, arguments: True}
    assert replay.run(log, **options).predictions["is_right"].tolist() == []
    assert replay.grid(log, {"min_interval_ms": [0]}, **options).table["accuracy"].isna().all()


@pytest.mark.parametrize("knobs", [{}, {"max_time_diff_ms": 40}])
def test_a_task_that_takes_fewer_sources_leaves_the_others(tmp_path: Path, knobs: dict[str, Any]) -> None:
    log = write_log(tmp_path, pairs(count=5), ["left", "right"])
    again = replay.run(log, task=lambda right: right, task_ms=1, **knobs)
    assert numbers(again) == [[1], [3], [5], [7], [9]]
    assert again.drops["fate"].tolist() == ["unknown source"] * 5
    three = sorted([*pairs(count=5), *every(100, "third", 5, at_ms=60)])
    log = write_log(tmp_path, three, ["left", "right", "third"], max_time_diff_ms=90)
    again = replay.run(log, task=lambda left, third: left, task_ms=1)
    assert numbers(again) == [[0, 2], [3, 2], [3, 5], [6, 5], [6, 8], [9, 8], [9, 11], [12, 11], [12, 14]]


def test_the_names_of_a_tasks_parameters_may_be_others(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(count=5), ["left", "right"], max_time_diff_ms=50)
    seen: list[tuple[bytes, bytes]] = []

    def task(a: bytes, b: bytes) -> bytes:
        seen.append((a, b))
        return a

    again = replay.run(log, task=task, inputs={"a": "right", "b": "left"}, task_ms=0)
    assert len(again.predictions) == 5
    assert seen[0] == (b"right1", b"left0")
    with pytest.raises(UsageError, match=r"\['a', 'b'\].*\['left', 'right'\].*inputs="):
        replay.run(log, task=task)
    with pytest.raises(UsageError, match="inputs"):
        replay.run(log, task=task, inputs={"a": "right"})
    assert len(replay.run(log, task=lambda **both: both["left"], task_ms=0).predictions) == 5


def test_a_batch_runs_again_as_a_batch(tmp_path: Path) -> None:
    random_batches(tmp_path, 3, batch_max_num_msg=4, log_verbose=True)
    log = replay.load(tmp_path)
    sizes: list[int] = []

    def task(items: list[bytes]) -> bytes:
        sizes.append(len(items))
        return b""

    replay.run(log, task=task, batch_max_num_msg=2, task_ms=1)
    assert set(sizes) == {1, 2}
    with pytest.raises(UsageError, match="not for whole batches"):
        replay.run(log, task=lambda items: b"x", is_right=lambda output, arguments: True, batch_max_num_msg=2)


@pytest.mark.parametrize("knobs", [{}, {"min_interval_ms": 1}])
def test_a_stricter_gate_drops_what_it_drops(tmp_path: Path, knobs: dict[str, Any]) -> None:
    random_compute(tmp_path, 3, max_time_diff_ms=50, log_verbose=True)
    log = replay.load(tmp_path)
    made: list[bytes] = []

    def task(left: bytes, right: bytes) -> bytes:
        made.append(left + right)
        return left + right

    again = replay.run(log, task=task, gate_in=lambda payload: payload if int(payload) % 3 else None, **knobs)
    assert len(made) == len(again.predictions)
    gated = set(again.examples[again.examples["fate"] == "gated"]["example_id"])
    assert 0 < len(gated) < len(again.examples)
    assert gated.isdisjoint(each for inputs in again.predictions["input_ids"] for each in inputs)
    assert len(again.examples) == len(log.examples)
    assert len(again.predictions) > 0


def test_a_gate_drops_also_what_was_served_at_once(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10, count=9), ["cam"], task_ms=5)
    again = replay.run(log, task=lambda cam: cam, gate_in=lambda payload: payload if int(payload[3:]) % 3 else None)
    assert numbers(again) == [[1], [2], [4], [5], [7], [8]]
    assert again.drops["fate"].tolist() == ["gated"] * 3


# What is refused


def test_a_log_without_payloads_runs_no_task(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10), ["cam"], payloads=False)
    with pytest.raises(UsageError, match="log_verbose=True"):
        replay.run(log, task=lambda cam: cam)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_time_dif_ms": 5}, "max_time_dif_ms.*can be run again with.*max_time_diff_ms.*min_interval_ms"),
        ({"parameters": {}}, "parameters.*can be run again with"),
        ({"max_time_diff_ms": -1}, "max_time_diff_ms"),
        ({"join": "widest"}, "join is 'widest'"),
        ({"task_ms": -1}, "task_ms"),
        ({"task_ms": "quick"}, "task_ms is 'quick'"),
        ({"task_ms": "measured"}, "task_ms='measured' need"),
        ({"is_right": bool}, "give task="),
        ({"gate_in": bytes}, "gate_in: gates are run with a task"),
        ({"operator": "other"}, "no operator 'other'.*op"),
        ({"task": "pass"}, "can be called"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_and_said(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    log = write_log(tmp_path, every(10), ["cam"])
    with pytest.raises(UsageError, match=match):
        replay.run(log, **options)


def test_what_was_run_again_is_not_run_again_from_that(tmp_path: Path) -> None:
    again = replay.run(write_log(tmp_path, every(10), ["cam"]), task_ms=1)
    with pytest.raises(UsageError, match="run the first one"):
        replay.run(again)


# Choosing


def test_a_grid_has_a_row_for_each_combination(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(), ["left", "right"])
    grid = replay.grid(log, {"max_time_diff_ms": [20, 30, 70], "min_interval_ms": [0, 250]}, task_ms=20)
    assert grid.knobs == {"max_time_diff_ms": [20, 30, 70], "min_interval_ms": [0, 250]}
    table = grid.table.set_index(["max_time_diff_ms", "min_interval_ms"])
    assert table.index.tolist() == [(20, 0), (20, 250), (30, 0), (30, 250), (70, 0), (70, 250)]
    assert table["predictions"].tolist()[::2] == [0, 40, 79]
    assert table.loc[(30, 0), "coverage"] == 1
    assert table.loc[(30, 0), ["timeliness_p50_ms", "timeliness_p99_ms", "spread_p99_ms"]].tolist() == [20, 20, 30]
    assert table.loc[(30, 0), "staleness_p50_ms"] == 50
    assert table.loc[(30, 0), "rate_per_s"] == pytest.approx(10)
    assert table.loc[(70, 250), "rate_per_s"] <= 4
    for knobs in ({}, {"max_time_diff_ms": []}, {"max_time_diff_ms": 5}, {"no_such": [1]}):
        with pytest.raises(UsageError):
            replay.grid(log, knobs)  # type: ignore[arg-type]


def test_a_suggestion_finds_the_smallest_interval_and_the_highest_rate(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(), ["left", "right"])
    found = replay.suggest(log, timeliness_ms=25, task_ms=20)
    assert (found.knobs, found.is_met) == ({"max_time_diff_ms": 30, "min_interval_ms": 0}, True)
    assert found.expected["coverage"] == 1
    assert found.expected["timeliness_p99_ms"] == 20
    assert "100.0%" in found.why


def test_a_suggestion_says_where_nothing_can_do(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(), ["left", "right"])
    found = replay.suggest(log, timeliness_ms=10, task_ms=20)
    assert not found.is_met
    assert found.why.startswith("nothing that was tried")
    assert found.knobs["max_time_diff_ms"] == 30
    assert replay.suggest(log, staleness_ms=50, task_ms=20).is_met
    assert not replay.suggest(log, staleness_ms=49, task_ms=20).is_met


def test_where_nothing_meets_there_is_nothing_to_suggest(tmp_path: Path) -> None:
    log = write_log(tmp_path, pairs(30), ["left", "right"])
    with pytest.raises(UsageError, match="nothing meets within 10 ms"):
        replay.suggest(log, timeliness_ms=100, task_ms=20, widest_ms=10)


def test_a_task_that_is_too_slow_for_what_comes_is_slowed_down_until_it_keeps_up(tmp_path: Path) -> None:
    log = write_log(tmp_path, every(10, count=300), ["cam"], task_ms=30)
    found = replay.suggest(log, timeliness_ms=45, coverage=0.2)
    assert found.is_met
    assert 30 <= found.knobs["min_interval_ms"] <= 45
    assert found.expected["timeliness_p99_ms"] <= 45
    assert found.expected["coverage"] < 0.4
    assert "100.0% would be at the full rate" in found.why


@pytest.mark.parametrize("given", ["task_ms", "task"])
def test_the_paces_that_are_tried_are_those_of_the_task_that_is_asked_about(tmp_path: Path, given: str) -> None:
    log = write_log(tmp_path, every(100, count=200), ["cam"], task_ms=2)
    options: dict[str, Any] = {"task_ms": 250}
    if given == "task":
        options |= {"task": lambda cam: cam}
    found = replay.suggest(log, timeliness_ms=345, **options)
    assert found.is_met
    assert found.knobs == {"min_interval_ms": 312.5}
    assert found.tried["min_interval_ms"].tolist()[:4] == [0, 125, 250, 312.5]
    assert replay.suggest(log, timeliness_ms=1, task_ms=0).tried["min_interval_ms"].tolist() == [0]


@pytest.mark.parametrize("recorded_ms", [0, 1000])
def test_the_interval_is_chosen_at_the_full_rate_whatever_rate_was_recorded(tmp_path: Path, recorded_ms: int) -> None:
    arrivals = sorted([*every(40, "left", 400), *every(200, "right", 80, at_ms=90)])
    log = write_log(tmp_path, arrivals, ["left", "right"], max_time_diff_ms=300, min_interval_ms=recorded_ms)
    found = replay.suggest(log, timeliness_ms=500, task_ms=1)
    assert found.knobs == {"max_time_diff_ms": 150, "min_interval_ms": 0}
    assert found.expected["coverage"] > 0.95
    assert found.tried["min_interval_ms"].tolist() == [0] * len(found.tried)
