from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve._broker.base import Connection, Consumer, Share
from edgeserve.errors import UsageError
from tests.broker.helpers import ids, numbered, receive, rest, send
from tests.broker.local.conftest import Open
from tests.broker.workers import until


def stored(connection: Connection, topic: str = "src") -> int | None:
    return next(info.messages for info in connection.topics() if info.name == topic)


def test_messages_are_kept_for_a_first_subscription(connection: Connection) -> None:
    send(connection.producer("src"), numbered(50))
    (info,) = connection.topics()
    assert (info.messages, list(info.subscriptions)) == (50, [])
    assert ids(receive(connection.consumer(["src"], "s", Share.STANDBY, 100), 50)) == numbered(50)


def test_messages_go_when_the_last_subscription_has_acknowledged_them(connection: Connection) -> None:
    first = connection.consumer(["src"], "first", Share.STANDBY, 100)
    second = connection.consumer(["src"], "second", Share.MESSAGE, 100)
    send(connection.producer("src"), numbered(50))
    first.acknowledge(receive(first, 50))
    got = receive(second, 50)
    second.acknowledge(got[:10] + got[20:])
    until(lambda: stored(connection) == 40, "the first ten are gone")
    second.acknowledge(got[10:20])
    until(lambda: stored(connection) == 0, "all are gone")
    (info,) = connection.topics()
    assert info.size_bytes == 0


def test_a_new_subscription_gets_what_another_has_not_acknowledged(connection: Connection) -> None:
    first = connection.consumer(["src"], "first", Share.STANDBY, 100)
    send(connection.producer("src"), numbered(50))
    first.acknowledge(receive(first, 50)[:20])
    first.close()
    assert ids(rest(connection.consumer(["src"], "second", Share.STANDBY, 100))) == numbered(50)[20:]


def test_backlogs_count_what_is_not_acknowledged(connection: Connection) -> None:
    first = connection.consumer(["src"], "first", Share.MESSAGE, 20)
    connection.consumer(["src"], "second", Share.STANDBY, 100).close()
    send(connection.producer("src"), ["x" * 100] * 50)
    first.acknowledge(receive(first, 20)[:5])

    def backlogs() -> list[tuple[object, ...]]:
        (info,) = connection.topics()
        return [tuple(subscription) for subscription in info.subscriptions]

    until(lambda: backlogs() == [("first", 45, 4500, 1), ("second", 50, 5000, 0)], "backlogs are exact")


def test_a_backlog_of_many_slices_is_trimmed(open_broker: Open) -> None:
    connection = open_broker(":memory:trim")
    producer = connection.producer("src")
    for part in range(5):
        send(producer, numbered(10_000, f"{part}-"))
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 500)
    got = 0
    while got < 50_000:
        arrived = consumer.receive(10_000)
        assert arrived
        consumer.acknowledge(arrived)
        got += len(arrived)
    until(lambda: stored(connection) == 0, "all are gone")


# Deleting


def test_a_deleted_subscription_starts_anew(connection: Connection) -> None:
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 100)
    connection.consumer(["src"], "other", Share.STANDBY, 100).close()
    send(connection.producer("src"), numbered(10))
    consumer.acknowledge(receive(consumer, 10))
    with pytest.raises(UsageError, match=r"'s' of topic 'src' is in use by 1 consumer:"):
        connection.delete("src", "s")
    consumer.close()
    connection.delete("src", "s")
    assert ids(receive(connection.consumer(["src"], "s", Share.STANDBY, 100), 10)) == numbered(10)


def test_a_deleted_subscription_keeps_its_other_topics(connection: Connection) -> None:
    for topic in ("a", "b"):
        send(connection.producer(topic), [f"{topic}1", f"{topic}2"])
    consumer = connection.consumer(["a", "b"], "s", Share.STANDBY, 100)
    got = receive(consumer, 4)
    consumer.acknowledge([delivery for delivery in got if delivery.payload in (b"a1", b"b1")])
    consumer.close()
    connection.delete("a", "s")
    assert ids(receive(connection.consumer(["b"], "s", Share.STANDBY, 100), 1)) == ["b2"]


def test_a_deleted_topic_is_gone_with_its_files(open_broker: Open, folder: Path) -> None:
    first = open_broker()
    send(first.producer("src"), numbered(10))
    first.consumer(["src"], "s", Share.STANDBY, 100).close()
    first.close()
    connection = open_broker()
    connection.delete("persistent://public/default/src", None)
    assert connection.topics() == []
    assert not list((folder / "topics").iterdir())
    assert not list((folder / "subscriptions").iterdir())


def test_a_topic_that_is_consumed_is_not_deleted(connection: Connection, open_broker: Open) -> None:
    send(connection.producer("src"), ["one"])
    consumer: Consumer = open_broker().consumer(["src"], "s", Share.KEY, 100)
    with pytest.raises(UsageError, match="in use by 1 consumer"):
        connection.delete("src", None)
    assert ids(receive(consumer, 1)) == ["one"]


def test_a_producer_goes_on_with_a_topic_that_was_deleted(connection: Connection, open_broker: Open) -> None:
    producer = connection.producer("src")
    send(producer, numbered(10, "old"))
    connection.consumer(["src"], "s", Share.STANDBY, 100).close()
    other = open_broker()
    other.delete("src", None)
    assert other.topics() == []
    with pytest.raises(UsageError, match="no topic 'src'"):
        other.delete("src", None)
    send(producer, numbered(3, "new"))
    consumer = other.consumer(["src"], "s", Share.STANDBY, 100)
    assert ids(receive(consumer, 3)) == numbered(3, "new")


def test_what_is_not_there_is_not_deleted(connection: Connection) -> None:
    with pytest.raises(UsageError, match="no topic 'src'"):
        connection.delete("src", None)
    with pytest.raises(UsageError, match="no topic 'src'"):
        connection.delete("src", "s")
    connection.producer("src")
    with pytest.raises(UsageError, match="no subscription 's'"):
        connection.delete("src", "s")
    assert [info.name for info in connection.topics()] == ["src"]
