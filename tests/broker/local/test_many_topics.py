from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeserve._broker.base import Connection, Message, Producer, Share
from tests.broker.helpers import ids, receive, send

COUNT = 10_000


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files can't be counted here")
@pytest.mark.timeout(300)
def test_ten_thousand_topics_are_sent_to_and_listed_with_few_files_open(connection: Connection) -> None:
    before = open_files()
    errors: list[object] = []
    producers: list[Producer] = []
    for number in range(COUNT):
        producers.append(connection.producer(f"topic-{number:05d}"))
        producers[-1].send(Message(f"m{number}".encode()), errors.append)
    for producer in producers:
        producer.close(60_000)
    assert errors == [None] * COUNT
    assert open_files() - before < 1000

    consumer = connection.consumer(["topic-04711", "topic-09999"], "s", Share.STANDBY, 10)
    assert sorted(ids(receive(consumer, 2))) == ["m4711", "m9999"]
    infos = connection.topics()
    assert [info.name for info in infos] == [f"topic-{number:05d}" for number in range(COUNT)]
    assert {info.messages for info in infos} == {1}
    assert [info.name for info in infos if info.subscriptions] == ["topic-04711", "topic-09999"]


@pytest.mark.skipif(os.name == "nt", reason="counts open files as Unix does")
def test_a_producer_that_was_put_aside_goes_on(connection: Connection) -> None:
    first = connection.producer("first")
    send(first, ["one"])
    for number in range(200):
        send(connection.producer(f"other-{number}"), ["x"])
    send(first, ["two"])
    assert ids(receive(connection.consumer(["first"], "s", Share.STANDBY, 10), 2)) == ["one", "two"]
