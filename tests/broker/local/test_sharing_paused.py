"""What the consumers beside one that has paused a topic get of it."""

from __future__ import annotations

import time

import pytest

from edgeserve._broker.base import Delivery, Share
from tests.broker.helpers import ids, keyed, numbered, receive, rest, send
from tests.broker.local.conftest import Open

TOPICS = ["data", "signal"]
ROOM = 20


def test_message_by_message_others_take_what_one_has_paused(open_broker: Open) -> None:
    pauses = open_broker().consumer(TOPICS, "s", Share.MESSAGE, ROOM)
    other = open_broker().consumer(["data"], "s", Share.MESSAGE, ROOM)
    pauses.pause(["data"])
    for each in TOPICS:
        send(open_broker().producer(each), numbered(100, each))
    assert ids(receive(pauses, 100)) == numbered(100, "signal")
    assert ids(receive(other, 100)) == numbered(100, "data")


def test_by_key_one_who_has_paused_a_topic_is_assigned_no_more_of_it_than_its_room(open_broker: Open) -> None:
    pauses = open_broker().consumer(TOPICS, "s", Share.KEY, ROOM)
    other = open_broker().consumer(TOPICS, "s", Share.KEY, ROOM)
    pauses.pause(["data"])
    got: list[Delivery] = []
    for turn in range(10):  # signals in between, so that it goes on fetching
        for each in TOPICS:
            send(open_broker().producer(each), keyed(numbered(60, f"{each}-{turn}-")))
        for consumer in (other, pauses, other):
            got += rest(consumer, quiet_ms=50)
    assert len([each for each in got if each.topic == "signal"]) == 600
    # The rest of the data is nobody's yet: a consumer that comes now gets its part.
    newcomer = open_broker().consumer(TOPICS, "s", Share.KEY, 1000)
    pauses.close()
    data = ids(each for each in got if each.topic == "data")
    assert len(data) < 150, "its room is full, and what is behind waits"
    for consumer in (other, newcomer, other, newcomer):
        data = [*data, *ids(each for each in rest(consumer) if each.topic == "data")]
    assert len(set(data)) == len(data) == 600


@pytest.mark.parametrize("share", [Share.KEY, Share.MESSAGE])
def test_what_is_given_back_while_nothing_else_happens_comes_at_once(open_broker: Open, share: Share) -> None:
    consumer = open_broker().consumer(["data"], "s", share, ROOM)
    send(open_broker().producer("data"), keyed(numbered(10)))
    got = receive(consumer, 10)
    assert rest(consumer) == []
    started_s = time.monotonic()
    consumer.give_back(got)
    assert ids(receive(consumer, 10)) == numbered(10)
    assert time.monotonic() - started_s < 0.5
