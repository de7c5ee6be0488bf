from __future__ import annotations

import uuid
from typing import Any

import pytest

from edgeserve import Compute, DataSource, Fate, Materialize
from edgeserve.testing import ManualClock
from tests.operators.conftest import CAPTURE_MS, CODEC, Wire


def pair(left: bytes, right: bytes) -> bytes:
    return left + b"+" + right


def fates(operator: Any) -> dict[str, int]:
    stats = operator.stats
    assert stats.received == sum(stats.fates.values()) + stats.held
    return {fate.value: count for fate, count in stats.fates.items()}


def test_three_operators_in_lock_step_pass_every_example_on(broker: str, wire: Wire) -> None:
    with (
        DataSource("hello", broker, "letter", lambda letter: letter.encode(), wire.src) as source,
        Compute(lambda letter: letter * 2, broker, topic_in=wire.src, topic_out=wire.dst) as compute,
        Materialize(lambda word: word.decode(), broker, topic=wire.dst) as sink,
    ):
        for letter in "hello":
            assert next(source) == letter.encode()
            assert next(compute) == letter.encode() * 2
            assert next(sink) == letter * 2
        with pytest.raises(StopIteration):
            next(source)
    for operator in (source, compute, sink):
        assert fates(operator) == {"used": 5}


def test_a_join_fires_when_any_source_is_new_and_reuses_the_others(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("left", b"l1", 10)
        assert next(compute) is None
        wire.send("right", b"r1", 12)
        assert next(compute) == b"l1+r1"
        wire.send("right", b"r2", 20)
        assert next(compute) == b"l1+r2"
        wire.send("left", b"l2", 30)
        assert next(compute) == b"l2+r2"
        assert fates(compute) == {"used": 4}
        assert compute.stats.sent == 3
    sent = wire.sent_on(3)
    assert [(source, payload, capture) for _, source, payload, capture in sent] == [
        ("worker1", b"l1+r1", 12),
        ("worker1", b"l1+r2", 20),
        ("worker1", b"l2+r2", 30),
    ]


def test_without_overlap_no_example_is_used_twice(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst, no_overlap=True) as compute:
        for source, payload, at_ms in [
            ("left", b"l1", 1),
            ("right", b"r1", 2),
            ("right", b"r2", 3),
            ("left", b"l2", 4),
        ]:
            wire.send(source, payload, at_ms)
        assert [next(compute) for _ in range(4)] == [None, b"l1+r1", None, b"l2+r2"]


def test_examples_further_apart_than_the_skew_never_meet(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst, max_time_diff_ms=10) as compute:
        wire.send("left", b"l1", 0)
        wire.send("right", b"r1", 11)
        wire.send("left", b"l2", 1)
        assert [next(compute) for _ in range(3)] == [None, None, b"l2+r1"]
        assert fates(compute) == {"expired": 1, "used": 2}


def test_a_late_example_never_replaces_a_newer_one(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        for source, payload, at_ms in [("left", b"new", 20), ("left", b"old", 19), ("right", b"r", 20)]:
            wire.send(source, payload, at_ms)
        assert [next(compute) for _ in range(3)] == [None, None, b"new+r"]
        assert fates(compute) == {"out of order": 1, "used": 2}


def test_what_arrives_within_the_interval_is_served_when_it_ends_without_another_arrival(
    broker: str, wire: Wire
) -> None:
    clock = ManualClock()
    with Compute(
        lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst, min_interval_ms=100, clock=clock
    ) as compute:
        for payload in (b"1", b"2", b"3"):
            wire.send("only", payload)
        assert [next(compute) for _ in range(3)] == [b"1", None, None]
        clock.advance(100)
        assert next(compute) == b"3"
        assert fates(compute) == {"used": 2, "superseded": 1}


def test_an_arrival_goes_before_a_moment_that_is_due(broker: str, wire: Wire) -> None:
    clock = ManualClock()
    with Compute(
        lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst, min_interval_ms=100, clock=clock
    ) as compute:
        wire.send("only", b"1")
        wire.send("only", b"2")
        assert [next(compute), next(compute)] == [b"1", None]
        wire.send("only", b"3")
        assert compute._inbox.fill(20_000), "what was sent did not arrive"
        clock.advance(100)
        assert next(compute) == b"3"
        assert fates(compute) == {"used": 2, "superseded": 1}


def test_examples_older_than_the_limit_are_not_served(broker: str, wire: Wire) -> None:
    clock = ManualClock(CAPTURE_MS + 1000)
    with Compute(
        lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst, drop_if_older_than_ms=900, clock=clock
    ) as compute:
        wire.send("only", b"too old", 99)
        wire.send("only", b"just right", 100)
        assert [next(compute), next(compute)] == [None, b"just right"]
        assert fates(compute) == {"too old": 1, "used": 1}


def test_an_example_that_grew_too_old_while_it_waited_is_not_served(broker: str, wire: Wire) -> None:
    clock = ManualClock(CAPTURE_MS)
    with Compute(
        lambda only: only,
        broker,
        topic_in=wire.src,
        topic_out=wire.dst,
        min_interval_ms=100,
        drop_if_older_than_ms=50,
        clock=clock,
    ) as compute:
        wire.send("only", b"1")
        wire.send("only", b"2")
        assert [next(compute), next(compute)] == [b"1", None]
        clock.advance(100)
        assert next(compute) is None
        assert fates(compute) == {"used": 1, "too old": 1}


def test_the_nearest_join_waits_for_what_may_be_nearer(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst, join="nearest", clock=ManualClock()) as compute:
        wire.send("right", b"before", 7)
        wire.send("left", b"l", 10)
        wire.send("right", b"after", 12)
        assert [next(compute) for _ in range(3)] == [None, None, b"l+after"]


def test_the_nearest_join_takes_what_there_is_when_its_wait_is_over(broker: str, wire: Wire) -> None:
    clock = ManualClock()
    with Compute(
        pair, broker, topic_in=wire.src, topic_out=wire.dst, join="nearest", max_wait_ms=50, clock=clock
    ) as compute:
        wire.send("right", b"before", 7)
        wire.send("left", b"l", 10)
        assert [next(compute), next(compute)] == [None, None]
        clock.advance(50)
        assert next(compute) == b"l+before"


def test_unknown_sources_malformed_messages_and_gated_examples_are_counted_and_the_stream_goes_on(
    broker: str, wire: Wire
) -> None:
    def no_secrets(payload: bytes) -> bytes | None:
        return None if payload == b"secret" else payload

    with Compute(lambda only: only, broker, gate_in=no_secrets, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("stranger", b"?")
        wire.send_raw(b"short", CAPTURE_MS)
        wire.send_raw(b"i" * 16 + b"\xff" * 16, CAPTURE_MS)
        wire.send_raw(b"i" * 40, CAPTURE_MS, **{"edgeserve-header": "many"})
        wire.send("only", b"secret")
        wire.send("only", b"fine")
        assert [next(compute) for _ in range(6)] == [None] * 5 + [b"fine"]
        assert fates(compute) == {"unknown source": 1, "malformed": 3, "gated": 1, "used": 1}


def test_a_dict_of_gates_has_one_for_each_source(broker: str, wire: Wire) -> None:
    gates = {"left": lambda payload: payload.upper()}
    with Compute(pair, broker, gate_in=gates, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("left", b"l")
        wire.send("right", b"r")
        assert [next(compute), next(compute)] == [None, b"L+r"]


def test_a_message_with_a_header_is_read_without_being_told_its_size(broker: str, wire: Wire) -> None:
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send_raw(b"i" * 16 + b"only".ljust(16, b"\0") + b"flow-7\0\0" + b"payload", **{"edgeserve-header": "8"})
        assert next(compute) == b"payload"


def test_a_task_or_a_gate_that_returns_nothing_sends_nothing_and_its_inputs_are_used(broker: str, wire: Wire) -> None:
    def outputs(only: bytes) -> bytes | None:
        return None if only == b"none" else only

    def gate_out(output: bytes) -> str | bytes | None:
        assert output != b"none"
        return {b"empty": b"", b"empty text": "", b"dropped": None}.get(output, "done")

    with Compute(outputs, broker, gate_out=gate_out, topic_in=wire.src, topic_out=wire.dst) as compute:
        for payload in (b"none", b"empty", b"empty text", b"dropped", b"x"):
            wire.send("only", payload)
        assert [next(compute) for _ in range(5)] == [None] * 4 + [b"done"]
        assert fates(compute) == {"used": 5}
        assert compute.stats.sent == 1
    assert [payload for _, _, payload, _ in wire.sent_on(1)] == [b"done"]


def test_decode_runs_once_for_an_example_that_a_join_uses_again(broker: str, wire: Wire) -> None:
    decoded = []

    def decode(payload: bytes) -> str:
        decoded.append(payload)
        return payload.decode()

    with Compute(
        lambda left, right: left + right, broker, topic_in=wire.src, topic_out=wire.dst, decode=decode
    ) as compute:
        for source, payload in (("left", b"l"), ("right", b"r"), ("right", b"R")):
            wire.send(source, payload)
        assert [next(compute) for _ in range(3)] == [None, b"lr", b"lR"]
    assert decoded == [b"l", b"r", b"R"]


def test_inputs_map_parameters_to_sources_whose_names_are_no_identifiers(broker: str, wire: Wire) -> None:
    def task(*frames: bytes, camera: bytes, threshold: float = 0.5) -> str:
        return f"{camera.decode()} {threshold} {frames}"

    with Compute(task, broker, topic_in=wire.src, topic_out=wire.dst, inputs={"camera": "cam-1"}) as compute:
        wire.send("cam-1", b"frame")
        assert next(compute) == b"frame 0.5 ()"


def test_several_topics_are_joined_too(broker: str, wire: Wire, topic: str) -> None:
    other = f"{topic}-other"
    with Compute(pair, broker, topic_in=[wire.src, other], topic_out=wire.dst) as compute:
        wire.send("left", b"l", 0)
        wire.send_raw(CODEC.encode(uuid.uuid4().bytes, "right", b"r"), CAPTURE_MS + 1, topic=other)
        assert [next(compute), next(compute)] == [None, b"l+r"]
        assert fates(compute) == {"used": 2}
    assert [(payload, capture) for _, _, payload, capture in wire.sent_on(1)] == [(b"l+r", 1)]


def test_a_task_that_raises_raises_in_the_step_and_the_next_step_goes_on(broker: str, wire: Wire) -> None:
    def task(only: bytes) -> bytes:
        if only == b"poison":
            raise ZeroDivisionError("poison")
        return only

    with Compute(task, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"poison")
        wire.send("only", b"fine")
        with pytest.raises(ZeroDivisionError, match="poison"):
            next(compute)
        assert compute.stats.held == 1
        assert next(compute) == b"fine"
        assert fates(compute) == {"used": 1}
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as successor:
        assert next(successor) == b"poison"


def test_a_gate_that_raises_is_treated_like_a_task_that_raises(broker: str, wire: Wire) -> None:
    def gate(payload: bytes) -> bytes:
        if payload == b"poison":
            raise ZeroDivisionError("poison")
        return payload

    with Compute(lambda only: only, broker, gate_in=gate, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"poison")
        wire.send("only", b"fine")
        with pytest.raises(ZeroDivisionError):
            next(compute)
        assert next(compute) == b"fine"
        assert compute.stats.held == 1
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as successor:
        assert next(successor) == b"poison"


def test_a_task_that_raises_stop_iteration_does_not_end_the_iteration(broker: str, wire: Wire) -> None:
    def task(only: bytes) -> bytes:
        return next(iter([]))  # type: ignore[no-any-return]

    with Compute(task, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"x")
        with pytest.raises(RuntimeError, match="StopIteration"):
            next(compute)


def test_an_example_that_arrives_again_while_it_is_held_is_a_duplicate(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        first = wire.send("left", b"l", 1)
        wire.send("left", b"l", 1, example_id=first)
        wire.send("right", b"r", 1)
        assert [next(compute) for _ in range(3)] == [None, None, b"l+r"]
        assert fates(compute) == {"duplicate": 1, "used": 2}


def test_output_ids_are_derived_from_the_inputs_so_that_a_repeated_run_gives_the_same(broker: str, wire: Wire) -> None:
    first = wire.send("only", b"x")
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        assert next(compute) == b"x"
    wire.send("only", b"x", example_id=first)
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        assert next(compute) == b"x"
    (one, *_), (again, *_) = wire.sent_on(2)
    assert one == again
    assert one.version == 5


def test_a_join_gets_back_what_it_held_when_it_is_started_again(broker: str, wire: Wire) -> None:
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("left", b"l", 1)
        assert next(compute) is None
    with Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("right", b"r", 2)
        assert [next(compute), next(compute)] == [None, b"l+r"]


def test_two_tasks_on_one_topic_both_see_everything(broker: str, wire: Wire) -> None:
    with (
        Compute(lambda only: only, broker, "one", topic_in=wire.src, topic_out=wire.dst) as one,
        Compute(lambda only: only, broker, "two", topic_in=wire.src, topic_out=wire.dst) as two,
    ):
        wire.send("only", b"x")
        assert next(one) == b"x"
        assert next(two) == b"x"


def test_a_second_join_of_the_same_name_stands_by_and_takes_over(broker: str, wire: Wire) -> None:
    with (
        Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst) as active,
        Compute(pair, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=30_000) as standby,
    ):
        wire.send("left", b"l", 1)
        wire.send("right", b"r", 2)
        assert [next(active), next(active)] == [None, b"l+r"]
        assert not standby._inbox.fill(300)
        active.close()
        wire.send("left", b"L", 3)
        assert next(value for value in standby if value not in (None, b"l+r")) == b"L+r"


def test_a_restarted_compute_serves_nothing_twice_that_it_had_finished(broker: str, wire: Wire) -> None:
    for payload in (b"1", b"2", b"3"):
        wire.send("only", payload)
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        assert [next(compute), next(compute)] == [b"1", b"2"]
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=1000) as compute:
        assert list(compute) == [b"3"]


def test_stats_can_be_read_after_closing(broker: str, wire: Wire) -> None:
    with Compute(lambda only: only, broker, topic_in=wire.src, topic_out=wire.dst) as compute:
        wire.send("only", b"x")
        next(compute)
    assert compute.stats.fates == {Fate.USED: 1}
    assert compute.stats.unconfirmed == 0
    assert str(compute.stats) == "1 received, 1 used, 0 held, 1 sent (0 unconfirmed)"
