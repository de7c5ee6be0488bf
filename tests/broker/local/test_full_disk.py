from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from edgeserve._broker.base import Message, Producer, Share
from edgeserve.errors import DeliveryError
from tests.broker.helpers import ids, numbered, receive, send
from tests.broker.local.conftest import Open
from tests.broker.local.test_kills import check_files
from tests.broker.workers import until


def ballast(disk: Path, leave_bytes: int) -> Path:
    """A file that takes all room but a little."""
    path = disk / "ballast"
    with path.open("wb") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - leave_bytes))
    return path


def outcome(producer: Producer, payload: bytes) -> DeliveryError | None:
    outcomes: list[DeliveryError | None] = []
    producer.send(Message(payload), outcomes.append)  # type: ignore[arg-type]
    until(lambda: outcomes, "an outcome")
    return outcomes[0]


def test_a_full_disk_fails_the_send_with_a_clear_error_and_damages_nothing(open_broker: Open, small_disk: Path) -> None:
    connection = open_broker(small_disk / "broker")
    producer = connection.producer("src")
    stored = numbered(50)
    send(producer, stored)
    filling = ballast(small_disk, 200_000)
    for number in range(100):
        payload = f"big-{number}".ljust(20_000)
        error = outcome(producer, payload.encode())
        if error is not None:
            break
        stored.append(payload)
    assert isinstance(error, DeliveryError)
    assert error.address == f"local://{small_disk / 'broker'}"
    for fact in ("'src'", "is full", "make room"):
        assert fact in str(error)

    filling.unlink()
    send(producer, ["after"])
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 1000)
    assert ids(receive(consumer, len(stored) + 1)) == [*stored, "after"]
    connection.close()
    check_files(small_disk / "broker")


def test_a_consumer_waits_while_the_disk_is_full_and_goes_on_when_there_is_room(
    open_broker: Open, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = open_broker(small_disk / "broker")
    producer = connection.producer("src")
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 10)
    send(producer, numbered(3000))
    first = receive(consumer, 10)
    filling = ballast(small_disk, 0)
    got = list(ids(first))
    with caplog.at_level(logging.WARNING, "edgeserve.broker.local"):
        while arrived := consumer.receive(300):
            got += ids(arrived)
            consumer.acknowledge(arrived)
        assert "the disk" in caplog.text
        assert "is full" in caplog.text
    assert len(got) < 3000
    filling.unlink()
    while len(got) < 3000:
        arrived = consumer.receive(10_000)
        assert arrived
        got += ids(arrived)
        consumer.acknowledge(arrived)
    assert got == numbered(3000)
    consumer.acknowledge(first)
    until(lambda: connection.topics()[0].messages == 0, "all is acknowledged and trimmed")
    connection.close()
    check_files(small_disk / "broker")


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
def test_a_limit_on_the_size_of_files_fails_the_send_and_damages_nothing(open_broker: Open, folder: Path) -> None:
    import resource

    connection = open_broker()
    producer = connection.producer("src")
    send(producer, numbered(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        error = outcome(producer, b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(error, DeliveryError)
    send(producer, ["after"])
    consumer = connection.consumer(["src"], "s", Share.STANDBY, 1000)
    assert ids(receive(consumer, 11)) == [*numbered(10), "after"]
    connection.close()
    check_files(folder)
