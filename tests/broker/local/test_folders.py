from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from edgeserve._broker.base import Connection, Message, Share
from edgeserve._broker.local.database import APPLICATION_ID
from edgeserve.errors import BrokerError, UsageError
from tests.broker.helpers import ids, receive, send
from tests.broker.local.conftest import Open


def test_a_folder_is_made_with_all_above_it(open_broker: Open, tmp_path: Path) -> None:
    send(open_broker(tmp_path / "a" / "b c" / "d").producer("src"), ["one"])


@pytest.mark.parametrize("below", ["", "broker"])
def test_a_file_is_no_folder(open_broker: Open, tmp_path: Path, below: str) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(BrokerError, match="expected a folder") as raised:
        open_broker(path / below)
    assert raised.value.address == f"local://{path / below}"


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="no folder is closed to this user")
def test_a_folder_that_may_not_be_written_to_is_an_error_that_says_what_to_do(
    open_broker: Open, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(BrokerError, match="EDGESERVE_HOME"):
            open_broker(tmp_path / "broker")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(open_broker: Open) -> None:
    with pytest.raises(BrokerError, match="EDGESERVE_HOME") as raised:
        open_broker("/proc/edgeserve")
    assert raised.value.address == "local:///proc/edgeserve"


def _topic_file(folder: Path) -> Path:
    (path,) = (folder / "topics").glob("*.db")
    return path


def test_a_file_that_is_no_database_is_told_of(open_broker: Open, folder: Path) -> None:
    first = open_broker()
    first.producer("src")
    first.close()
    _topic_file(folder).write_text("not a database, but long enough to be taken for one" * 100)
    with pytest.raises(BrokerError, match="not made by the local broker"):
        open_broker().producer("src")


def test_a_database_of_somebody_elses_is_left_alone(open_broker: Open, folder: Path) -> None:
    first = open_broker()
    first.producer("src")
    first.close()
    path = _topic_file(folder)
    path.unlink()
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE theirs (x)")
    theirs.close()
    with pytest.raises(BrokerError, match="no file of the local broker"):
        open_broker().producer("src")


def test_a_file_of_another_format_is_told_of(open_broker: Open, folder: Path) -> None:
    first = open_broker()
    send(first.producer("src"), ["one"])
    first.close()
    file = sqlite3.connect(_topic_file(folder))
    assert file.execute("PRAGMA application_id").fetchall() == [(APPLICATION_ID,)]
    file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(BrokerError, match="has format 99"):
        open_broker().consumer(["src"], "s", Share.MESSAGE, 10)


def test_a_send_to_a_broken_topic_fails_with_the_reason(open_broker: Open, folder: Path) -> None:
    first = open_broker()
    first.producer("src")
    first.close()
    connection = open_broker()
    producer = connection.producer("src")
    other = connection.producer("other")
    for number in range(70):  # more than a connection keeps open
        connection.producer(f"more-{number}")
    (path,) = (folder / "topics").glob("src-*.db")
    path.write_text("not a database, but long enough to be taken for one" * 100)
    errors: list[BrokerError | None] = []
    producer.send(Message(b"lost"), errors.append)
    producer.close(10_000)
    assert "not made by the local broker" in str(errors[0])
    send(other, ["fine"])


def test_what_is_stored_is_there_after_a_restart(open_broker: Open) -> None:
    first = open_broker(sync_full=True)
    send(first.producer("src"), ["one", "two"])
    first.close()
    assert ids(receive(open_broker().consumer(["src"], "s", Share.STANDBY, 10), 2)) == ["one", "two"]


def test_a_closed_connection_refuses_work(connection: Connection) -> None:
    producer = connection.producer("src")
    consumer = connection.consumer(["src"], "s", Share.MESSAGE, 10)
    connection.close()
    connection.close()
    for use in (
        lambda: connection.producer("src"),
        lambda: connection.consumer(["src"], "s", Share.MESSAGE, 10),
        connection.topics,
        lambda: connection.delete("src", None),
        lambda: producer.send(Message(b""), lambda _: None),
        lambda: consumer.receive(0),
    ):
        with pytest.raises(BrokerError, match="closed"):
            use()


@pytest.mark.parametrize(("topics", "queue_size"), [([], 10), (["src"], 0)])
def test_a_consumer_needs_a_topic_and_room(connection: Connection, topics: list[str], queue_size: int) -> None:
    with pytest.raises(UsageError, match="expected at least"):
        connection.consumer(topics, "s", Share.MESSAGE, queue_size)
