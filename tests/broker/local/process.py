"""Processes that tests kill. What they do is in a journal of the test's: one line an event, in one order for all.

`python -m tests.broker.local.process send FOLDER JOURNAL NAME TOPIC` sends numbered messages for ever, and notes each
when it is confirmed. `... take FOLDER JOURNAL NAME SHARE TOPIC...` notes what it got before anything else, and what it
acknowledges before it does so: always what came before the last that it got, so that it dies with something in hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from edgeserve._broker import local
from edgeserve._broker.base import Delivery, Message, Share
from edgeserve.address import LocalAddress

ROOT = Path(__file__).parents[3]
IN_FLIGHT = 500


class Journal:
    """One line an event; lines of several processes do not mix."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *facts: str) -> None:
        os.write(self._file, (" ".join(facts) + "\n").encode())

    def events(self) -> list[list[str]]:
        return [line.split(" ") for line in self.path.read_text().splitlines()]

    def has(self, name: str) -> bool:
        """Whether a process has noted anything."""
        text = self.path.read_text()
        return f" {name} " in text or f" {name}\n" in text

    def close(self) -> None:
        os.close(self._file)


def start(what: str, folder: Path, journal: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start one, without waiting for it."""
    command = [sys.executable, "-m", __name__, what, str(folder), str(journal), name, *arguments]
    return subprocess.Popen(command, cwd=ROOT)


def send(folder: str, journal: Journal, name: str, topic: str) -> None:
    producer = local.connect(LocalAddress(folder)).producer(topic)
    room = threading.Semaphore(IN_FLIGHT)
    number = 0
    while True:
        room.acquire()
        message_id = f"{name}:{number}"

        def confirmed(error: object, message_id: str = message_id) -> None:
            assert error is None
            journal.note("confirmed", name, message_id)
            room.release()

        producer.send(Message(message_id.encode() + b" " * 500, key=str(number % 20)), confirmed)
        number += 1


def take(folder: str, journal: Journal, name: str, share: str, topics: Sequence[str]) -> None:
    consumer = local.connect(LocalAddress(folder)).consumer(topics, "shared", Share(share), 200)
    journal.note("ready", name)
    held: Sequence[Delivery] = ()
    while True:
        arrived = consumer.receive(500)
        if arrived:
            journal.note("got", name, *map(fact, arrived))
        if held:
            journal.note("acknowledges", name, *map(fact, held))
            consumer.acknowledge(held)
        held = arrived


def keep(folder: str, journal: Journal, name: str, share: str, topics: Sequence[str]) -> None:
    """Receive, and acknowledge nothing."""
    consumer = local.connect(LocalAddress(folder)).consumer(topics, "shared", Share(share), 200)
    while True:
        arrived = consumer.receive(500)
        if arrived:
            journal.note("got", name, *map(fact, arrived))


def fact(delivery: Delivery) -> str:
    """What the journal says of a message."""
    return f"{delivery.payload.split()[0].decode()}/{delivery.key or ''}"


if __name__ == "__main__":
    _, what, folder, path, name, *rest = sys.argv
    if what == "send":
        send(folder, Journal(path), name, rest[0])
    else:
        {"take": take, "keep": keep}[what](folder, Journal(path), name, rest[0], rest[1:])
