from __future__ import annotations

import json
from typing import Any

import pytest

from edgeserve._broker.base import Share, SubscriptionInfo, TopicInfo
from edgeserve._broker.connections import connect
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.cli.topics import find_target
from edgeserve.errors import UsageError
from tests.broker.helpers import receive, send
from tests.cli.command import at, edgeserve


def listed(address: LocalAddress | PulsarAddress) -> dict[str, Any]:
    run = edgeserve("topics", "--json", *at(address))
    assert (run.returncode, run.stderr) == (0, "")
    return {record["name"]: record for record in map(json.loads, run.stdout.splitlines())}


def make_backlog(address: LocalAddress | PulsarAddress, topic: str) -> None:
    """Three messages: "slow" has two of them still to read, "idle" all."""
    connection = connect(address)
    consumers = [connection.consumer([topic], name, Share.STANDBY, 10) for name in ("slow", "idle")]
    send(connection.producer(topic), ["one", "two", "three"])
    consumers[0].acknowledge(receive(consumers[0], 3)[:1])
    connection.close()


def test_a_backlog_is_what_a_subscription_has_not_acknowledged(
    address: LocalAddress | PulsarAddress, topic: str
) -> None:
    make_backlog(address, topic)
    record = listed(address)[topic]
    backlogs = {one["name"]: (one["backlog_messages"], one["consumers"]) for one in record["subscriptions"]}
    assert backlogs == {"slow": (2, 0), "idle": (3, 0)}
    assert record["size_bytes"] > 0
    assert all(one["backlog_bytes"] is None or one["backlog_bytes"] > 0 for one in record["subscriptions"])


def test_a_live_consumer_is_counted_until_it_leaves(address: LocalAddress | PulsarAddress, topic: str) -> None:
    connection = connect(address)
    try:
        consumer = connection.consumer([topic], "reader", Share.STANDBY, 10)
        send(connection.producer(topic), ["one"])
        receive(consumer, 1)
        assert [one["consumers"] for one in listed(address)[topic]["subscriptions"]] == [1]
    finally:
        connection.close()
    assert [one["consumers"] for one in listed(address)[topic]["subscriptions"]] == [0]


def test_the_table_has_each_name_whole_and_each_subscription_on_a_line(
    address: LocalAddress | PulsarAddress, topic: str
) -> None:
    long_topic = topic + "-of-a-name-that-is-wider-than-any-terminal" * 4
    make_backlog(address, long_topic)
    run = edgeserve("topics", *at(address))
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    (first,) = (number for number, line in enumerate(lines) if long_topic in line)
    assert lines[first].split()[1] == "idle"
    assert lines[first + 1].split()[0] == "slow"


def test_deleting_a_subscription_leaves_the_topic(address: LocalAddress | PulsarAddress, topic: str) -> None:
    make_backlog(address, topic)
    run = edgeserve("topics", "--delete", f"{topic}/idle", *at(address))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", f"deleted {topic}/idle\n")
    assert [one["name"] for one in listed(address)[topic]["subscriptions"]] == ["slow"]


def test_deleting_a_topic_removes_all_it_holds(address: LocalAddress | PulsarAddress, topic: str) -> None:
    make_backlog(address, topic)
    assert edgeserve("topics", "--delete", topic, *at(address)).returncode == 0
    assert topic not in listed(address)


def test_deleting_what_is_read_is_refused(address: LocalAddress | PulsarAddress, topic: str) -> None:
    connection = connect(address)
    try:
        connection.consumer([topic], "reader", Share.STANDBY, 10).receive(100)
        run = edgeserve("topics", "--delete", topic, *at(address))
        assert run.returncode == 2
        assert "in use" in run.stderr
        assert topic in listed(address)
    finally:
        connection.close()


@pytest.mark.parametrize("target", ["{topic}-other", "{topic}/nobody", "{topic}/"])
def test_deleting_what_is_not_there_is_refused(address: LocalAddress | PulsarAddress, topic: str, target: str) -> None:
    make_backlog(address, topic)
    run = edgeserve("topics", "--delete", target.format(topic=topic), *at(address))
    assert (run.returncode, run.stdout) == (2, "")
    assert "there is no topic" in run.stderr
    assert topic in listed(address)


def test_an_empty_broker_is_said_to_be_empty_on_stderr(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("empty")
    run = edgeserve("topics", "--pulsar", f"local://{folder}")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", f"no topics at local://{folder}\n")


def info(name: str, *subscriptions: str) -> TopicInfo:
    return TopicInfo(name, 0, 0, [SubscriptionInfo(one, 0, 0, 0) for one in subscriptions])


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("room", ("room", None)),
        ("room/camera", ("room/camera", None)),
        ("room/door", ("room", "door")),
        ("room/camera/door", ("room/camera", "door")),
        ("room/a/b", ("room", "a/b")),
    ],
)
def test_slashes_are_understood_by_what_there_is(given: str, means: tuple[str, str | None]) -> None:
    assert find_target([info("room", "door", "a/b"), info("room/camera", "door")], given) == means


def test_what_could_be_two_things_is_not_deleted() -> None:
    with pytest.raises(UsageError, match="can't be told"):
        find_target([info("room", "door"), info("room/door")], "room/door")
