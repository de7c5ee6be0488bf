"""What is wrong is said: what it was, what was expected, what to do."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from edgeserve import Compute, DataSource, Materialize, PayloadTooLarge, UsageError
from edgeserve._broker.base import MAX_MESSAGE_BYTES
from tests.operators.conftest import Wire

MEMORY = "local://:memory:bad-input"


def same(only: bytes) -> bytes:
    return only


def keep(payload: bytes) -> bytes:
    return payload


def no_parameters() -> None: ...
def any_arguments(*args: bytes) -> None: ...
def any_keywords(**kwargs: bytes) -> None: ...
def a_default(camera: bytes, threshold: float = 0.5) -> None: ...
def positional_only(camera: bytes, /) -> None: ...
def a_long_name(accelerometer_left: bytes) -> None: ...


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (no_parameters, "no parameter"),
        (any_arguments, "args"),
        (any_keywords, "kwargs"),
        (a_default, "'threshold' has a default"),
        (positional_only, "camera"),
        (a_long_name, "18 bytes"),
        (functools.partial(a_default, threshold=1), "'threshold' has a default"),
        (dict, "inputs="),
        (None, "can be called"),
        (b"code", "can be called"),
    ],
)
def test_a_task_whose_signature_names_no_sources_is_refused(task: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Compute(task, MEMORY)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "no parameter"),
        ({"camera": ""}, "empty"),
        ({"camera": "a name that is too long"}, "23 bytes"),
        ({"camera": "cam\0"}, "NUL"),
        ({"camera": 1}, "str"),
        ({1: "camera"}, "parameter"),
        ({"left": "camera", "right": "camera"}, "same source"),
    ],
)
def test_inputs_that_can_be_no_sources_are_refused(inputs: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Compute(any_keywords, MEMORY, inputs=inputs)


@pytest.mark.parametrize("name", ["", "seventeen letters", "é" * 9, "nul\0", "\ud800", None, b"bytes", 7])
@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda name: DataSource([], MEMORY, name), "source_id"),
        (lambda name: Compute(same, MEMORY, name), "worker_id"),
    ],
)
def test_a_name_that_cannot_travel_is_refused(make: Callable[[Any], object], argument: str, name: Any) -> None:
    with pytest.raises(UsageError, match=argument):
        make(name)


def test_a_name_of_just_16_bytes_travels(broker: str, wire: Wire) -> None:
    with DataSource([b"x"], broker, "é" * 8, topic=wire.dst) as source:
        next(source)
    assert wire.sent_on(1)[0][1] == "é" * 8


@pytest.mark.parametrize(
    "node", ["http://localhost:6650", "localhost:6650", "", "pulsar://", "local://", "local:/x", 6650, b"pulsar://x"]
)
def test_an_address_that_is_none_is_refused(node: Any) -> None:
    with pytest.raises(UsageError, match="expected"):
        DataSource([], node, "s")


@pytest.mark.parametrize("node", ["local://~nobody-of-this-name/x", "local://a%00b", "local://\ud800"])
def test_a_folder_that_can_be_none_is_refused(node: str) -> None:
    with pytest.raises(UsageError, match="the local broker's folder"):
        DataSource([], node, "s")


@pytest.mark.parametrize("name", ["", "\n", "a\0b", None, 7])
def test_a_topic_that_no_broker_takes_is_refused(broker: str, name: Any) -> None:
    for make in (
        lambda: DataSource([], broker, "s", topic=name),
        lambda: Compute(same, broker, topic_in=name),
        lambda: Compute(same, broker, topic_out=name),
        lambda: Materialize(keep, broker, topic=name),
    ):
        with pytest.raises(UsageError, match="topic"):
            make()


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_time_diff_ms": -1},
        {"min_interval_ms": -0.5},
        {"min_interval_ms": float("nan")},
        {"drop_if_older_than_ms": -1},
        {"join": "newest"},
        {"join": "nearest"},
        {"idle_timeout_ms": -1},
        {"close_timeout_ms": -1},
        {"gate_in": b"no gate"},
        {"gate_in": {"only": 1}},
        {"gate_out": 1},
        {"decode": "utf-8"},
        {"topic_in": []},
    ],
)
def test_an_option_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Compute(same, MEMORY, **arguments)


@pytest.mark.parametrize("arguments", [{"max_wait_ms": -1}, {"max_waiting": 0}])
def test_an_option_of_the_nearest_join_out_of_range_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Compute(lambda a, b: None, MEMORY, join="nearest", **arguments)


def test_a_stream_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="iterate"):
        DataSource(5, MEMORY, "s")  # type: ignore[arg-type]


def test_a_sink_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(UsageError, match="called"):
        Materialize(None, MEMORY)  # type: ignore[arg-type]


@pytest.mark.parametrize("result", [5, 1.5, ["x"], object(), True])
def test_a_gate_that_returns_no_bytes_is_named(broker: str, wire: Wire, result: object) -> None:
    with (
        DataSource([b"x"], broker, "s", lambda item: result, wire.src) as source,
        pytest.raises(UsageError, match="gate returned"),
    ):
        next(source)
    with Compute(same, broker, gate_out=lambda output: result, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"x")
        with pytest.raises(UsageError, match="gate_out returned"):
            next(compute)
        assert compute.stats.held == 1
    with Compute(same, broker, topic_in=wire.src, topic_out=wire.dst) as successor:
        assert next(successor) == b"x"


def test_a_task_without_a_gate_that_returns_no_bytes_is_told_to_have_one(broker: str, wire: Wire) -> None:
    with Compute(lambda only: 7, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"x")
        with pytest.raises(UsageError, match="without gate_out= there is int 7"):
            next(compute)


def test_a_payload_over_the_limit_is_refused_with_the_sizes_and_what_to_do(broker: str, wire: Wire) -> None:
    fits = MAX_MESSAGE_BYTES - 32
    with DataSource([bytes(fits + 1), bytes(fits)], broker, "s", topic=wire.dst) as source:
        with pytest.raises(PayloadTooLarge, match="lazy data routing") as raised:
            next(source)
        assert (raised.value.size_bytes, raised.value.limit_bytes) == (MAX_MESSAGE_BYTES + 1, MAX_MESSAGE_BYTES)
        assert len(next(source) or b"") == fits
    assert len(wire.sent_on(1)[0][2]) == fits


def test_an_output_over_the_limit_keeps_its_input(broker: str, wire: Wire) -> None:
    with Compute(lambda only: bytes(MAX_MESSAGE_BYTES), broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"x")
        with pytest.raises(PayloadTooLarge):
            next(compute)
        assert compute.stats.held == 1
        assert compute.stats.sent == 0
