from __future__ import annotations

from pathlib import Path

import pytest

from edgeserve._broker.base import Share
from edgeserve.errors import BrokerError
from tests.broker.helpers import ids, numbered, receive, send
from tests.broker.local.conftest import Open
from tests.broker.local.process import Journal, start
from tests.broker.workers import until


def test_a_standby_knows_that_it_is_active_before_it_receives(open_broker: Open, folder: Path, tmp_path: Path) -> None:
    connection = open_broker()
    send(connection.producer("src"), numbered(10))
    journal = Journal(tmp_path / "journal")
    holder = start("keep", folder, journal.path, "holder", Share.STANDBY.value, "src")
    until(lambda: any(event[0] == "got" for event in journal.events()), "the holder has all")
    standby = connection.consumer(["src"], "shared", Share.STANDBY, 100)
    assert not standby.is_active
    holder.kill()
    holder.wait()
    until(lambda: standby.is_active, "the stand-by takes over")
    assert ids(receive(standby, 10)) == numbered(10)
    standby.close()
    assert not standby.is_active
    journal.close()


def test_a_consumer_whose_lock_file_was_removed_is_told(open_broker: Open, folder: Path) -> None:
    taken = open_broker().consumer(["src"], "s", Share.MESSAGE, 100)
    for lock in (folder / "processes").iterdir():
        lock.unlink()
    other = open_broker().consumer(["src"], "s", Share.MESSAGE, 100)
    send(open_broker().producer("src"), numbered(10))
    assert ids(receive(other, 10)) == numbered(10)
    other.close()
    with pytest.raises(BrokerError, match="took its consumer of 's' for dead"):
        taken.receive(10_000)


def test_lock_files_of_processes_that_died_are_swept(open_broker: Open, folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    process = start("take", folder, journal.path, "dead", Share.MESSAGE.value, "src")
    until(lambda: journal.has("dead"), "it is ready")
    process.kill()
    process.wait()
    journal.close()
    assert len(list((folder / "processes").iterdir())) == 1
    open_broker()
    (own,) = (folder / "processes").iterdir()
    assert own.name.endswith(".lock")


def test_consumers_of_different_topics_share_a_name_without_meeting(open_broker: Open) -> None:
    connection = open_broker()
    consumers = {topic: connection.consumer([topic], "s", Share.STANDBY, 100) for topic in ("a", "b")}
    both = connection.consumer(["a", "b"], "s", Share.STANDBY, 100)
    for topic in consumers:
        send(connection.producer(topic), [topic])
    assert [ids(receive(consumers[topic], 1)) for topic in ("a", "b")] == [["a"], ["b"]]
    assert not both.is_active
    consumers["a"].close()
    assert not both.is_active
    consumers["b"].close()
    assert both.is_active
    assert sorted(ids(receive(both, 2))) == ["a", "b"]
