from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from operator import eq as equal
from pathlib import Path

import pytest

from edgeserve._broker.base import Connection, Consumer, Delivery, Message, Producer, Share
from edgeserve.errors import DeliveryError
from tests.broker.helpers import ids, receive, send
from tests.broker.local.conftest import Open
from tests.broker.workers import until

CAP = 400_000
WARNING = "edgeserve.broker.local"


def fill(producer: Producer, count: int = 100) -> list[object]:
    """Send more than the cap holds; the list grows as they are confirmed."""
    outcomes: list[object] = []
    for number in range(count):
        producer.send(Message(b"%03d" % number + b"x" * 10_000), outcomes.append)
    return outcomes


def numbers(payloads: list[bytes]) -> list[int]:
    return [int(payload[:3]) for payload in payloads]


def test_a_full_topic_makes_sends_wait_until_there_is_room(open_broker: Open, caplog: pytest.LogCaptureFixture) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    consumer = connection.consumer(["src"], "slow reader", Share.STANDBY, 10)
    with caplog.at_level(logging.WARNING, WARNING):
        outcomes = fill(connection.producer("src"))
        until(lambda: caplog.records, "a warning")
    (info,) = connection.topics()
    assert len(outcomes) < 40
    assert info.size_bytes <= CAP
    for fact in ("'src'", "400,000", "'slow reader'"):
        assert fact in caplog.text

    got: list[bytes] = []
    while len(got) < 100:
        arrived = receive_some(consumer)
        got += [delivery.payload for delivery in arrived]
        consumer.acknowledge(arrived)
    assert numbers(got) == list(range(100))
    until(lambda: outcomes == [None] * 100, "all confirmed")


def receive_some(consumer: Consumer) -> Sequence[Delivery]:
    arrived = consumer.receive(20_000)
    assert arrived
    return arrived


def test_the_warning_says_when_nobody_reads(open_broker: Open, caplog: pytest.LogCaptureFixture) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    with caplog.at_level(logging.WARNING, WARNING):
        producer = connection.producer("src")
        fill(producer)
        until(lambda: "no subscription reads it" in caplog.text, "a warning")
    producer.close(0)


def test_other_topics_of_the_connection_are_not_held_up(open_broker: Open) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    producer = connection.producer("full")
    fill(producer)
    until(lambda: connection.topics()[0].size_bytes > CAP * 0.9, "it is full")
    send(connection.producer("other"), ["one"])
    producer.close(0)


def test_what_is_not_stored_when_a_producer_closes_is_told_of(open_broker: Open) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    producer = connection.producer("src")
    outcomes = fill(producer)
    until(lambda: outcomes, "some are stored")
    producer.close(300)
    assert len(outcomes) == 100
    stored = outcomes.index(next(outcome for outcome in outcomes if outcome is not None))
    assert outcomes[:stored] == [None] * stored
    assert all(isinstance(outcome, DeliveryError) for outcome in outcomes[stored:])
    assert "the topic is full" in str(outcomes[-1])
    assert connection.topics()[0].messages == stored


def test_deleting_a_slow_subscription_makes_room(open_broker: Open) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    connection.consumer(["src"], "gone", Share.STANDBY, 10).close()
    consumer = connection.consumer(["src"], "here", Share.STANDBY, 100)
    outcomes = fill(connection.producer("src"), 60)
    got = 0
    while arrived := consumer.receive(500):
        got += len(arrived)
        consumer.acknowledge(arrived)
    assert got < 60
    connection.delete("src", "gone")
    until(lambda: outcomes == [None] * 60, "all confirmed")


def test_acknowledgements_of_a_consumer_that_closed_before_it_could_trim_make_room(open_broker: Open) -> None:
    connection = open_broker(max_topic_bytes=CAP)
    outcomes = fill(connection.producer("src"), 60)
    until(lambda: len(outcomes) > 20, "some are stored")
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 100)
    arrived = consumer.receive(20_000)
    consumer.acknowledge(arrived)
    consumer.close()
    until(lambda: outcomes == [None] * 60, "all confirmed")


def test_a_message_larger_than_the_cap_is_stored_when_it_is_alone(open_broker: Open) -> None:
    connection = open_broker(max_topic_bytes=100_000)
    send(connection.producer("src"), [b"x" * 1_000_000])
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 10)
    (delivery,) = receive(consumer, 1)
    consumer.acknowledge([delivery])
    send(connection.producer("src"), ["next"])
    assert ids(receive(consumer, 1)) == ["next"]


def test_room_that_was_freed_is_used_again(open_broker: Open, folder: Path) -> None:
    connection: Connection = open_broker(max_topic_bytes=CAP)
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 100)
    producer = connection.producer("src")
    for _ in range(10):
        outcomes = fill(producer, 30)
        got = receive(consumer, 30)
        consumer.acknowledge(got)
        until(partial(equal, outcomes, [None] * 30), "all confirmed")
    connection.close()
    assert sum(path.stat().st_size for path in (folder / "topics").iterdir()) < 2 * CAP
