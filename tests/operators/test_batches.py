"""Micro-batches of the operators, on both brokers: what is in one, what leaves of it, and what poison does to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgeserve import BatchCompute, BatchModel, DataSource, Fate, PayloadTooLarge, UsageError
from edgeserve._broker import connections
from edgeserve._on_error import ErrorPolicy
from edgeserve.message_format import GraphCodec
from edgeserve.testing import ManualClock, memory_broker
from tests.broker.workers import until
from tests.manual_broker import ManualBroker
from tests.operators.conftest import CAPTURE_MS, Wire
from tests.operators.flows import Flows

POLICIES = ["retry", "dead_letter", "skip"]


@pytest.fixture
def flows(broker: str, wire: Wire, topic: str) -> Iterator[Flows]:
    flows = Flows(broker, wire, topic)
    yield flows
    flows.close()


def joined(items: Sequence[bytes]) -> bytes:
    if b"poison" in items:
        raise ValueError("there is poison in it")
    return b" ".join(items)


def batch_compute(broker: str, wire: Wire, task: Callable[[list[Any]], Any] = joined, **options: Any) -> BatchCompute:
    return BatchCompute(task, broker, topic_in=wire.src, topic_out=wire.dst, **options)


def send(broker: str, wire: Wire, *payloads: bytes) -> None:
    """Send examples so that they arrive together."""
    stream = iter(payloads)
    with DataSource(stream, broker, "only", topic=wire.src, event_time=lambda _: CAPTURE_MS) as source:
        for _ in source:
            pass


# Batches of examples


def test_a_task_gets_a_list_and_gives_one_output(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, batch_max_num_msg=3, batch_timeout_ms=60_000) as operator:
        send(broker, wire, *[b"%d" % number for number in range(6)])
        assert [next(operator), next(operator)] == [b"0 1 2", b"3 4 5"]
        stats = operator.stats
    assert (stats.fates, stats.sent, stats.batches) == ({Fate.USED: 6}, 2, {3: 2})
    assert [sent.payload for sent in wire.sent_on(2)] == [b"0 1 2", b"3 4 5"]


def test_a_lone_example_waits_no_longer_than_the_time(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, batch_timeout_ms=50) as operator:
        send(broker, wire, b"alone")
        assert next(operator) == b"alone"
        assert operator.stats.batches == {1: 1}


def test_the_time_is_that_of_the_first_example(broker: str, wire: Wire) -> None:
    clock = ManualClock()
    with batch_compute(broker, wire, batch_timeout_ms=100, clock=clock) as operator, ThreadPoolExecutor() as pool:
        step = pool.submit(next, operator)
        send(broker, wire, b"1")
        until(lambda: operator.stats.received == 1, "the first came")
        clock.advance(99)
        send(broker, wire, b"2")
        until(lambda: operator.stats.received == 2, "the second came")
        assert not step.done()
        clock.advance(1)
        assert step.result(20) == b"1 2"


def test_an_output_was_captured_when_the_newest_of_its_batch_was(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, batch_max_num_msg=3, batch_timeout_ms=60_000) as operator:
        for at_ms in (5, 9, 7):
            wire.send("only", b"x", at_ms)
        next(operator)
    assert wire.sent_on(1)[0].capture_ms == 9


def test_examples_captured_too_far_apart_are_in_batches_of_their_own(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, max_time_diff_ms=10, batch_timeout_ms=50) as operator:
        for at_ms in (0, 10, 11):
            wire.send("only", b"%d" % at_ms, at_ms)
        assert [next(operator), next(operator)] == [b"0 10", b"11"]


def test_a_gate_by_source_stands_before_the_batch(broker: str, wire: Wire) -> None:
    gates: Mapping[str, Any] = {"a": bytes.upper, "b": lambda payload: None}
    with batch_compute(broker, wire, gate_in=gates, batch_timeout_ms=50) as operator:
        for source, payload in (("a", b"x"), ("b", b"y"), ("c", b"z")):
            wire.send(source, payload)
        until(lambda: next(operator) is not None, "the rest is served")
        assert operator.stats.fates == {Fate.USED: 2, Fate.GATED: 1}
    assert wire.sent_on(1)[0].payload == b"X z"


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("poison", [{3}, {0}, {7}, {0, 3, 4}])
def test_poison_does_not_take_its_batch_with_it(broker: str, wire: Wire, on_error: Any, poison: set[int]) -> None:
    payloads = [b"poison" if number in poison else b"%d" % number for number in range(8)]
    runs: list[Sequence[bytes]] = []

    def task(items: Sequence[bytes]) -> bytes:
        runs.append(list(items))
        return joined(items)

    options: dict[str, Any] = {"on_error": on_error, "max_retries": 1, "retry_interval_ms": 1}
    with batch_compute(broker, wire, task, batch_max_num_msg=8, batch_timeout_ms=60_000, **options) as operator:
        send(broker, wire, *payloads)
        rest = [payload for payload in payloads if payload != b"poison"]
        assert next(operator) == b" ".join(rest)
        stats = operator.stats
    assert runs[-1] == rest, "the rest is run together"
    assert stats.fates == {Fate.USED: len(rest), Fate.FAILED: len(poison)}
    assert stats.dead_letters == (0 if on_error == "skip" else len(poison))
    assert stats.sent == 1
    with batch_compute(broker, wire, idle_timeout_ms=300) as successor:
        assert list(successor) == [], "all of it is acknowledged"


def test_a_batch_of_nothing_but_poison_sends_nothing(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, batch_max_num_msg=3, batch_timeout_ms=60_000, on_error="skip") as operator:
        send(broker, wire, b"poison", b"poison", b"poison", b"1", b"2", b"3")
        assert [next(operator), next(operator)] == [None, b"1 2 3"]
        assert operator.stats.fates == {Fate.FAILED: 3, Fate.USED: 3}


def test_what_fails_only_together_is_served_in_halves(broker: str, wire: Wire) -> None:
    def small(items: Sequence[bytes]) -> bytes:
        if len(items) > 2:
            raise MemoryError("too large")
        return b" ".join(items)

    with batch_compute(
        broker, wire, small, batch_max_num_msg=4, batch_timeout_ms=60_000, on_error="dead_letter"
    ) as operator:
        send(broker, wire, b"0", b"1", b"2", b"3")
        next(operator)
        assert (operator.stats.fates, operator.stats.sent) == ({Fate.USED: 4}, 2)
    assert [sent.payload for sent in wire.sent_on(2)] == [b"0 1", b"2 3"]


def test_a_transient_error_is_gone_when_the_batch_is_tried_again(broker: str, wire: Wire) -> None:
    runs = []

    def works_at_last(items: Sequence[bytes]) -> bytes:
        runs.append(len(items))
        if len(runs) < 3:
            raise ConnectionError("not yet")
        return b" ".join(items)

    with batch_compute(
        broker, wire, works_at_last, batch_max_num_msg=2, batch_timeout_ms=60_000, on_error="retry", retry_interval_ms=1
    ) as operator:
        send(broker, wire, b"0", b"1")
        assert next(operator) == b"0 1"
    assert runs == [2, 2, 2]


def test_by_default_the_step_raises_and_the_next_goes_on_with_the_next_batch(broker: str, wire: Wire) -> None:
    with batch_compute(broker, wire, batch_max_num_msg=2, batch_timeout_ms=60_000) as operator:
        send(broker, wire, b"0", b"poison", b"1", b"2")
        with pytest.raises(ValueError, match="poison"):
            next(operator)
        assert next(operator) == b"1 2"
        assert operator.stats.held == 2
    with (
        batch_compute(broker, wire, batch_max_num_msg=2, batch_timeout_ms=60_000) as successor,
        pytest.raises(ValueError, match="poison"),
    ):
        next(successor)


# Batches of flows


def batch_of(*wanted: str) -> dict[bytes, bytes]:
    return {flow.encode(): b"said " + flow.encode() for flow in wanted}


def answer_all(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
    if any(b"poison" in data for data in batch.values()):
        raise ValueError("there is poison in it")
    return dict.fromkeys(batch, True), {flow: b"said " + data for flow, data in batch.items()}


def test_a_task_gets_flows_and_says_of_each_whether_it_is_satisfied(flows: Flows) -> None:
    seen = []

    def task(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, Any]]:
        seen.append(dict(batch))
        return {flow: flow != b"b" for flow in batch}, {flow: None if flow == b"c" else b"!" for flow in batch}

    with BatchModel(
        task, flows.broker, **flows.topics(signal=False), batch_max_num_msg=4, batch_timeout_ms=60_000
    ) as model:
        flows.send_all("abcd")
        assert next(model) == {b"a": b"!", b"b": b"!", b"d": b"!"}
        assert (model.stats.fates, model.stats.sent, model.stats.escalated) == ({Fate.USED: 4}, 3, 1)
        assert model.stats.batches == {4: 1}
    assert seen == [{b"a": b"a", b"b": b"b", b"c": b"c", b"d": b"d"}]
    assert [answer.flow for answer in flows.answers(2)] == [b"a", b"d"]
    assert [answer.flow for answer in flows.answers(1, flows.next)] == [b"b"]


def test_with_signals_a_batch_has_the_flows_that_were_asked_about_with_both(flows: Flows) -> None:
    seen = []

    def task(batch: Mapping[bytes, Any]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        seen.append(dict(batch))
        return dict.fromkeys(batch, True), {flow: data for flow, (data, _) in batch.items()}

    with BatchModel(
        task, flows.broker, **flows.topics(further=False), batch_max_num_msg=2, batch_timeout_ms=60_000
    ) as model:
        flows.send_all("abcd")
        flows.ask("d", b"about d")
        flows.ask("b", b"about b")
        assert next(model) == {b"d": b"d", b"b": b"b"}
    ((flow, pair), *_) = seen[0].items()
    assert pair == (flow, b"about " + flow)


def test_a_flow_that_comes_twice_is_in_two_batches(flows: Flows) -> None:
    with BatchModel(answer_all, flows.broker, **flows.topics(signal=False), batch_timeout_ms=100) as model:
        flows.send_data("a", b"1")
        flows.send_data("b", b"2")
        flows.send_data("a", b"3")
        assert next(model) == {b"a": b"said 1", b"b": b"said 2"}
        assert next(model) == {b"a": b"said 3"}


@pytest.mark.parametrize("on_error", POLICIES)
def test_a_poisonous_flow_does_not_take_its_batch_with_it(flows: Flows, on_error: Any) -> None:
    names = [f"{number}" for number in range(8)]
    with BatchModel(
        answer_all,
        flows.broker,
        **flows.topics(signal=False),
        batch_max_num_msg=8,
        batch_timeout_ms=60_000,
        on_error=on_error,
        max_retries=1,
        retry_interval_ms=1,
    ) as model:
        for name in names:
            flows.send_data(name, b"poison" if name == "5" else name.encode())
        rest = [name for name in names if name != "5"]
        assert next(model) == batch_of(*rest)
        stats = model.stats
    assert stats.fates == {Fate.USED: 7, Fate.FAILED: 1}
    assert stats.dead_letters == (0 if on_error == "skip" else 1)
    assert {answer.flow.decode() for answer in flows.answers(7)} == set(rest)


def test_a_gate_that_fails_on_one_flow_gives_up_that_flow_alone(flows: Flows) -> None:
    def gate(output: bytes) -> bytes:
        if output == b"said b":
            raise ValueError("not this one")
        return output

    with BatchModel(
        answer_all,
        flows.broker,
        **flows.topics(signal=False),
        gate_out_destination=gate,
        batch_max_num_msg=3,
        batch_timeout_ms=60_000,
        on_error="skip",
    ) as model:
        flows.send_all("abc")
        assert next(model) == batch_of("a", "c")


def test_under_raise_the_step_raises_and_names_the_flows(flows: Flows, caplog: pytest.LogCaptureFixture) -> None:
    with BatchModel(
        answer_all, flows.broker, **flows.topics(signal=False), batch_max_num_msg=2, batch_timeout_ms=60_000
    ) as model:
        flows.send_data("first", b"poison")
        flows.send_data(b"\xff\x01", b"x")
        with caplog.at_level(logging.ERROR, "edgeserve"), pytest.raises(ValueError, match="poison") as raised:
            next(model)
        assert "in a batch of 2 of operator 'model1': flow 'first', flow ff01" in caplog.text
        if hasattr(raised.value, "__notes__"):
            assert "flow 'first', flow ff01" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("result", "match"),
    [
        ((True, b"x"), "expected two dicts"),
        (({b"a": True}, {b"a": b"x"}), "is_satisfied has nothing for the flows"),
        (({b"a": True, b"b": True}, {b"a": b"x"}), "output has nothing for the flows"),
        (({b"a": True, b"b": True}, {b"a": b"x", b"b": b"x", b"c": b"x"}), "not asked about"),
        (({b"a": True, b"b": "yes"}, {b"a": b"x", b"b": b"x"}), "expected True or False"),
    ],
)
def test_what_a_task_says_has_to_be_about_the_flows_it_was_asked_about(flows: Flows, result: Any, match: str) -> None:
    with BatchModel(
        lambda batch: result, flows.broker, **flows.topics(signal=False), batch_max_num_msg=2, batch_timeout_ms=60_000
    ) as model:
        flows.send_all("ab")
        with pytest.raises(UsageError, match=match):
            next(model)


def test_the_outputs_of_a_batch_leave_together_and_each_confirms_its_own_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    manual = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: manual)
    for number, flow in enumerate("abcd"):
        data = GraphCodec(header_size=32).encode(bytes([number] * 16), "only", flow.encode(), flow.encode())
        manual.arrive(flow, "only", data=data, edgeserve_header="32")

    def task(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return {flow: flow != b"b" for flow in batch}, dict(batch)

    model = BatchModel(
        task, memory_broker(), "src", "out", topic_out_signal="next", batch_max_num_msg=4, batch_timeout_ms=60_000
    )
    next(model)
    assert sorted(len(message.payload) > 200 for message, _ in manual.unconfirmed) == [False, True], "a pack and one"
    assert manual.acknowledged == []
    manual.confirm()
    manual.confirm()
    assert sorted(manual.acknowledged) == ["a", "b", "c", "d"]
    model.close()


def test_an_output_that_is_too_large_does_not_hold_up_the_others_of_its_batch(flows: Flows) -> None:
    def task(batch: Mapping[bytes, bytes]) -> tuple[dict[bytes, bool], dict[bytes, bytes]]:
        return dict.fromkeys(batch, True), {flow: bytes(6_000_000) if flow == b"c" else b"!" for flow in batch}

    options: dict[str, Any] = {"batch_max_num_msg": 3, "batch_timeout_ms": 60_000}
    with BatchModel(task, flows.broker, **flows.topics(signal=False), **options, on_error="dead_letter") as model:
        flows.send_all("abc")
        assert next(model) == {b"a": b"!", b"b": b"!"}
        assert {answer.flow for answer in flows.answers(2)} == {b"a", b"b"}
        flows.send_all("cde")
        model._sending._errors = ErrorPolicy()
        with pytest.raises(PayloadTooLarge):
            next(model)
        assert {answer.flow for answer in flows.answers(2)} == {b"d", b"e"}
        assert model.stats.fates == {Fate.USED: 4, Fate.FAILED: 1}


@pytest.mark.parametrize("name", ["batch_max_num_msg", "batch_max_bytes", "max_waiting"])
def test_a_wrong_bound_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        BatchCompute(joined, "local://:memory:wrong", **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_timeout_ms"):
        BatchModel(answer_all, "local://:memory:wrong", "d", "o", batch_timeout_ms=-1)
