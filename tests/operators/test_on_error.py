"""What happens to examples whose task or gate raised, on both brokers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from edgeserve import Compute, Fate, Materialize, UsageError
from edgeserve._broker import connections
from edgeserve._broker.base import Message, Share
from edgeserve._broker.connections import ConnectionLease
from edgeserve._core.packs import pack
from edgeserve.errors import BrokerError
from edgeserve.testing import ManualClock, memory_broker
from tests.manual_broker import ManualBroker, example
from tests.operators.conftest import CAPTURE_MS, CODEC, Wire


class Letter:
    """A dead letter as it lies at the broker."""

    def __init__(self, broker: str, topic: str) -> None:
        lease = ConnectionLease(broker)
        consumer = lease.connection.consumer([f"{topic}-dead-letters"], "the-test", Share.STANDBY, 10)
        (self.delivery,) = consumer.receive(10_000)
        consumer.close()
        lease.close()
        self.error = self.delivery.properties["edgeserve-error"]
        self.operator = self.delivery.properties["edgeserve-operator"]
        self.topic = self.delivery.properties["edgeserve-topic"]
        self.payload = CODEC.decode(self.delivery.payload)[3]


def poisonous(only: bytes) -> bytes:
    if only == b"poison":
        raise ValueError("it is poison")
    return only


def compute(broker: str, wire: Wire, task: Callable[..., Any] = poisonous, **options: Any) -> Compute:
    return Compute(task, broker, topic_in=wire.src, topic_out=wire.dst, **options)


def test_a_poisonous_example_becomes_a_dead_letter_and_the_others_are_served(broker: str, wire: Wire) -> None:
    with compute(broker, wire, on_error="dead_letter") as operator:
        for payload in (b"1", b"poison", b"2"):
            wire.send("only", payload, 5)
        assert [next(operator) for _ in range(3)] == [b"1", None, b"2"]
        assert operator.stats.fates == {Fate.USED: 2, Fate.FAILED: 1}
        assert (operator.stats.dead_letters, operator.stats.held) == (1, 0)
    letter = Letter(broker, wire.src)
    assert (letter.error, letter.operator, letter.topic) == ("ValueError: it is poison", "worker1", wire.src)
    assert (letter.payload, letter.delivery.event_ms) == (b"poison", CAPTURE_MS + 5)
    with compute(broker, wire, idle_timeout_ms=500) as successor:
        assert list(successor) == [], "the poison is acknowledged"


def test_of_a_pack_the_poison_alone_is_a_dead_letter_with_its_own_bytes(broker: str, wire: Wire) -> None:
    entries = [example(f"e{number}", "only", payload) for number, payload in enumerate([b"1", b"poison", b"2"])]
    entries.insert(2, b"too short")
    with compute(broker, wire, on_error="dead_letter") as operator:
        wire.send_raw(pack([(entry, CAPTURE_MS + 7) for entry in entries]), CAPTURE_MS, **{"edgeserve-pack": "1"})
        assert [next(operator) for _ in range(4)] == [b"1", None, None, b"2"]
        assert operator.stats.fates == {Fate.USED: 2, Fate.FAILED: 1, Fate.MALFORMED: 1}
    lease = ConnectionLease(broker)
    consumer = lease.connection.consumer([f"{wire.src}-dead-letters"], "the-test", Share.STANDBY, 10)
    letters: list[bytes] = []
    while len(letters) < 2:
        letters += [delivery.payload for delivery in consumer.receive(10_000)]
    consumer.close()
    lease.close()
    assert letters == [entries[1], b"too short"]
    with compute(broker, wire, idle_timeout_ms=500) as successor:
        assert list(successor) == [], "the whole pack is acknowledged"


def test_a_pack_that_is_none_is_one_dead_letter_as_it_was(broker: str, wire: Wire) -> None:
    with compute(broker, wire) as operator:
        wire.send_raw(b"no pack", CAPTURE_MS, **{"edgeserve-pack": "1"})
        assert next(operator) is None
        assert operator.stats.fates == {Fate.MALFORMED: 1}
    letter = Letter.__new__(Letter)
    lease = ConnectionLease(broker)
    consumer = lease.connection.consumer([f"{wire.src}-dead-letters"], "the-test", Share.STANDBY, 10)
    (letter.delivery,) = consumer.receive(10_000)
    consumer.close()
    lease.close()
    assert (letter.delivery.payload, letter.delivery.properties["edgeserve-pack"]) == (b"no pack", "1")
    assert "marked as a pack" in letter.delivery.properties["edgeserve-error"]


def test_skipping_gives_up_without_a_trace_but_the_count(broker: str, wire: Wire) -> None:
    with compute(broker, wire, on_error="skip") as operator:
        wire.send("only", b"poison")
        wire.send("only", b"1")
        assert [next(operator), next(operator)] == [None, b"1"]
        assert operator.stats.fates == {Fate.FAILED: 1, Fate.USED: 1}
        assert operator.stats.dead_letters == 0
    with compute(broker, wire, idle_timeout_ms=500) as successor:
        assert list(successor) == []


def test_a_task_that_works_the_second_time_is_tried_again(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []

    def works_at_last(only: bytes) -> bytes:
        seen.append(only)
        if len(seen) < 3:
            raise ConnectionError("not yet")
        return only

    with compute(broker, wire, works_at_last, on_error="retry", retry_interval_ms=1) as operator:
        wire.send("only", b"1")
        assert next(operator) == b"1"
        assert (len(seen), operator.stats.fates, operator.stats.dead_letters) == (3, {Fate.USED: 1}, 0)


def test_what_fails_each_time_is_tried_so_often_and_then_a_dead_letter(broker: str, wire: Wire) -> None:
    tries = 0

    def fail(only: bytes) -> bytes:
        nonlocal tries
        tries += 1
        raise ConnectionError(f"try {tries}")

    with compute(broker, wire, fail, on_error="retry", max_retries=2, retry_interval_ms=1) as operator:
        wire.send("only", b"1")
        assert next(operator) is None
    assert tries == 3
    assert Letter(broker, wire.src).error == "ConnectionError: try 3"


def test_a_retry_waits_for_its_interval_on_the_clock(topic: str) -> None:
    broker, clock = memory_broker(), ManualClock()
    started_ms: list[float] = []

    def fail(only: bytes) -> bytes:
        started_ms.append(clock.now().steady_ms)
        raise ConnectionError

    wire = Wire(broker, topic)
    with compute(broker, wire, fail, on_error="retry", max_retries=1, retry_interval_ms=50, clock=clock) as operator:
        wire.send("only", b"1")
        step = threading.Thread(target=next, args=(operator,))
        step.start()
        while step.is_alive():
            clock.advance(10)
            step.join(0.01)
    wire.close()
    first_ms, second_ms = started_ms
    assert second_ms >= first_ms + 50


def test_a_gate_that_raises_is_treated_like_the_task(broker: str, wire: Wire) -> None:
    with compute(broker, wire, lambda only: only, gate_in=poisonous, on_error="dead_letter") as operator:
        wire.send("only", b"poison")
        wire.send("only", b"1")
        assert [next(operator), next(operator)] == [None, b"1"]
    assert Letter(broker, wire.src).payload == b"poison"


def test_a_gate_out_that_returns_no_bytes_is_treated_like_the_task(broker: str, wire: Wire) -> None:
    with compute(broker, wire, lambda only: 5, on_error="dead_letter") as operator:
        wire.send("only", b"1")
        assert next(operator) is None
    assert "expected bytes, str or None" in Letter(broker, wire.src).error


def test_of_a_join_only_what_is_new_is_given_up_and_the_rest_is_used_again(broker: str, wire: Wire) -> None:
    def fail_on_poison(left: bytes, right: bytes) -> bytes:
        if right == b"poison":
            raise ValueError
        return left + right

    with compute(broker, wire, fail_on_poison, on_error="dead_letter") as operator:
        wire.send("left", b"l", 1)
        wire.send("right", b"r", 2)
        wire.send("right", b"poison", 3)
        wire.send("right", b"s", 4)
        assert [next(operator) for _ in range(4)] == [None, b"lr", None, b"ls"]
        assert operator.stats.fates == {Fate.USED: 3, Fate.FAILED: 1}
        assert operator.stats.held == 0
    assert Letter(broker, wire.src).payload == b"poison"


def test_a_sink_gives_up_as_well(broker: str, wire: Wire) -> None:
    seen: list[bytes] = []

    def take(payload: bytes) -> None:
        poisonous(payload)
        seen.append(payload)

    with Materialize(take, broker, topic=wire.src, on_error="dead_letter") as sink:
        wire.send("any", b"poison")
        wire.send("any", b"1")
        next(sink)
        next(sink)
    assert seen == [b"1"]
    assert Letter(broker, wire.src).operator == "my-sub"


def test_an_output_that_is_too_large_is_the_tasks_error(broker: str, wire: Wire) -> None:
    with compute(broker, wire, lambda only: bytes(6_000_000), on_error="dead_letter") as operator:
        wire.send("only", b"1")
        assert next(operator) is None
    assert "PayloadTooLarge" in Letter(broker, wire.src).error


def test_the_default_raises_and_leaves_the_example_unacknowledged(broker: str, wire: Wire) -> None:
    with compute(broker, wire) as operator:
        wire.send("only", b"poison")
        wire.send("only", b"1")
        with pytest.raises(ValueError, match="it is poison"):
            next(operator)
        assert next(operator) == b"1"
        assert (operator.stats.fates, operator.stats.held) == ({Fate.USED: 1}, 1)
    with compute(broker, wire, lambda only: only) as successor:
        assert next(successor) == b"poison"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"on_error": "ignore"}, "expected one of 'raise', 'retry', 'dead_letter', 'skip'"),
        ({"on_error": "retry", "max_retries": 0}, "max_retries"),
        ({"on_error": "retry", "retry_interval_ms": -1}, "retry_interval_ms"),
    ],
)
def test_a_policy_that_is_none_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Compute(poisonous, memory_broker(), **options)
    with pytest.raises(UsageError, match=match):
        Materialize(poisonous, memory_broker(), **options)


def test_a_message_put_among_dead_letters_by_hand_is_no_obstacle(broker: str, wire: Wire) -> None:
    lease = ConnectionLease(broker)
    producer = lease.connection.producer(f"{wire.src}-dead-letters")
    producer.send(Message(b"by hand"), lambda error: None)
    producer.close(5000)
    lease.close()
    with compute(broker, wire, on_error="dead_letter") as operator:
        wire.send("only", b"poison")
        assert next(operator) is None
        assert operator.stats.dead_letters == 1


def test_a_join_lets_go_of_what_was_given_up(broker: str, wire: Wire) -> None:
    def fail_on_poison(slow: bytes, fast: bytes) -> bytes:
        if slow == b"poison":
            raise ValueError
        return slow + fast

    with compute(broker, wire, fail_on_poison, on_error="dead_letter") as operator:
        wire.send("slow", b"poison", 1)
        wire.send("fast", b"f1", 2)
        wire.send("fast", b"f2", 3)
        wire.send("slow", b"s", 4)
        assert [next(operator) for _ in range(4)] == [None, None, None, b"sf2"]
        assert operator.stats.fates == {Fate.FAILED: 2, Fate.USED: 2}, "f2 was not taken along"


def test_an_operator_that_is_to_stop_tries_no_more_and_leaves_the_example(broker: str, wire: Wire) -> None:
    def fail(only: bytes) -> bytes:
        operator.stop()
        raise ValueError

    with compute(broker, wire, fail, on_error="retry", retry_interval_ms=0, max_retries=1000) as operator:
        wire.send("only", b"1")
        assert list(operator) == [None]
        assert operator.stats.held == 1
    with compute(broker, wire, lambda only: only) as successor:
        assert next(successor) == b"1"


def test_a_dead_letter_that_cannot_be_kept_leaves_the_example(monkeypatch: pytest.MonkeyPatch) -> None:
    manual = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: manual)
    with Compute(poisonous, memory_broker(), on_error="dead_letter") as operator:
        make, manual.producer = manual.producer, refuse  # type: ignore[method-assign]
        manual.arrive("m1", "only", b"poison")
        with pytest.raises(BrokerError, match="no such permission"):
            next(operator)
        assert (operator.stats.fates, operator.stats.held, manual.acknowledged) == ({}, 1, [])
        manual.arrive("m2", "only", data=b"malformed")
        with pytest.raises(BrokerError, match="no such permission"):
            next(operator)
        manual.producer = make  # type: ignore[method-assign]
        assert next(operator) is None, "what is malformed is tried again"
        manual.confirm()
        assert manual.acknowledged == ["m2"]


def refuse(topic: str, *, together: bool = False) -> ManualBroker:
    raise BrokerError("no such permission", "test://")
