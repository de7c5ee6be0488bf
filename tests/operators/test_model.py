"""One model of a cascade, on both brokers: what it serves, what it answers, and what it asks the next one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeserve import DataSource, Fate, Materialize, Model, UsageError
from edgeserve.routing import FtpServer
from edgeserve.testing import ManualClock
from tests.broker.workers import until
from tests.operators.conftest import CAPTURE_MS, CODEC, Wire
from tests.operators.flows import Flows
from tests.operators.test_on_error import Letter


@pytest.fixture
def flows(broker: str, wire: Wire, topic: str) -> Iterator[Flows]:
    flows = Flows(broker, wire, topic)
    yield flows
    flows.close()


def sure(data: bytes) -> tuple[bool, bytes]:
    return b"unsure" not in data, b"said " + data


def both(data: bytes, signal: bytes) -> tuple[bool, bytes]:
    return True, data


def steps(model: Model, count: int) -> list[bytes | None]:
    return [next(model) for _ in range(count)]


# What is served


def test_without_signals_each_example_of_data_is_served(flows: Flows) -> None:
    with Model(sure, flows.broker, **flows.topics(signal=False)) as model:
        flows.send_data("a", b"1")
        flows.send_data("a", b"2 unsure")
        assert steps(model, 2) == [b"said 1", b"said 2 unsure"]
        assert (model.stats.sent, model.stats.escalated, model.stats.fates) == (2, 1, {Fate.USED: 2})
    (answer,) = flows.answers(1)
    assert (answer.flow, answer.payload, answer.source) == (b"a", b"said 1", "model1")
    (question,) = flows.answers(1, flows.next)
    assert (question.flow, question.payload) == (b"a", b"said 2 unsure")


@pytest.mark.parametrize("first", ["data", "signal"])
def test_only_what_was_asked_about_is_served_in_whichever_order_they_come(flows: Flows, first: str) -> None:
    seen = []

    def task(data: bytes, signal: bytes) -> tuple[bool, bytes]:
        seen.append((data, signal))
        return True, data

    with Model(task, flows.broker, **flows.topics(further=False)) as model:
        if first == "data":
            flows.send_data("a", b"of a")
            flows.send_data("b", b"of b")
        else:
            flows.ask("a", b"about a")
        until(lambda: next(model) is None and model.stats.held == (2 if first == "data" else 1), "it came")
        if first == "data":
            flows.ask("a", b"about a")
        else:
            flows.send_data("a", b"of a")
        until(lambda: next(model) == b"of a", "it is served")
        assert seen == [(b"of a", b"about a")]
        assert model.stats.fates == {Fate.USED: 2}
    assert [answer.flow for answer in flows.answers(1)] == [b"a"]


def test_an_answer_has_the_capture_time_of_its_data_and_an_id_that_a_second_run_would_give_it(flows: Flows) -> None:
    answers = []
    for _ in range(2):
        with Model(lambda data, signal: (True, data), flows.broker, **flows.topics(further=False)) as model:
            if not answers:
                data_id = flows.send_data("a", at_ms=5)
                signal_id = flows.ask("a", at_ms=9)
            else:
                send_again(flows, data_id, signal_id)
            until(lambda: next(model) is not None, "it is served")
        answers += flows.answers(1)
    assert [answer.capture_ms for answer in answers] == [5, 5]
    assert answers[0].id == answers[1].id


def send_again(flows: Flows, data_id: bytes, signal_id: bytes) -> None:
    marks = {"edgeserve-header": "32"}
    for topic, example_id, at_ms in ((flows.data, data_id, 5), (flows.asks, signal_id, 9)):
        data = example_id + b"only".ljust(16, b"\0") + b"a".ljust(32, b"\0") + b"x"
        flows._wire.send_raw(data, CAPTURE_MS + at_ms, topic, **marks)


def test_a_flow_waits_through_a_restart(flows: Flows) -> None:
    arguments: dict[str, Any] = {"topic_in_signal": flows.asks}
    with Model(lambda data, signal: (True, data), flows.broker, flows.data, flows.out, **arguments) as model:
        flows.send_data("a", b"of a")
        until(lambda: next(model) is None and model.stats.held == 1, "it came")
    with Model(lambda data, signal: (True, data), flows.broker, flows.data, flows.out, **arguments) as model:
        flows.ask("a")
        until(lambda: next(model) == b"of a", "it is served")
        assert model.stats.fates == {Fate.USED: 2}
    assert [answer.flow for answer in flows.answers(1)] == [b"a"]


def test_what_nobody_asked_about_is_acknowledged_when_the_signals_have_passed_it(flows: Flows) -> None:
    options: dict[str, Any] = {**flows.topics(further=False), "max_time_diff_ms": 100}
    with Model(lambda data, signal: (True, data), flows.broker, **options) as model:
        flows.send_data("a", at_ms=0)
        flows.send_data("b", at_ms=101)
        until(lambda: next(model) is None and model.stats.held == 2, "they came")
        flows.ask("b", at_ms=101)
        until(lambda: next(model) is not None, "b is served")
        assert model.stats.fates == {Fate.USED: 2, Fate.NOT_ASKED: 1}
    with Model(lambda data, signal: (True, data), flows.broker, **options, idle_timeout_ms=500) as model:
        assert list(model) == []


# Where the answer goes


def test_what_the_last_model_is_not_satisfied_with_is_an_error_of_its_task(flows: Flows) -> None:
    with Model(sure, flows.broker, **flows.topics(signal=False, further=False)) as model:
        flows.send_data("a", b"unsure")
        with pytest.raises(UsageError, match=r"flow b'a'.* no next model.*topic_out_signal=.*send_unsatisfied=True"):
            next(model)


def test_what_the_last_model_is_not_satisfied_with_goes_to_the_destination_if_so_told(flows: Flows) -> None:
    options: dict[str, Any] = flows.topics(signal=False, further=False)
    with Model(sure, flows.broker, **options, send_unsatisfied=True) as model:
        flows.send_data("a", b"unsure")
        assert next(model) == b"said unsure"
        assert model.stats.escalated == 0
    assert flows.answers(1)[0].payload == b"said unsure"


def test_the_gates_stand_where_they_are_named(flows: Flows) -> None:
    def task(data: str, signal: str) -> tuple[bool, str]:
        return data == "DATA", data + signal

    with Model(
        task,
        flows.broker,
        **flows.topics(),
        gate_in_data=lambda payload: payload.decode().upper(),
        gate_in_signal=lambda payload: payload.decode().title(),
        gate_out_destination=lambda output: f"to the destination: {output}",
        gate_out_signal=lambda output: f"to the next: {output}",
    ) as model:
        for flow, payload in (("a", b"data"), ("b", b"other")):
            flows.send_data(flow, payload)
            flows.ask(flow)
        until(lambda: (next(model) is not None and model.stats.sent == 2) or model.stats.sent == 2, "both are served")
    assert flows.answers(1)[0].payload == b"to the destination: DATASignal"
    assert flows.answers(1, flows.next)[0].payload == b"to the next: OTHERSignal"


def test_none_of_a_gate_drops_data_and_signals(flows: Flows) -> None:
    with Model(
        lambda data, signal: (True, data),
        flows.broker,
        **flows.topics(),
        gate_in_data=lambda payload: None if payload == b"no" else payload,
        gate_in_signal=lambda payload: None if payload == b"no" else payload,
    ) as model:
        flows.send_data("a", b"no")
        flows.ask("b", b"no")
        until(lambda: next(model) is None and model.stats.fates.get(Fate.GATED) == 2, "both are dropped")
        assert model.stats.held == 0


def test_an_output_of_none_sends_nothing_when_it_is_satisfied_and_asks_with_nothing_when_it_is_not(
    flows: Flows,
) -> None:
    outputs = iter([None, (True, None), (False, None)])
    called = []
    gates: dict[str, Any] = {"gate_out_destination": called.append, "gate_out_signal": called.append}
    with Model(lambda data: next(outputs), flows.broker, **flows.topics(signal=False), **gates) as model:
        for flow in "abc":
            flows.send_data(flow)
        assert steps(model, 3) == [None, None, b""]
        assert model.stats.fates == {Fate.USED: 3}
    assert called == []
    (question,) = flows.answers(1, flows.next)
    assert (question.flow, question.payload) == (b"c", b"")


@pytest.mark.parametrize("result", [b"just bytes", (True,), (True, b"x", 1), [True, b"x"]])
def test_a_task_that_returns_no_pair_is_told_so(flows: Flows, result: Any) -> None:
    with Model(lambda data: result, flows.broker, **flows.topics(signal=False)) as model:
        flows.send_data("a")
        with pytest.raises(UsageError, match=r"expected a pair, \(is_satisfied, output\)"):
            next(model)


@pytest.mark.parametrize("said", [b"swapped", 1, None, np.array([True, False])])
def test_whether_it_is_satisfied_has_to_be_said_clearly(flows: Flows, said: Any) -> None:
    with Model(lambda data: (said, b"x"), flows.broker, **flows.topics(signal=False)) as model:
        flows.send_data("a")
        with pytest.raises(UsageError, match="expected True or False"):
            next(model)


def test_numpy_says_it_clearly_too(flows: Flows) -> None:
    with Model(lambda data: (np.float64(0.9) > 0.5, b"x"), flows.broker, **flows.topics(signal=False)) as model:
        flows.send_data("a")
        assert next(model) == b"x"


def test_a_task_that_raises_makes_dead_letters_of_the_data_and_the_signal(flows: Flows, wire: Wire) -> None:
    def task(data: bytes, signal: bytes) -> tuple[bool, bytes]:
        raise ValueError("poison")

    with Model(task, flows.broker, **flows.topics(), on_error="dead_letter") as model:
        flows.send_data("a", b"data")
        flows.ask("a", b"signal")
        until(lambda: next(model) is None and model.stats.fates.get(Fate.FAILED) == 2, "they failed")
    for topic, payload in ((flows.data, b"data"), (flows.asks, b"signal")):
        letter = Letter(flows.broker, topic)
        assert letter.payload.endswith(payload)
        assert letter.error == "ValueError: poison"


# Flow ids


@pytest.mark.parametrize(
    ("flow_id", "on_the_wire"),
    [
        ("cam-1", b"cam-1"),
        ("é", "é".encode()),
        (7, b"7"),
        (0, b"0"),
        (np.int64(256), b"256"),
        (b"\x00\xff\x01", b"\x00\xff\x01"),
        (b"\x01\x00\x00", b"\x01"),
        (b"x" * 32, b"x" * 32),
        (b"", b""),
    ],
)
def test_a_source_writes_flow_ids_and_a_sink_reads_them_without_being_told(
    flows: Flows, flow_id: Any, on_the_wire: bytes
) -> None:
    with DataSource([b"item"], flows.broker, "src", topic=flows.data, flow_id=lambda item: flow_id) as source:
        next(source)
    with Model(lambda data: (True, data), flows.broker, **flows.topics(signal=False)) as model:
        assert next(model) == b"item"
    with (
        Materialize(lambda pair: pair, flows.broker, topic=flows.out, with_flow_id=True) as sink,
        Materialize(lambda payload: payload, flows.broker, topic=flows.out, sink_id="other") as other,
    ):
        assert next(sink) == (on_the_wire, b"item")
        assert next(other) == b"item"


def test_a_flow_id_that_is_too_long_is_refused_with_both_sizes(flows: Flows) -> None:
    with DataSource([b"item"], flows.broker, "src", topic=flows.data, flow_id=lambda item: b"x" * 33) as source:
        with pytest.raises(UsageError, match="33 bytes and the header 32: give header_size=33"):
            next(source)
        assert source.stats.fates == {Fate.FAILED: 1}


@pytest.mark.parametrize("flow_id", [None, True, 1.5, ["a"], np.float64(0), np.bool_(True), np.array([1])])
def test_what_is_no_flow_id_is_refused(flows: Flows, flow_id: Any) -> None:
    with (
        DataSource([b"item"], flows.broker, "src", topic=flows.data, flow_id=lambda item: flow_id) as source,
        pytest.raises(UsageError, match="expected bytes, str or int"),
    ):
        next(source)


def test_models_may_have_headers_of_different_sizes(flows: Flows) -> None:
    long_id = "a flow with a very long name, longer than 32 bytes"
    with DataSource(
        [b"item"], flows.broker, "src", topic=flows.data, flow_id=lambda item: long_id, header_size=64
    ) as source:
        next(source)
    topics: dict[str, Any] = flows.topics(signal=False)
    with (
        Model(lambda data: (True, data), flows.broker, **topics, header_size=50) as model,
        Model(lambda data: (True, b"small"), flows.broker, **topics, model_id="small") as small,
    ):
        assert next(model) == b"item"
        assert next(small) is None
        assert small.stats.fates == {Fate.MALFORMED: 1}
    assert (
        Letter(flows.broker, flows.data).error == "MalformedMessage: its flow id is 50 bytes, and header_size= here 32"
    )
    assert flows.answers(1)[0].flow == long_id.encode()


def test_an_unmarked_message_is_read_with_the_models_own_size(flows: Flows, wire: Wire) -> None:
    data = CODEC.encode(bytes(range(16)), "old", b"flow-1".ljust(8, b"\0") + b"payload")
    with Model(lambda data: (True, data), flows.broker, **flows.topics(signal=False), header_size=8) as model:
        wire.send_raw(data, CAPTURE_MS, flows.data)
        assert next(model) == b"payload"
    assert flows.answers(1)[0].flow == b"flow-1"


def test_a_model_without_flows_reads_and_writes_plain_examples(broker: str, wire: Wire) -> None:
    with Model(lambda data: (True, data + b"!"), broker, wire.src, wire.dst, header_size=0) as model:
        wire.send("only", b"hello")
        assert next(model) == b"hello!"
    assert wire.sent_on(1)[0].payload == b"hello!"


def test_an_iteration_ends_though_a_signal_waits_and_asks(flows: Flows) -> None:
    with Model(both, flows.broker, **flows.topics(further=False), idle_timeout_ms=1500) as model:
        flows.ask("a")
        assert set(model) <= {None}
        assert model.stats.received == 1


# Bounds and pace


def test_no_flow_is_lost_when_more_wait_than_may(flows: Flows) -> None:
    names = [f"{number:03}" for number in range(100)]
    options: dict[str, Any] = {**flows.topics(further=False), "max_waiting_flows": 10, "idle_timeout_ms": 3500}
    with Model(lambda data, signal: (True, data), flows.broker, **options) as model:
        for at_ms, name in enumerate(names):
            flows.send_data(name, name.encode(), at_ms)
        assert set(model) == {None}
        read = model.stats.received
        assert model.stats.fates == {}, "what waits is at the broker, and nothing is given up for it"
        for at_ms, name in enumerate(names):
            if at_ms % 3 == 0:
                flows.ask(name, at_ms=at_ms)
        assert len([sent for sent in model if sent is not None]) == 34
        fates = model.stats.fates
    assert 10 <= read < 100
    assert fates[Fate.USED] == 68
    assert [answer.payload.decode() for answer in flows.answers(34)] == names[::3]


def test_an_interval_delays_flows_and_loses_none(flows: Flows) -> None:
    clock = ManualClock()
    with Model(
        sure, flows.broker, **flows.topics(signal=False), min_interval_ms=100, clock=clock, idle_timeout_ms=50
    ) as model:
        flows.send_all("abc")
        assert steps(model, 3) == [b"said a", None, None]
        for flow in (b"said b", b"said c"):
            clock.advance(100)
            assert next(model) == flow
        assert model.stats.fates == {Fate.USED: 3}


# Lazy routing


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[FtpServer]:
    with FtpServer(tmp_path / "camera", port=0) as server:
        yield server


def test_only_the_payloads_of_flows_that_are_asked_about_move(flows: Flows, camera: FtpServer, tmp_path: Path) -> None:
    frames = [f"{number:02}".encode() + os.urandom(49_998) for number in range(20)]
    with DataSource(
        frames,
        flows.broker,
        "cam",
        topic=flows.data,
        flow_id=lambda frame: frame[:2],
        event_time=lambda frame: CAPTURE_MS,
        store=camera.store("cam"),
    ) as source:
        for _ in source:
            pass
    seen: list[bytes] = []

    def task(data: bytes, signal: bytes) -> tuple[bool, bytes]:
        seen.append(data)
        return True, data[:2]

    options: dict[str, Any] = {"ftp": True, "ftp_memory": True, "local_ftp_path": str(tmp_path / "here")}
    with Model(task, flows.broker, **flows.topics(further=False), **options) as model:
        until(lambda: next(model) is None and model.stats.held == 20, "all wait")
        assert model.stats.fetches.fetched_bytes == 0
        for flow in (b"03", b"07"):
            flows.ask(flow)
            until(lambda: next(model) is not None, "it is served")
        assert seen == [frames[3], frames[7]]
        assert model.stats.fetches.fetched_bytes == 2 * 50_000
        assert model.stats.fetches.unmoved_bytes == 18 * 50_000


def test_in_file_mode_the_task_gets_a_path_and_the_gates_the_url_of_its_output(
    flows: Flows, camera: FtpServer, tmp_path: Path
) -> None:
    with DataSource(
        [bytes(50_000)], flows.broker, "cam", topic=flows.data, flow_id=lambda frame: "a", store=camera.store("cam")
    ) as source:
        next(source)
    paths = []

    def task(data: str) -> tuple[bool, str]:
        paths.append(Path(data).stat().st_size)
        return False, "of a file"

    options: dict[str, Any] = {"ftp": True, "local_ftp_path": str(tmp_path / "here")}
    with Model(task, flows.broker, **flows.topics(signal=False), **options) as model:
        sent = next(model)
    assert paths == [50_000]
    assert sent is not None
    assert sent.startswith(b"ftp://")
    (question,) = flows.answers(1, flows.next)
    assert (question.flow, question.payload) == (b"a", sent)


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"topic_in_data": "t", "topic_out_destination": "t"}, "topic_in_data and topic_out_destination are both 't'"),
        ({"topic_in_signal": "persistent://public/default/d", "task": both}, "topic_in_data and topic_in_signal"),
        ({"header_size": 0, "topic_in_signal": "s", "task": both}, "header_size"),
        ({"header_size": 1001}, "header_size"),
        ({"topic_in_signal": "s"}, r"called with \(data, signal\), and can't be"),
        ({"packing": "yes"}, "packing"),
        ({"send_unsatisfied": 1}, "send_unsatisfied"),
        ({"header_size": -1}, "header_size"),
        ({"max_waiting_flows": 0}, "max_waiting_flows"),
        ({"max_waiting_bytes": 0}, "max_waiting_bytes"),
        ({"max_time_diff_ms": -1}, "max_time_diff_ms"),
        ({"min_interval_ms": -1}, "min_interval_ms"),
        ({"receiver_queue_size": 0}, "receiver_queue_size"),
        ({"send_unsatisfied": True, "topic_out_signal": "n"}, "send_unsatisfied"),
        ({"task": "no task"}, "can be called"),
        ({"gate_in_signal": 3}, "gate_in_signal"),
        ({"decode_signal": 3}, "decode_signal"),
        ({"model_id": "a name that is too long"}, "model_id"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(arguments: dict[str, Any], match: str) -> None:
    whole: dict[str, Any] = {"task": sure, "topic_in_data": "d", "topic_out_destination": "o", **arguments}
    with pytest.raises(UsageError, match=match):
        Model(pulsar_node="local://:memory:wrong", **whole)
