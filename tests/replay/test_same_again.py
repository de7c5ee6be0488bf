"""A log that is run again with the same knobs gives the same again: record for record, and table for table."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest

from edgeserve import BatchModel, Compute, DataSource, Materialize, Model, replay
from edgeserve._broker import connections
from edgeserve._broker.base import Delivery
from edgeserve._core.asking import Ask
from edgeserve._log.head import Head
from edgeserve._log.reading import LoggedRun
from edgeserve._log.records import (
    ARRIVED,
    Anew,
    Arrived,
    Asked,
    Decided,
    Ended,
    Fetched,
    GivenUp,
    Ran,
    Record,
    ServedMany,
    Settled,
    Withdrawn,
)
from edgeserve._log.writer import pack_block, pack_head
from edgeserve.replay._history import record_of, without_payloads
from edgeserve.routing import FtpServer
from edgeserve.testing import memory_broker
from tests.manual_broker import CAPTURE_MS, ManualBroker
from tests.operators.conftest import Wire
from tests.replay.recorded import (
    RestlessClock,
    answer,
    answer_or_fail,
    arrived,
    for_each,
    join_both,
    join_or_fail,
    listed,
    listed_or_fail,
    only_run,
    poisonous,
    random_batches,
    random_compute,
    random_flows,
    random_single,
    served,
    some,
    step_through,
)

SEEDS = range(2)
TABLES = ("examples", "sent", "steps", "predictions", "uses", "drops")


def records_of(blocks: Any) -> list[Record]:
    return [record_of(each) for block in blocks for each in block.records]


def rounded(record: Record) -> Record:
    """Times to a nanosecond: some are logged in seconds."""
    if not isinstance(record, Ran):
        return record
    times = [round(each, 6) for each in (record.start_steady_ms, record.fetch_ms, record.finish_steady_ms)]
    return record._replace(start_steady_ms=times[0], fetch_ms=times[1], finish_steady_ms=times[2])


def assert_the_same_again(run: LoggedRun, *kinds: type[Any], **tools: Any) -> None:
    """Run it again, also with the task if it is given, and find that there were records of these kinds."""
    log = replay.load([file.path for file in run.files])
    recorded = records_of(run.blocks())
    for kind in kinds:
        assert any(isinstance(each, kind) for each in recorded), kind
    again = replay.run(log)
    assert records_of(again.logged().blocks()) == [without_payloads(each) for each in recorded]
    assert_tables_agree(again, log, exactly=True)
    if tools:
        again = replay.run(log, **tools)
        expected = [rounded(without_payloads(each)) for each in recorded if not isinstance(each, (Ended, Withdrawn))]
        assert [rounded(each) for each in records_of(again.logged().blocks())] == expected
        assert_tables_agree(again, log, exactly=False)


def assert_tables_agree(again: replay.ReplayLog, log: replay.ReplayLog, *, exactly: bool) -> None:
    for name in TABLES:
        pandas.testing.assert_frame_equal(
            getattr(again, name),
            getattr(log, name),
            check_exact=exactly,
            **({} if exactly else {"rtol": 0, "atol": 1e-3}),
        )


# Joins


JOINS = [
    {"max_time_diff_ms": 50},
    {"max_time_diff_ms": 100, "no_overlap": True, "min_interval_ms": 9},
    {"max_time_diff_ms": 90, "drop_if_older_than_ms": 60},
    {"max_time_diff_ms": 60, "join": "nearest", "max_wait_ms": 25},
    {"max_time_diff_ms": 60, "join": "nearest", "no_overlap": True, "max_waiting": 8, "max_wait_ms": 90},
]
JOIN_NAMES = ["latest", "latest, rate-limited", "latest, aged", "nearest", "nearest, bounded"]
ON_ERROR = pytest.mark.parametrize("on_error", ["raise", "skip", "retry"])
RETRIES: dict[str, Any] = {"max_retries": 1, "retry_interval_ms": 3}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", JOINS, ids=JOIN_NAMES)
def test_a_compute_with_its_task(tmp_path: Path, seed: int, options: dict[str, Any]) -> None:
    run = random_compute(tmp_path, seed, join_both, log_verbose=True, gate_in=some, **options)
    assert_the_same_again(run, Decided, Settled, Ran, Ended, task=join_both, gate_in=some)


@pytest.mark.parametrize("options", JOINS, ids=JOIN_NAMES)
@ON_ERROR
def test_a_compute_whose_task_raises(tmp_path: Path, on_error: str, options: dict[str, Any]) -> None:
    run = random_compute(tmp_path, 5, join_or_fail, on_error=on_error, **RETRIES, **options)
    assert any(each.error for each in records_of(run.blocks()) if isinstance(each, Ran))
    assert_the_same_again(run, *([] if on_error == "raise" else [GivenUp]))


@ON_ERROR
def test_a_compute_whose_gate_raises(tmp_path: Path, on_error: str) -> None:
    run = random_compute(tmp_path, 5, join_both, gate_in=poisonous, on_error=on_error, **RETRIES)
    assert_the_same_again(run, *([] if on_error == "raise" else [GivenUp]))


# What is served at once


def compute(task: Callable[..., Any], broker: str, **options: Any) -> Compute:
    return Compute(task, broker, "op", topic_in="in", topic_out="out", **options)


def sink(task: Callable[..., Any], broker: str, **options: Any) -> Materialize[Any]:
    gate = options.pop("gate_in", None)
    return Materialize(task, broker, gate, topic="in", sink_id="op", **options)


def model(task: Callable[..., Any], broker: str, **options: Any) -> Model:
    gate = options.pop("gate_in", None)
    return Model(
        lambda data: (int(task(data)) % 3 > 0, data),
        broker,
        "in",
        "out",
        None,
        "unsure",
        gate,
        model_id="op",
        **options,
    )


@pytest.mark.parametrize("make", [compute, sink, model])
@pytest.mark.parametrize("verbose", [False, True])
@ON_ERROR
def test_what_is_served_at_once(tmp_path: Path, make: Any, on_error: str, verbose: bool) -> None:
    options = {"on_error": on_error, "log_verbose": verbose, "gate_in": some, **RETRIES}
    run = random_single(tmp_path, 1, make, poisonous, **options)
    assert_the_same_again(run, Ran, Settled, Ended, *([] if on_error == "raise" else [GivenUp]))
    if verbose:
        return
    assert any(isinstance(each, ServedMany) for each in records_of(run.blocks()))


@pytest.mark.parametrize(
    ("make", "task"),
    [(compute, bytes), (sink, bytes), (model, lambda data: (int(data) % 3 > 0, data))],
    ids=["compute", "sink", "model"],
)
def test_what_is_served_at_once_with_its_task(tmp_path: Path, make: Any, task: Any) -> None:
    run = random_single(tmp_path, 1, make, bytes, gate_in=some, log_verbose=True)
    tools = {"task": (lambda source: source) if make is compute else task, "gate_in": some}
    assert_the_same_again(run, Ran, Settled, **tools)


@pytest.mark.parametrize("make", [compute, sink, model])
def test_what_is_served_at_a_bounded_rate_or_age(tmp_path: Path, make: Any) -> None:
    options: dict[str, Any] = {"min_interval_ms": 4} if make is not sink else {}
    if make is compute:
        options["drop_if_older_than_ms"] = 15

    def two_of_three(payload: bytes) -> bytes:  # most of what fails is dropped before
        if int(payload) % 3 == 0:
            raise ZeroDivisionError(f"{payload!r} can't be served")
        return payload

    assert_the_same_again(random_single(tmp_path, 3, make, two_of_three, on_error="skip", **options), GivenUp)


# Flows and batches


MODELS = [
    (Model, {}),
    (Model, {"min_interval_ms": 8, "max_waiting_flows": 10}),
    (BatchModel, {"batch_max_num_msg": 5, "batch_timeout_ms": 12}),
]
MODEL_NAMES = ["model", "model, bounded", "batches"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("make", "options"), MODELS, ids=MODEL_NAMES)
def test_a_model_with_its_task(tmp_path: Path, seed: int, make: Any, options: dict[str, Any]) -> None:
    run = random_flows(tmp_path, seed, make, log_verbose=True, **options)
    assert_the_same_again(run, Decided, Ran, task=answer if make is Model else for_each(answer))


@pytest.mark.parametrize(("make", "options"), MODELS, ids=MODEL_NAMES)
@ON_ERROR
def test_a_model_whose_task_raises(tmp_path: Path, make: Any, options: dict[str, Any], on_error: str) -> None:
    run = random_flows(tmp_path, 0, make, answer_or_fail, on_error=on_error, **RETRIES, **options)
    assert any(each.error for each in records_of(run.blocks()) if isinstance(each, Ran))
    assert_the_same_again(run, *([] if on_error == "raise" else [GivenUp]))


BATCHES: dict[str, Any] = {"batch_max_num_msg": 7, "batch_timeout_ms": 20, "max_time_diff_ms": 100}


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_with_their_task(tmp_path: Path, seed: int) -> None:
    run = random_batches(tmp_path, seed, log_verbose=True, **BATCHES)
    assert_the_same_again(run, Decided, Ran, task=listed)


@ON_ERROR
def test_batches_with_poison_in_them(tmp_path: Path, on_error: str) -> None:
    run = random_batches(tmp_path, 0, listed_or_fail, on_error=on_error, **RETRIES, **BATCHES)
    assert_the_same_again(run, *([] if on_error == "raise" else [GivenUp]))


def few(items: list[bytes]) -> bytes:
    """A task for which some batches are too large."""
    if len(items) > 3:
        raise ZeroDivisionError("too many")
    return listed(items)


def test_batches_that_fail_only_as_a_whole(tmp_path: Path) -> None:
    run = random_batches(tmp_path, 0, few, on_error="skip", **BATCHES)
    assert any(isinstance(each, Ran) and len(each.outputs) > 1 for each in records_of(run.blocks()))
    assert_the_same_again(run)


# Others that have a part in it


class Shared(ManualBroker):
    """A broker on which data and its signal can be with two replicas, in a slot for each flow."""

    must_ask = True

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[bytes] = []

    def slot(self, key: str | None) -> int:
        return int(key) if key else 0

    def asked(self) -> Sequence[bytes]:
        asked, self.questions = self.questions, []
        return asked

    def send_flow(self, topic: str, flow: bytes, at_ms: int) -> None:
        data = uuid.uuid4().bytes + b"source".ljust(16, b"\0") + flow.ljust(32, b"\0") + flow
        self.arrived.append(Delivery(flow.decode(), topic, "", data, CAPTURE_MS + at_ms, CAPTURE_MS, None, {}, 0))


def test_what_replicas_ask_of_each_other_and_give_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Shared()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    clock = RestlessClock(random.Random(0))
    dear = Model(
        answer, memory_broker(), "data", "out", "signal", "unsure", model_id="dear", log_path=tmp_path, clock=clock,
        idle_timeout_ms=900, log_verbose=True,
    )  # fmt: skip
    for number in range(12):
        broker.send_flow("data", b"%d" % number, number)
    broker.send_flow("signal", b"2", 2)
    step_through(dear, clock, random.Random(0))
    broker.questions = [Ask(b"5", CAPTURE_MS, 1).encode()]  # another one has the signal of that one
    step_through(dear, clock, random.Random(0))
    broker.send_flow("signal", b"40", 5)  # its data is with another one
    step_through(dear, clock, random.Random(0))
    broker.send_flow("data", b"40", 5)
    broker.send_flow("signal", b"40", 5)
    step_through(dear, clock, random.Random(0))
    while broker.unconfirmed:
        broker.confirm()
    dear.close()
    run = only_run(tmp_path, "dear")
    records = records_of(run.blocks())
    assert any(each.given_back for each in records if isinstance(each, Asked))
    assert any(each.given_back for each in records if isinstance(each, Decided))
    assert_the_same_again(run, Asked, task=answer)


def test_what_is_left_when_others_had_the_subscription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    operator = Compute(join_both, memory_broker(), no_overlap=True, log_path=tmp_path, log_verbose=True)
    broker.arrive("l1", "left", b"1", at_ms=1)
    assert next(operator) is None
    broker.tenure = 1
    broker.arrive("r2", "right", b"2", at_ms=3)
    assert next(operator) is None
    broker.arrive("l1", "left", b"1", at_ms=1)
    assert next(operator) == b"1&2"
    broker.confirm()
    operator.close()
    assert_the_same_again(only_run(tmp_path, "worker1"), Anew, task=join_both)


def test_payloads_that_were_fetched(broker: str, wire: Wire, tmp_path: Path) -> None:
    """A join that uses one again fetches it again."""

    def task(cam: bytes, imu: bytes) -> bytes:
        return cam[:1] + imu

    with FtpServer(tmp_path / "camera", port=0) as camera:
        with DataSource([bytes(40_000)], broker, "cam", topic=wire.src, store=camera.store("cam")) as source:
            next(source)
        with Compute(
            task, broker, topic_in=wire.src, topic_out=wire.dst, log_path=tmp_path / "logs", log_verbose=True,
            local_ftp_path=str(tmp_path / "here"),
        ) as operator:  # fmt: skip
            assert next(operator) is None
            with DataSource([b"1", b"2"], broker, "imu", topic=wire.src) as source:
                list(source)
            assert [next(operator), next(operator)] == [b"\x001", b"\x002"]
    run = only_run(tmp_path / "logs", "worker1")
    assert sum(isinstance(each, Fetched) for each in records_of(run.blocks())) == 2
    assert_the_same_again(run, task=task)


def test_a_wall_clock_that_was_set_meanwhile(tmp_path: Path) -> None:
    head = Head("r", 1, "op", "Compute", ["in"], ["out"], "compute", {"parameters": {"a": "a"}}, "here", 1, 0, False)
    data = pack_head(head)
    for number, set_ms in enumerate([0, 0, 90_000]):
        at_ms = 100 * number
        came = arrived(number, at_ms, b"%016d" % number, CAPTURE_MS + at_ms, publish_ms=CAPTURE_MS + at_ms)
        ran = served(number, at_ms / 1000, (at_ms + 5) / 1000, b"o%015d" % number, 9)
        data += pack_block(CAPTURE_MS + set_ms + at_ms, at_ms, [came, ran])
    (tmp_path / "op.compute").write_bytes(data)
    assert_the_same_again(only_run(tmp_path, "op"), ServedMany)


def test_no_prediction_is_lost_however_many_there_are(tmp_path: Path) -> None:
    count = 100_003
    head = Head("r", 1, "op", "Compute", ["in"], ["out"], "compute", {"parameters": {"a": "a"}}, "here", 1, 0, False)
    ids = b"".join([b"%016d" % number for number in range(count)])
    times = list(range(count))
    came = Arrived(ARRIVED, 0.0, "in", 0, 0, True, ids, times, "a", None, [50] * count, None, None, None)
    (tmp_path / "op.compute").write_bytes(pack_head(head) + pack_block(CAPTURE_MS, 0, [came]))
    assert len(replay.run(tmp_path, task_ms=1).predictions) == count
