from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeserve._broker.base import Connection, Message, Producer, Share
from tests.broker.helpers import ids, receive, send


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files can't be counted here")
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_thousands_of_topics_are_sent_to_and_listed_with_few_files_open(connection: Connection, count: int) -> None:
    before = open_files()
    errors: list[object] = []
    producers: list[Producer] = []
    for number in range(count):
        producers.append(connection.producer(f"topic-{number:05d}"))
        producers[-1].send(Message(f"m{number}".encode()), errors.append)
    for producer in producers:
        producer.close(60_000)
    assert errors == [None] * count
    assert open_files() - before < 1000

    consumer = connection.consumer(["topic-00471", "topic-00999"], "s", Share.STANDBY, 10)
    assert sorted(ids(receive(consumer, 2))) == ["m471", "m999"]
    infos = connection.topics()
    assert [info.name for info in infos] == [f"topic-{number:05d}" for number in range(count)]
    assert {info.messages for info in infos} == {1}
    assert [info.name for info in infos if info.subscriptions] == ["topic-00471", "topic-00999"]


def test_a_topic_may_have_more_subscriptions_than_files_are_kept_open(connection: Connection) -> None:
    send(connection.producer("src"), ["m"])
    names = [f"s{number:02d}" for number in range(80)]
    for name in names:
        connection.consumer(["src"], name, Share.STANDBY, 10).close()
    (info,) = connection.topics()
    assert [subscription.name for subscription in info.subscriptions] == names
    connection.delete("src", None)
    assert connection.topics() == []


@pytest.mark.skipif(os.name == "nt", reason="counts open files as Unix does")
def test_a_producer_that_was_put_aside_goes_on(connection: Connection) -> None:
    first = connection.producer("first")
    send(first, ["one"])
    for number in range(200):
        send(connection.producer(f"other-{number}"), ["x"])
    send(first, ["two"])
    assert ids(receive(connection.consumer(["first"], "s", Share.STANDBY, 10), 2)) == ["one", "two"]
