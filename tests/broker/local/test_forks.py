from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from edgeserve._broker import local
from edgeserve._broker.base import Message, Share
from edgeserve.address import LocalAddress
from edgeserve.errors import BrokerError
from tests.broker.helpers import Feed, ids, numbered, receive, rest, send
from tests.broker.local.conftest import Open
from tests.broker.workers import until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked child. Its pid; it exits with 0 if the work returned."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - told, and no test of the parent's runs on in the child
            print(repr(error), file=sys.stderr)
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_cannot_use_what_it_inherited(open_broker: Open) -> None:
    connection = open_broker()
    producer = connection.producer("src")
    consumer = connection.consumer(["src"], "s", Share.MESSAGE, 10)

    def work() -> None:
        for use in (
            lambda: connection.producer("src"),
            lambda: connection.consumer(["src"], "s", Share.MESSAGE, 10),
            connection.topics,
            lambda: producer.send(Message(b""), lambda _: None),
            lambda: consumer.receive(0),
        ):
            with pytest.raises(BrokerError, match="forked"):
                use()
        consumer.acknowledge([])
        producer.close(0)
        consumer.close()
        connection.close()

    assert exit_code(in_child(work)) == 0
    send(producer, ["one"])
    assert ids(receive(consumer, 1)) == ["one"]


def test_a_child_that_outlives_its_parent_does_not_keep_the_subscription(open_broker: Open, folder: Path) -> None:
    send(open_broker().producer("src"), numbered(10))
    reads, writes = os.pipe()

    def parent() -> None:
        consumer = local.connect(LocalAddress(str(folder))).consumer(["src"], "s", Share.STANDBY, 100)
        receive(consumer, 10)
        pid = os.fork()
        if pid == 0:
            os.close(writes)
            os.read(reads, 1)  # lives until the test says so
            os._exit(0)

    middle = in_child(parent)
    assert exit_code(middle) == 0
    try:
        successor = open_broker().consumer(["src"], "s", Share.STANDBY, 100)
        assert ids(receive(successor, 10)) == numbered(10)
        assert successor.is_active
    finally:
        os.close(reads)
        os.close(writes)


def test_children_work_with_connections_of_their_own(open_broker: Open, folder: Path) -> None:
    connection = open_broker()
    consumer = connection.consumer(["src", "busy"], "s", Share.MESSAGE, 100)
    got: list[str] = []

    def work(name: str) -> None:
        own = local.connect(LocalAddress(str(folder)))
        send(own.producer("src"), numbered(20, name))
        own.close()

    with Feed(connection, ["busy"]) as feed:
        for number in range(15):
            pid = in_child(partial(work, f"{number}-"))
            got += ids(consumer.receive(0))
            assert exit_code(pid) == 0
    got += ids(rest(consumer))
    assert sorted(got) == sorted(feed.sent + [each for number in range(15) for each in numbered(20, f"{number}-")])


def test_the_parent_keeps_what_it_holds_while_children_come_and_go(open_broker: Open) -> None:
    connection = open_broker()
    holder = connection.consumer(["src"], "s", Share.STANDBY, 100)
    send(connection.producer("src"), numbered(10))
    held = receive(holder, 10)
    other = open_broker().consumer(["src"], "s", Share.STANDBY, 100)
    for _ in range(3):
        assert exit_code(in_child(lambda: None)) == 0
        assert other.receive(60) == []
    assert holder.is_active
    assert not other.is_active
    holder.acknowledge(held)
    holder.close()
    until(lambda: other.is_active, "the other takes over")
    assert rest(other) == []


def test_a_fork_does_not_wait_for_a_receive(open_broker: Open) -> None:
    consumer = open_broker().consumer(["src"], "s", Share.STANDBY, 100)
    waiting = threading.Thread(target=consumer.receive, args=(30_000,))
    waiting.start()
    assert exit_code(in_child(lambda: None)) == 0
    assert waiting.is_alive()
    send(open_broker().producer("src"), ["one"])
    waiting.join()
