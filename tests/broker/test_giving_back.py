"""Giving back what was received: it comes again, to whoever its key belongs to then."""

from __future__ import annotations

from collections import Counter

import pytest

from edgeserve._broker.base import Connection, Delivery, Share
from edgeserve.errors import UsageError
from tests.broker.helpers import KEYS, Connect, ids, keyed, numbered, receive, rest, send
from tests.broker.workers import until

by_key_or_message = pytest.mark.parametrize("share", [Share.KEY, Share.MESSAGE], ids=lambda share: share.value)
SOON_MS = 2000


@by_key_or_message
def test_what_is_given_back_comes_again_and_the_rest_does_not(connection: Connection, topic: str, share: Share) -> None:
    topics = [f"{topic}-a", f"{topic}-b"]
    consumer = connection.consumer(topics, "s", share, 100)
    for each in topics:
        send(connection.producer(each), keyed(numbered(20, each)))
    got = receive(consumer, 40)
    first_time = {delivery.payload: (delivery.message_id, delivery.topic, delivery.key) for delivery in got}
    kept, back = got[::2], got[1::2]
    consumer.give_back(back)
    again = receive(consumer, len(back), within_ms=SOON_MS)
    assert Counter(ids(again)) == Counter(ids(back))
    assert {each.payload: (each.message_id, each.topic, each.key) for each in again}.items() <= first_time.items()
    consumer.acknowledge([*kept, *again])
    assert rest(consumer) == []
    consumer.close()
    assert rest(connection.consumer(topics, "s", share, 100)) == []


@by_key_or_message
@pytest.mark.parametrize("others", [0, 1])
def test_acknowledging_what_was_given_back_does_nothing(
    connection: Connection, topic: str, share: Share, others: int
) -> None:
    consumer = connection.consumer([topic, f"{topic}-other"][: 1 + others], "s", share, 100)
    send(connection.producer(topic), keyed(numbered(20)))
    got = receive(consumer, 20)
    consumer.give_back(got)
    consumer.acknowledge(got)
    consumer.give_back(got)
    again = receive(consumer, 20, within_ms=SOON_MS)
    assert sorted(ids(again)) == numbered(20)
    consumer.acknowledge(got)
    assert rest(consumer, quiet_ms=600) == []
    consumer.close()
    successor = connection.consumer([topic], "s", share, 100)
    assert sorted(ids(receive(successor, 20))) == numbered(20)


def test_what_is_given_back_goes_to_the_one_its_key_belongs_to_now(connect: Connect, topic: str) -> None:
    connection = connect()
    topics = [f"{topic}-a", f"{topic}-b"]
    first = connection.consumer(topics, "s", Share.KEY, 100)
    for each in topics:
        send(connection.producer(each), keyed(numbered(40, each)))
    held = receive(first, 80)
    second = connect().consumer(topics, "s", Share.KEY, 100)
    assert rest(second) == []
    first.give_back(held)
    got: dict[str, list[Delivery]] = {"first": [], "second": []}

    def has_all() -> bool:
        got["first"] += first.receive(20)
        got["second"] += second.receive(20)
        return len(got["first"]) + len(got["second"]) == 80

    until(has_all, "all have come again", within_s=SOON_MS / 1000)
    assert Counter(ids(got["first"] + got["second"])) == Counter(ids(held))
    keys = [{delivery.key for delivery in each} for each in got.values()]
    assert keys[0] | keys[1] == set(KEYS)
    assert not keys[0] & keys[1]
    assert all(keys)
    for each in got.values():
        for name in topics:
            for key in KEYS:
                of_key = [str(message) for message in ids(d for d in each if (d.topic, d.key) == (name, key))]
                assert of_key == sorted(of_key)


def test_what_is_given_back_of_a_paused_topic_waits(connection: Connection, topic: str) -> None:
    topics = [f"{topic}-a", f"{topic}-b"]
    consumer = connection.consumer(topics, "s", Share.KEY, 100)
    for each in topics:
        send(connection.producer(each), keyed(numbered(20, each)))
    got = receive(consumer, 40)
    consumer.pause(topics[:1])
    consumer.give_back(got)
    assert sorted(ids(receive(consumer, 20, within_ms=SOON_MS))) == numbered(20, topics[1])
    assert rest(consumer) == []
    consumer.pause(())
    assert sorted(ids(receive(consumer, 20, within_ms=SOON_MS))) == numbered(20, topics[0])


def test_who_has_a_subscription_for_itself_gives_nothing_back(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "s", Share.STANDBY, 10)
    send(connection.producer(topic), ["m"])
    got = receive(consumer, 1)
    with pytest.raises(UsageError, match="for itself"):
        consumer.give_back(got)
    consumer.acknowledge(got)
    consumer.close()
    assert rest(connection.consumer([topic], "s", Share.STANDBY, 10)) == []


def test_a_closed_consumer_gives_nothing_back(connection: Connection, topic: str) -> None:
    consumer = connection.consumer([topic], "s", Share.KEY, 10)
    send(connection.producer(topic), ["m"])
    got = receive(consumer, 1)
    consumer.close()
    consumer.give_back(got)
    assert ids(receive(connection.consumer([topic], "s", Share.KEY, 10), 1)) == ["m"]
