"""Pausing some of a consumer's topics: what is held up, what goes on, and that nothing is lost."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from edgeserve._broker.base import Connection, Consumer, Delivery, Share
from edgeserve.errors import UsageError
from tests.broker.helpers import KEYS, Connect, Feed, ids, keyed, numbered, receive, rest, send
from tests.broker.workers import Workers, until

every_share = pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
ROOM = 20


@pytest.fixture
def topics(topic: str) -> list[str]:
    """Data and signal."""
    return [f"{topic}-data", f"{topic}-signal"]


def of(topic: str, deliveries: list[Delivery]) -> list[str]:
    """The messages of one topic."""
    return list(ids(delivery for delivery in deliveries if delivery.topic == topic))


@every_share
@pytest.mark.parametrize("queue_size", [5, 100])
def test_a_paused_topic_waits_while_another_goes_on_and_then_comes_in_order(
    connection: Connection, topics: list[str], share: Share, queue_size: int
) -> None:
    data, signal = topics
    consumer = connection.consumer(topics, "s", share, queue_size)
    send(connection.producer(data), keyed(numbered(400, "d")))
    before = list(consumer.receive(20_000))  # others have been handed over to it by now
    consumer.pause([data])
    send(connection.producer(signal), keyed(numbered(300, "s")))
    meanwhile = receive(consumer, 300)
    assert ids(meanwhile) == numbered(300, "s")
    assert rest(consumer) == []
    consumer.acknowledge(meanwhile)
    consumer.pause(())
    send(connection.producer(signal), keyed(numbered(100, "t")))
    after = receive(consumer, 500 - len(before))
    assert of(data, before + after) == numbered(400, "d")
    assert of(signal, after) == numbered(100, "t")
    consumer.acknowledge(before + after)
    consumer.close()
    assert rest(connection.consumer(topics, "s", share, queue_size)) == []


@every_share
def test_topics_are_paused_in_turns(connection: Connection, topics: list[str], share: Share) -> None:
    consumer = connection.consumer(topics, "s", share, ROOM)
    for each in topics:
        send(connection.producer(each), keyed(numbered(600, each)))
    got: list[Delivery] = []
    for turn in range(6):  # each takes up to 19, and then all that has been handed over: some 100 in all
        consumer.pause([topics[turn % 2]])
        part = receive_some(consumer, 20)
        assert {delivery.topic for delivery in part} == {topics[1 - turn % 2]}
        got += part
    consumer.pause(())
    got += receive(consumer, 1200 - len(got))
    for each in topics:
        assert of(each, got) == numbered(600, each)


def receive_some(consumer: Consumer, least: int) -> list[Delivery]:
    """At least so many messages."""
    found: list[Delivery] = []
    while len(found) < least:
        arrived = consumer.receive(20_000)
        assert arrived, f"{len(found)} arrived, then none"
        found += arrived
    return found


@every_share
def test_with_all_topics_paused_a_receive_waits_its_time_out(
    connection: Connection, topics: list[str], share: Share
) -> None:
    consumer = connection.consumer(topics, "s", share, ROOM)
    consumer.pause(topics)
    for each in topics:
        send(connection.producer(each), keyed(numbered(10, each)))
    started_s = time.monotonic()
    assert list(consumer.receive(300)) == []
    assert 0.29 <= time.monotonic() - started_s < 5
    consumer.pause([])
    assert len(receive(consumer, 20)) == 20


@every_share
def test_the_only_topic_is_paused(connection: Connection, topic: str, share: Share) -> None:
    consumer = connection.consumer([topic], "s", share, ROOM)
    send(connection.producer(topic), keyed(numbered(100)))
    before = list(consumer.receive(20_000))
    consumer.pause([topic])
    assert rest(consumer) == []
    consumer.pause([])
    assert ids(before + receive(consumer, 100 - len(before))) == numbered(100)


@every_share
def test_a_topic_that_a_consumer_does_not_have_is_not_paused(
    connection: Connection, topics: list[str], share: Share
) -> None:
    consumer = connection.consumer(topics, "s", share, ROOM)
    with pytest.raises(UsageError, match="nothing"):
        consumer.pause(["nothing"])
    with pytest.raises(UsageError):
        consumer.pause(topics[0])


def test_by_key_one_who_pauses_a_topic_holds_up_that_topic_alone(connect: Connect, topics: list[str]) -> None:
    data, signal = topics
    connection = connect()
    pauses = connection.consumer(topics, "s", Share.KEY, ROOM)
    other = connect().consumer(topics, "s", Share.KEY, ROOM)
    pauses.pause([data])
    send(connection.producer(data), keyed(numbered(600, "d")))
    send(connection.producer(signal), keyed(numbered(600, "s")))
    got: dict[str, list[Delivery]] = {"pauses": [], "other": []}

    def take_turns() -> None:
        for name, consumer in (("pauses", pauses), ("other", other)):
            arrived = consumer.receive(20)
            consumer.acknowledge(arrived)
            got[name] += arrived

    def has_all(topic: str) -> bool:
        take_turns()
        return len(of(topic, got["pauses"] + got["other"])) == 600

    until(lambda: has_all(signal), "all signals have come")
    assert of(data, got["pauses"]) == []
    assert of(signal, got["pauses"])
    pauses.pause(())
    until(lambda: has_all(data), "all data has come")
    everything = got["pauses"] + got["other"]
    assert Counter(ids(everything)) == Counter([*numbered(600, "d"), *numbered(600, "s")])
    for key in KEYS:
        for each in topics:
            of_key = of(each, [delivery for delivery in everything if delivery.key == key])
            assert of_key == sorted(of_key)


@every_share
def test_what_waits_for_one_that_pauses_goes_to_the_next_when_it_is_killed(
    connection: Connection, topics: list[str], share: Share, workers: Workers
) -> None:
    workers.start("pauses", topics, share, queue_size=ROOM, paused=topics[:1])
    workers.start("other", topics, share, queue_size=ROOM)
    # Single messages go to whoever is ready, perhaps to the other alone for long: more come until this one had enough.
    with Feed(connection, topics) as feed:
        until(lambda: len(workers.of("pauses", "got")) >= 50, "signals flow")
    assert {event.topic for event in workers.of("pauses", "got")} == {topics[1]}
    workers.kill("pauses")
    workers.all_acknowledged(feed.sent)


@pytest.mark.parametrize("end", ["close", "kill"])
def test_a_stand_by_that_has_paused_a_topic_takes_over_with_it_paused(
    connection: Connection, topics: list[str], workers: Workers, end: str
) -> None:
    data, signal = topics
    workers.start("active", topics, Share.STANDBY)
    standby = connection.consumer(topics, "shared", Share.STANDBY, ROOM)
    standby.pause([data])
    {"close": workers.close, "kill": workers.kill}[end]("active")
    send(connection.producer(data), numbered(50, "d"))
    send(connection.producer(signal), numbered(50, "s"))
    assert ids(receive(standby, 50)) == numbered(50, "s")
    assert rest(standby) == []
    standby.pause(())
    assert ids(receive(standby, 50)) == numbered(50, "d")
