"""A log that is run again with another task or other gates: what they are asked about, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeserve import BatchCompute, BatchModel, Compute, DataSource, Model, UsageError, replay
from edgeserve._log.head import Head
from edgeserve._log.records import ANEW, ASKED, DECIDED, Arrived
from edgeserve._log.writer import pack_block, pack_head
from edgeserve.replay._history import History, record_of, without_payloads
from edgeserve.testing import memory_broker
from tests.replay.recorded import START_MS, arrived, only_run

ITEMS = [b"1", b"bad", b"2", b"3", b"4", b"5"]

both_modes = pytest.mark.parametrize("mode", [{}, {"task_ms": 1}], ids=["moments", "simulated"])


def careful(payload: bytes) -> bytes:
    """Raises on what is bad."""
    if payload == b"bad":
        raise ZeroDivisionError("it is bad")
    return payload


def good(payload: bytes) -> bytes | None:
    """Drops what is bad."""
    return payload if payload != b"bad" else None


def recorded(
    path: Path, make: Callable[..., Any], flow_id: Callable[[bytes], bytes] | None = bytes, **options: Any
) -> replay.ReplayLog:
    """The log of an operator to which the items came, of a source named "cam"."""
    broker = memory_broker()
    operator = make(broker, log_path=path, log_verbose=True, idle_timeout_ms=100, **options)
    with DataSource(ITEMS, broker, "cam", bytes, flow_id=flow_id, packing=False) as source:
        list(source)
    with operator:
        while True:
            try:
                next(operator)
            except StopIteration:
                break
            except ZeroDivisionError:
                continue
    return replay.load(path)


def compute(broker: str, **options: Any) -> Compute:
    task = options.pop("task", bytes)
    return Compute(lambda cam: task(cam), broker, "op", **options)  # noqa: PLW0108 - its parameter is the source


def paced(broker: str, **options: Any) -> Compute:
    """The same through a join."""
    return compute(broker, drop_if_older_than_ms=1_000_000, **options)


def batches(broker: str, **options: Any) -> BatchCompute:
    task = options.pop("task", bytes)
    return BatchCompute(
        lambda items: b",".join(map(task, items)), broker, "op", batch_max_num_msg=6, batch_timeout_ms=1000, **options
    )


def fates(log: replay.ReplayLog) -> list[str]:
    return [str(each) for each in log.examples["fate"].fillna("held")]


def made_of(log: replay.ReplayLog) -> list[list[bytes]]:
    """What each prediction was made from."""
    payloads = dict(zip(log.examples["example_id"], ITEMS, strict=True))
    return [[payloads[each] for each in inputs] for inputs in log.predictions["input_ids"]]


# What raised


@both_modes
@pytest.mark.parametrize("make", [compute, paced])
@pytest.mark.parametrize(("on_error", "fate"), [("skip", "failed"), ("raise", "held")])
def test_what_a_gate_raised_on_stays_as_it_was(
    tmp_path: Path, make: Any, on_error: str, fate: str, mode: dict[str, Any]
) -> None:
    log = recorded(tmp_path, make, gate_in=careful, on_error=on_error)
    expected = ["used", fate, "used", "used", "used", "used"]
    assert fates(log) == fates(replay.run(log, **mode)) == expected
    assert fates(replay.run(log, task=lambda cam: cam, **mode)) == expected, "no gate was given"


@both_modes
@pytest.mark.parametrize("make", [compute, paced, batches])
@pytest.mark.parametrize("on_error", ["skip", "raise"])
def test_a_mended_gate_is_asked_about_what_the_other_one_raised_on(
    tmp_path: Path, make: Any, on_error: str, mode: dict[str, Any]
) -> None:
    log = recorded(tmp_path, make, gate_in=careful, on_error=on_error)
    task: Any = (lambda items: b"x") if make is batches else lambda cam: cam
    asked: list[bytes] = []

    def gate(payload: bytes) -> bytes:
        asked.append(payload)
        return payload

    assert fates(replay.run(log, task=task, gate_in=gate, **mode)) == ["used"] * 6
    assert asked == ITEMS, "in their order, and once"
    again = replay.run(log, task=task, gate_in=good, **mode)
    assert fates(again) == ["used", "gated", *["used"] * 4]


@both_modes
@pytest.mark.parametrize("make", [compute, paced, batches])
def test_a_looser_gate_is_asked_about_what_the_other_one_dropped(
    tmp_path: Path, make: Any, mode: dict[str, Any]
) -> None:
    log = recorded(tmp_path, make, gate_in=good)
    task: Any = (lambda items: b"x") if make is batches else lambda cam: cam
    assert fates(replay.run(log, task=task, **mode)) == ["used", "gated", *["used"] * 4], "no gate was given"
    assert fates(replay.run(log, task=task, gate_in={"imu": bytes}, **mode)) == ["used", "gated", *["used"] * 4]
    again = replay.run(log, task=task, gate_in=lambda payload: payload, **mode)
    assert fates(again) == ["used"] * 6
    assert [each for inputs in made_of(again) for each in inputs] == ITEMS
    none = replay.run(log, task=task, gate_in=lambda payload: None if payload != b"bad" else payload, **mode)
    assert made_of(none) == [[b"bad"]]


@pytest.mark.parametrize("make", [compute, paced, batches])
@pytest.mark.parametrize("on_error", ["skip", "raise", "retry"])
@both_modes
def test_without_a_task_what_the_recorded_one_raised_is_raised_again(
    tmp_path: Path, make: Any, on_error: str, mode: dict[str, Any]
) -> None:
    options = {"max_retries": 1, "retry_interval_ms": 0} if on_error == "retry" else {}
    log = recorded(tmp_path, make, task=careful, on_error=on_error, **options)
    again = replay.run(log, **mode)
    assert fates(again) == fates(log)
    assert made_of(again) == made_of(log)
    assert set(again.steps["error"].dropna()) == {"ZeroDivisionError: it is bad"}
    if not mode:
        assert again.steps["outcome"].tolist() == log.steps["outcome"].tolist()


@both_modes
@pytest.mark.parametrize("make", [compute, paced, batches])
@pytest.mark.parametrize("on_error", ["skip", "raise", "retry"])
def test_a_mended_task_is_run_also_where_the_other_one_failed(
    tmp_path: Path, make: Any, on_error: str, mode: dict[str, Any]
) -> None:
    options = {"max_retries": 2, "retry_interval_ms": 0} if on_error == "retry" else {}
    log = recorded(tmp_path, make, task=careful, on_error=on_error, **options)
    seen: list[bytes] = []

    def one(cam: bytes) -> bytes:
        seen.append(cam)
        return cam

    def many(items: list[bytes]) -> bytes:
        seen.extend(items)
        return b"x"

    again = replay.run(log, task=many if make is batches else one, **mode)
    assert sorted(seen) == sorted(ITEMS), "on each of them once"
    assert fates(again) == ["used"] * 6
    assert again.steps["error"].isna().all()
    with pytest.raises(ZeroDivisionError, match="it is bad"):
        replay.run(log, task=(lambda items: b"".join(map(careful, items))) if make is batches else careful_of, **mode)


def careful_of(cam: bytes) -> bytes:
    return careful(cam)


def test_a_batch_with_poison_in_it_is_run_again_in_its_parts(tmp_path: Path) -> None:
    log = recorded(tmp_path, batches, task=careful, on_error="skip")
    ran: list[list[bytes]] = []

    def task(items: list[bytes]) -> bytes:
        ran.append(items)
        return b"x"

    again = replay.run(log, task=task)
    assert ran == [[b"bad"], [b"1", b"2", b"3", b"4", b"5"]]
    assert made_of(again) == ran
    history = History.of(only_run(tmp_path, "op"))
    assert [serving.units for serving in history.servings] == [[(0,), (2,), (3,), (4,), (5,)]]
    assert list(history.failures) == [(1,)]


def test_in_a_join_the_failure_of_the_other_task_is_not_that_of_this_one(tmp_path: Path) -> None:
    """What was given up stays with the join, where the task that was given does not fail on it."""
    broker = memory_broker()
    with Compute(
        lambda left, right: careful(right), broker, "op", on_error="skip", log_path=tmp_path, log_verbose=True,
        idle_timeout_ms=100,
    ) as operator:  # fmt: skip
        for name, items in (("left", [b"l"]), ("right", [b"bad"]), ("left", [b"m"])):
            with DataSource(items, broker, name, event_time=lambda _: START_MS) as source:
                list(source)
        assert [step for step in operator if step is not None] == []
    log = replay.load(tmp_path)
    assert log.steps["outcome"].tolist()[1] == "failed"
    again = replay.run(log, task=lambda left, right: left + right)
    assert again.steps["outcome"].tolist() == ["waits for a match", "ran", "ran"]
    assert set(fates(again)) == {"used"}


# What a task takes, and what is right


@both_modes
def test_the_order_of_a_tasks_parameters_says_which_source_leads(tmp_path: Path, mode: dict[str, Any]) -> None:
    head = Head(
        "r", 1, "op", "Compute", ["in"], ["out"], "compute",
        {"parameters": {"cam": "cam", "imu": "imu"}, "join": "nearest", "max_time_diff_ms": 50}, "here", 1, 0, True,
    )  # fmt: skip
    came = sorted([*[(40 * n, "cam") for n in range(5)], *[(10 * n + 1, "imu") for n in range(20)]])
    records = [
        arrived(number, at_ms, b"%016d" % number, START_MS + at_ms, source=source, payload=b"x")
        for number, (at_ms, source) in enumerate(came)
    ]
    (tmp_path / "op.compute").write_bytes(pack_head(head) + pack_block(START_MS, 0.0, records))
    by_imu = replay.run(tmp_path, task=lambda imu, cam: b"x", **mode)
    assert len(by_imu.predictions) == 20
    renamed = {"a": "imu", "b": "cam"}
    assert len(replay.run(tmp_path, task=lambda a, b: b"x", inputs=renamed, **mode).predictions) == 20
    assert by_imu.runs[0].operator == "op"
    if mode:
        assert len(replay.run(tmp_path, task=lambda cam, imu: b"x", **mode).predictions) == 5


def test_a_model_without_flow_ids_is_one_all_the_same(tmp_path: Path) -> None:
    def model(broker: str, **options: Any) -> Model:
        return Model(lambda data: (True, data), broker, "src", "out", header_size=0, model_id="op", **options)

    outputs: list[Any] = []
    log = recorded(tmp_path, model, flow_id=None)
    replay.run(log, task=lambda data: (True, data), is_right=lambda out, _: outputs.append(out) or True)
    assert outputs == ITEMS


def test_batches_of_flows_are_right_or_wrong_flow_by_flow(tmp_path: Path) -> None:
    def task(flows: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return dict.fromkeys(flows, True), {flow: data + b"!" for flow, data in flows.items()}

    def model(broker: str, **options: Any) -> BatchModel:
        return BatchModel(task, broker, "src", "out", batch_max_num_msg=4, batch_timeout_ms=1, model_id="op", **options)

    def is_right(output: bytes, arguments: Mapping[str, bytes]) -> bool:
        assert output == arguments["data"] + b"!"
        return output != b"bad!"

    again = replay.run(recorded(tmp_path, model), task=task, is_right=is_right)
    assert again.predictions["is_right"].tolist() == [True, False, True, True, True, True]


# What is kept, and what is not simulated


def test_payloads_are_kept_for_a_task_alone(tmp_path: Path) -> None:
    recorded(tmp_path, batches, task=careful, on_error="skip")
    run = only_run(tmp_path, "op")
    without, kept = History.of(run), History.of(run, keeps_payloads=True)
    assert [each.payload for each in kept.arrivals.values()] == ITEMS
    assert [each.payload for each in without.arrivals.values()] == [None] * 6
    assert all(each.payloads is None for each in without.records if isinstance(each, Arrived))
    assert all(output.payload is None for output in without.made.values())
    again = replay.run(tmp_path, task=lambda items: b"x")
    assert not again.runs[0].has_payloads
    made = [record_of(each) for block in again.logged().blocks() for each in block.records]
    assert made == [without_payloads(each) for each in made]


def test_a_simulated_run_says_on_which_topic_examples_came(tmp_path: Path) -> None:
    log = recorded(tmp_path, compute)
    assert set(replay.run(log, task_ms=1).examples["topic"]) == {"src"}


def flows_log(path: Path, *more: Any) -> replay.ReplayLog:
    """The log of a model to which 3 flows and their signals came, and in which more happened."""
    plan = {"has_signal": True, "max_time_diff_ms": 1000, "max_waiting_flows": 2}
    head = Head("r", 1, "op", "Model", ["data", "signal"], ["out"], "flows", plan, "here", 1, 0, False)
    records: list[Any] = []
    for number in range(6):
        source = "data" if number < 3 else "signal"
        came = arrived(number, 10 * number, b"%016d" % number, START_MS + number % 3, source=source)
        records.append(came._replace(flow_ids=[b"%d" % (number % 3)]))
        at_ms = 10 * number
        records.append((DECIDED, number, START_MS + at_ms, float(at_ms), [], None, [], None, None))
    (path / "op.log").write_bytes(pack_head(head) + pack_block(START_MS, 0.0, [*records, *more]))
    return replay.load(path)


def test_what_is_held_up_of_one_role_holds_up_none_of_the_other(tmp_path: Path) -> None:
    again = replay.run(flows_log(tmp_path), max_waiting_flows=1, task_ms=1)
    made = [[int(bytes.fromhex(each)) for each in inputs] for inputs in again.predictions["input_ids"]]
    assert made == [[0, 3], [1, 4], [2, 5]]
    assert [round(ms - START_MS) for ms in again.predictions["started_ms"]] == [30, 40, 50]


def test_what_was_given_back_is_left_out_of_a_simulation(tmp_path: Path) -> None:
    asked = (ASKED, [b""], {b"1": 4}, START_MS + 15, 15.0, [1])
    decided = (DECIDED, 5, START_MS + 50, 50.0, [], None, [5], None, None)
    again = replay.run(flows_log(tmp_path, asked, decided), task_ms=1)
    assert fates(again) == [
        "used",
        "given back",
        "held",
        "used",
        "held",
        "given back",
    ]


def test_a_run_that_began_anew_is_not_simulated(tmp_path: Path) -> None:
    log = flows_log(tmp_path, (ANEW, 15.0))
    with pytest.raises(UsageError, match="others had the subscription of 'op'"):
        replay.run(log, max_waiting_flows=5)
    assert len(replay.run(log).examples) == 6
