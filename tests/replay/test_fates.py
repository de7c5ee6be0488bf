"""Every example that an operator received has the fate in its log that the operator counted."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest

from edgeserve import BatchCompute, BatchModel, Compute, DataSource, Materialize, Model, replay
from edgeserve._broker import connections
from edgeserve._core.packs import pack
from edgeserve._operator import Operator
from edgeserve.errors import DeliveryError, PayloadTooLarge
from edgeserve.replay._columns import Columns
from edgeserve.testing import memory_broker
from tests.manual_broker import ManualBroker
from tests.operators.conftest import CAPTURE_MS, CODEC, Wire
from tests.operators.flows import Flows
from tests.replay.recorded import RestlessClock, only_run, random_batches, random_compute, random_flows


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> ManualBroker:
    broker = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    return broker


def counted(operator: Operator[Any]) -> Counter[str]:
    """What an operator counted, what it holds included."""
    stats = operator.stats
    return Counter(
        {fate.value: count for fate, count in stats.fates.items()} | ({"held": stats.held} if stats.held else {})
    )


def logged(path: Path, name: str) -> Counter[str]:
    """The same by its log."""
    log = replay.load(path)
    examples = log.examples[log.examples["operator"] == name]
    fates = Counter(examples["fate"].fillna("held").tolist())
    dropped = Counter(log.drops[log.drops["operator"] == name]["fate"].tolist())
    assert dropped == {fate: count for fate, count in fates.items() if fate not in ("used", "held", "given back")}
    assert ((examples["uses"] > 0) == (examples["fate"] == "used").fillna(False)).all()
    assert examples["settled_ms"].isna().equals(examples["fate"].isna())
    return fates


def ended(path: Path, name: str) -> Counter[str]:
    """The same by the last record of its log."""
    end = Columns(only_run(path, name)).ended
    assert end is not None
    return Counter(dict(end.fates) | ({"held": end.held} if end.held else {}))


def assert_agreed(operator: Operator[Any], path: Path, expected: Mapping[str, int] | None = None) -> None:
    operator.close()
    assert logged(path, operator.name) == ended(path, operator.name) == counted(operator)
    if expected is not None:
        assert counted(operator) == expected


class PoisonError(ValueError):
    """What tasks and gates raise."""


def steps(operator: Operator[Any]) -> None:
    """Make all steps there are, those that raise too."""
    while True:
        try:
            next(operator)
        except StopIteration:
            return
        except PoisonError:
            continue


def poisonous(only: bytes) -> bytes:
    if only == b"poison":
        raise PoisonError
    return only


ON_ERROR = pytest.mark.parametrize("on_error", ["raise", "retry", "dead_letter", "skip"])


@ON_ERROR
@pytest.mark.parametrize("options", [{}, {"min_interval_ms": 0.001}], ids=str)
def test_of_one_source(broker: str, wire: Wire, logs: Path, on_error: Any, options: dict[str, Any]) -> None:
    def gate(payload: bytes) -> bytes | None:
        if payload == b"bad":
            raise PoisonError
        return None if payload == b"no" else payload

    compute = Compute(
        poisonous, broker, gate_in=gate, topic_in=wire.src, topic_out=wire.dst, log_path=logs, on_error=on_error,
        max_retries=1, retry_interval_ms=0, idle_timeout_ms=300, **options,
    )  # fmt: skip
    for payload in (b"1", b"no", b"poison", b"2", b"bad", b"no"):
        wire.send("only", payload)
    wire.send("other", b"3")
    wire.send_raw(b"too short", CAPTURE_MS)
    entries = [CODEC.encode(uuid.uuid4().bytes, "only", payload) for payload in (b"4", b"no", b"poison", b"5")]
    wire.send_raw(pack([(entry, CAPTURE_MS) for entry in [*entries, b"short"]]), CAPTURE_MS, **{"edgeserve-pack": "1"})
    steps(compute)
    lost = {"held": 3} if on_error == "raise" else {"failed": 3}
    expected = {"gated": 3, "unknown source": 1, "malformed": 2, "used": 4, **lost}
    assert_agreed(compute, logs, None if "min_interval_ms" in options else expected)


@ON_ERROR
def test_of_a_join(broker: str, wire: Wire, logs: Path, on_error: Any) -> None:
    def both(left: bytes, right: bytes) -> bytes | None:
        poisonous(left)
        return None if right == b"none" else left + right

    compute = Compute(
        both, broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs, on_error=on_error, max_retries=1,
        retry_interval_ms=0, idle_timeout_ms=300, max_time_diff_ms=100,
    )  # fmt: skip
    copy = uuid.uuid4().bytes
    for source, payload, at_ms in (
        ("left", b"1", 0), ("left", b"2", 10), ("left", b"3", 5), ("right", b"4", 20), ("right", b"none", 30),
        ("left", b"poison", 40), ("left", b"6", 50), ("right", b"7", 400), ("right", b"9", 420),
        ("left", b"8", 700),
    ):  # fmt: skip
        wire.send(source, payload, at_ms)
    wire.send("left", b"a", 730, example_id=copy)
    wire.send("left", b"a", 730, example_id=copy)
    steps(compute)
    assert_agreed(compute, logs)
    assert set(counted(compute)) >= {"used", "out of order", "superseded", "expired", "duplicate"}


def test_of_a_join_of_nearest_that_has_little_room(broker: str, wire: Wire, logs: Path) -> None:
    clock = RestlessClock(random.Random(1))
    compute = Compute(
        lambda left, right: left + right, broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs, join="nearest",
        max_waiting=3, max_wait_ms=1000, max_time_diff_ms=20, idle_timeout_ms=400, clock=clock,
        drop_if_older_than_ms=50_000, no_overlap=True,
    )  # fmt: skip
    wire.send("left", b"l", -90_000)
    for at_ms in range(0, 60, 10):
        wire.send("left", b"l", at_ms)
    for source, at_ms in (("right", 31), ("right", 41), ("right", 52), ("right", 90), ("left", 400)):
        wire.send(source, b"r", at_ms)
    steps(compute)
    assert_agreed(compute, logs)
    assert set(counted(compute)) >= {"used", "evicted", "too old", "expired"}


def test_of_a_pack_of_which_only_a_part_was_served_when_it_was_closed(broker: str, wire: Wire, logs: Path) -> None:
    compute = Compute(poisonous, broker, topic_in=wire.src, topic_out=wire.dst, log_path=logs)
    twice = CODEC.encode(uuid.uuid4().bytes, "only", b"twice")
    entries = [CODEC.encode(uuid.uuid4().bytes, "only", b"%d" % number) for number in range(4)]
    entries = [*entries[:2], twice, twice, b"short", *entries[2:]]
    wire.send_raw(pack([(entry, CAPTURE_MS) for entry in entries]), CAPTURE_MS, **{"edgeserve-pack": "1"})
    assert next(compute) == b"0"
    assert_agreed(compute, logs, {"used": 1, "duplicate": 1, "malformed": 1, "held": 4})


def test_of_a_sink_that_serves_each_once(
    broker: str, wire: Wire, logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path))
    sink = Materialize(
        poisonous, broker, topic=wire.src, deduplicate=True, log_path=logs, idle_timeout_ms=300, on_error="skip"
    )
    twice = uuid.uuid4().bytes
    for payload, example_id in ((b"1", twice), (b"2", None), (b"poison", None), (b"1", twice)):
        wire.send("any", payload, example_id=example_id)
        next(sink)
    assert_agreed(sink, logs, {"used": 2, "failed": 1, "duplicate": 1})


def test_of_a_source(broker: str, wire: Wire, logs: Path) -> None:
    with DataSource([b"1", None, b"no", b"2"], broker, "src", lambda item: item if item != b"no" else None,
                    wire.src, log_path=logs) as source:  # fmt: skip
        for _ in source:
            pass
    columns = Columns(only_run(logs, "src"))
    assert (len(columns.sent.number), [each.fate for each in columns.unsent]) == (2, ["gated", "gated"])
    assert ended(logs, "src") == counted(source) == {"used": 2, "gated": 2}


def test_of_what_a_source_drops_to_make_room(manual: ManualBroker, logs: Path) -> None:
    options: dict[str, Any] = {"overflow": "drop_oldest", "max_unconfirmed": 10, "log_path": logs}
    source = DataSource((b"%d" % number for number in range(20)), memory_broker(), "s", **options)
    for _ in source:
        pass
    manual.confirm(DeliveryError("refused", "test://"))
    while manual.unconfirmed:
        manual.confirm()
    with pytest.raises(DeliveryError, match="refused"):
        source.close()
    assert ended(logs, "s") == counted(source) == {"used": 9, "evicted": 10, "failed": 1}
    log = replay.load(logs)
    assert len(log.sent) == 9
    assert Counter(log.drops["fate"]) == {"evicted": 10, "failed": 1}
    assert log.drops["age_ms"].notna().all()
    assert [each for each in log.drops["error"] if pandas.notna(each)] == ["DeliveryError: refused"]
    assert set(log.drops["example_id"]).isdisjoint(log.sent["example_id"])


def test_of_what_is_refused(manual: ManualBroker, logs: Path) -> None:
    source = DataSource([b"1", b"2"], memory_broker(), "s", log_path=logs)
    next(source)
    next(source)
    manual.confirm()
    manual.confirm(DeliveryError("refused", "test://"))
    with pytest.raises(DeliveryError, match="refused"):
        next(source)
    source.close()
    log = replay.load(logs)
    assert (len(log.sent), log.drops["fate"].tolist()) == (1, ["failed"])
    assert log.drops["error"].tolist() == ["DeliveryError: refused"]


def test_of_what_has_not_left_when_the_source_is_closed(manual: ManualBroker, logs: Path) -> None:
    source = DataSource([b"%d" % n for n in range(9)], memory_broker(), "s", log_path=logs, close_timeout_ms=50)
    for _ in source:
        pass
    left = source.stats.unconfirmed - len(manual.unconfirmed)
    assert left > 0, "some wait for those that are under way"
    with pytest.raises(DeliveryError, match="had not left within 50 ms"):
        source.close()
    errors = [each for each in replay.load(logs).drops["error"] if "had not left within 50 ms" in each]
    assert len(errors) == left


def test_of_what_is_too_large_to_be_sent(broker: str, wire: Wire, logs: Path) -> None:
    compute = Compute(
        lambda only: bytes(6_000_000) if only == b"large" else only, broker, topic_in=wire.src, topic_out=wire.dst,
        log_path=logs, on_error="skip",
    )  # fmt: skip
    for payload in (b"1", b"large", b"2"):
        wire.send("only", payload)
    assert [next(compute) for _ in range(3)] == [b"1", None, b"2"]
    assert_agreed(compute, logs, {"used": 2, "failed": 1})


def large(left: bytes, right: bytes) -> bytes:
    return bytes(6_000_000) if right == b"large" else left + right


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_of_what_met_something_that_was_too_large_to_be_sent(
    broker: str, wire: Wire, logs: Path, on_error: Any
) -> None:
    compute = Compute(
        large, broker, topic_in=wire.src, topic_out=wire.dst, join="latest", log_path=logs, on_error=on_error,
        idle_timeout_ms=300,
    )  # fmt: skip
    for at_ms, (source, payload) in enumerate([("left", b"l"), ("right", b"1"), ("right", b"large"), ("right", b"2")]):
        wire.send(source, payload, at_ms=at_ms)
    made = []
    while not made or made[-1] != b"l2":
        try:
            made.append(next(compute))
        except PayloadTooLarge:
            made.append(b"too large")
    assert [each for each in made if each is not None] == [b"l1", *[b"too large"] * (on_error == "raise"), b"l2"]
    assert_agreed(compute, logs, {"used": 3, "failed" if on_error == "skip" else "held": 1})
    log = replay.load(logs)
    assert len(log.predictions) == 2
    assert log.examples.set_index("source").loc["left", "uses"] == 2


# Flows and batches


@pytest.mark.parametrize("make", [Model, BatchModel])
@ON_ERROR
def test_of_a_model(flows: Flows, logs: Path, make: Any, on_error: Any) -> None:
    def one(data: bytes, signal: bytes) -> tuple[bool, bytes]:
        return data != b"unsure", poisonous(data)

    def many(batch: Mapping[bytes, tuple[bytes, bytes]]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        answers = {flow: one(*both) for flow, both in batch.items()}
        return {f: answer[0] for f, answer in answers.items()}, {f: answer[1] for f, answer in answers.items()}

    options: dict[str, Any] = {"batch_max_num_msg": 4, "batch_timeout_ms": 50} if make is BatchModel else {}
    model = make(
        one if make is Model else many, flows.broker, **flows.topics(), model_id="dear", log_path=logs,
        max_time_diff_ms=100, on_error=on_error, max_retries=1, retry_interval_ms=0, idle_timeout_ms=250, **options,
    )  # fmt: skip
    for at_ms, flow in enumerate("abcdef"):
        flows.send_data(flow, {"b": b"poison", "c": b"unsure"}.get(flow, b"data"), at_ms)
    for at_ms, flow in enumerate("abcd"):
        flows.ask(flow, at_ms=at_ms)
    steps(model)
    flows.send_data("z", at_ms=900)
    flows.ask("z", at_ms=900)  # what was not asked about yet will not be
    steps(model)
    assert_agreed(model, logs)
    assert counted(model)["not asked"] == 2
    made = replay.load(logs).predictions
    is_lost = on_error == "raise" and make is BatchModel
    expected = {"z": True} | ({} if is_lost else {"a": True, "c": False, "d": True})
    assert dict(zip(made["flow_id"], made["is_satisfied"], strict=True)) == expected


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("has_next", [False, True])
@pytest.mark.parametrize("make", [Model, BatchModel])
def test_what_a_model_that_is_asked_by_none_was_not_satisfied_with_is_told(
    flows: Flows, logs: Path, make: Any, has_next: bool, verbose: bool
) -> None:
    def many(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return {flow: data != b"unsure" for flow, data in batch.items()}, dict(batch)

    model = make(
        (lambda data: (data != b"unsure", data)) if make is Model else many,
        flows.broker,
        **flows.topics(signal=False, further=has_next),
        model_id="cheap",
        send_unsatisfied=not has_next,
        log_path=logs,
        log_verbose=verbose,
        header_size=32,
        idle_timeout_ms=300,
    )
    for flow, payload in (("a", b"1"), ("b", b"unsure"), ("c", b"3")):
        flows.send_data(flow, payload)
    steps(model)
    assert_agreed(model, logs, {"used": 3})
    made = replay.load(logs).predictions
    assert dict(zip(made["flow_id"], made["is_satisfied"], strict=True)) == {"a": True, "b": False, "c": True}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_of_a_batch_with_poison_in_it(broker: str, wire: Wire, logs: Path, on_error: Any) -> None:
    def task(items: list[bytes]) -> bytes:
        return b",".join([poisonous(item) for item in items])

    batches = BatchCompute(
        task, broker, "batches", topic_in=wire.src, topic_out=wire.dst, batch_max_num_msg=4, batch_timeout_ms=60_000,
        log_path=logs, on_error=on_error, idle_timeout_ms=300,
    )  # fmt: skip
    ids = [wire.send("any", payload).hex() for payload in (b"1", b"poison", b"2", b"3", b"4", b"5", b"6", b"7")]
    steps(batches)
    lost = {"held": 4, "used": 4} if on_error == "raise" else {"failed": 1, "used": 7}
    assert_agreed(batches, logs, lost)
    made = [list(each) for each in replay.load(logs).predictions["input_ids"]]
    assert made == [*([] if on_error == "raise" else [[ids[0], *ids[2:4]]]), ids[4:]]


def test_of_what_is_left_when_others_had_the_subscription(logs: Path, manual: ManualBroker) -> None:
    compute = Compute(lambda left, right: left + right, memory_broker(), no_overlap=True, log_path=logs)
    manual.arrive("l1", "left", b"l", at_ms=1)
    assert next(compute) is None
    manual.tenure = 1
    manual.arrive("r2", "right", b"r", at_ms=3)
    assert next(compute) is None
    manual.arrive("l1", "left", b"l", at_ms=1)
    assert next(compute) == b"lr"
    manual.confirm()
    assert_agreed(compute, logs, {"superseded": 1, "used": 2})


@pytest.mark.parametrize("seed", range(10, 11))
@pytest.mark.parametrize(
    ("record", "name", "options"),
    [
        (random_compute, "joined", {"max_time_diff_ms": 50}),
        (random_compute, "joined", {"max_time_diff_ms": 90, "drop_if_older_than_ms": 60, "on_error": "skip"}),
        (random_compute, "joined", {"join": "nearest", "max_time_diff_ms": 60, "max_waiting": 4, "max_wait_ms": 25}),
        (random_flows, "dear", {"max_waiting_flows": 10}),
        (random_flows, "dear", {"make": BatchModel, "batch_max_num_msg": 5, "batch_timeout_ms": 12}),
        (random_batches, "batches", {"batch_max_num_msg": 7, "batch_timeout_ms": 20}),
    ],
    ids=["latest", "latest, aged", "nearest", "flows", "batches of flows", "batches"],
)
def test_of_random_runs(logs: Path, record: Callable[..., Any], name: str, options: dict[str, Any], seed: int) -> None:
    record(logs, seed, **options)
    assert logged(logs, name) == ended(logs, name)
    assert ended(logs, name)["used"] > 3
