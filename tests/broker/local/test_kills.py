"""Processes killed at any moment; each message is accounted for by its id."""

from __future__ import annotations

import itertools
import random
import sqlite3
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edgeserve._broker.base import Message, Share
from tests.broker.helpers import rest
from tests.broker.helpers import send as send_all
from tests.broker.local.conftest import Open
from tests.broker.local.process import Journal, start
from tests.broker.workers import until

MESSAGES = 20_000
KILLS = 30
CONSUMERS = 3


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


class Crowd:
    """Processes that are started, and killed one after the other."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self._folder = folder
        self._journal = journal
        self._names = itertools.count()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def add(self, what: str, *arguments: str) -> str:
        name = f"{what}-{next(self._names)}"
        self._running[name] = start(what, self._folder, self._journal.path, name, *arguments)
        return name

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        assert process.poll() is None, f"{name} ended by itself"
        self._journal.note("killed", name)  # before others can notice
        process.kill()
        process.wait()

    def kill_any(self, dice: random.Random) -> None:
        self.kill(dice.choice(sorted(self._running)))

    def end(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


@pytest.fixture
def crowd(folder: Path, journal: Journal) -> Iterator[Crowd]:
    crowd = Crowd(folder, journal)
    yield crowd
    crowd.end()


def check_files(folder: Path) -> None:
    """Every database is whole."""
    for path in folder.glob("*/*.db"):
        file = sqlite3.connect(path)
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
        file.close()


@pytest.mark.timeout(180)
def test_what_is_confirmed_survives_kills_in_the_middle_of_commits(
    open_broker: Open, folder: Path, journal: Journal, crowd: Crowd
) -> None:
    dice = random.Random(7)
    for _ in range(10):
        names = [crowd.add("send", "src") for _ in range(2)]
        names.append(crowd.add("take", Share.MESSAGE.value, "src"))
        for name in names:
            until(partial(journal.has, name), f"{name} is at work")
        time.sleep(dice.random() / 10)  # a moment of no meaning: it may be within a commit
        for name in names:
            crowd.kill(name)
        check_files(folder)
    confirmed = {event[2] for event in journal.events() if event[0] == "confirmed"}
    acknowledged = {
        fact.split("/")[0] for event in journal.events() if event[0] == "acknowledges" for fact in event[2:]
    }
    left = [
        delivery.payload.split()[0].decode()
        for delivery in rest(open_broker().consumer(["src"], "shared", Share.STANDBY, 1000), 500)
    ]
    assert len(left) == len(set(left)), "something is stored twice"
    assert confirmed - acknowledged <= set(left)
    assert len(confirmed) > 1000
    # All that one sender sent is still in its order.
    numbers = defaultdict(list)
    for message_id in left:
        name, number = message_id.split(":")
        numbers[name].append(int(number))
    assert all(each == sorted(each) for each in numbers.values())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
def test_nothing_is_lost_while_consumers_are_killed_and_join(
    share: Share, open_broker: Open, folder: Path, journal: Journal, crowd: Crowd
) -> None:
    dice = random.Random(share.value)
    topics = ["data", "signal"]
    for _ in range(CONSUMERS):
        crowd.add("take", share.value, *topics)
    connection = open_broker()
    producers = [connection.producer(topic) for topic in topics]
    sent: list[str] = []
    part = MESSAGES // KILLS // len(topics)
    for kill in range(KILLS + 1):
        count = part if kill < KILLS else MESSAGES // len(topics) - part * KILLS
        for topic, producer in zip(topics, producers, strict=True):
            numbers = range(part * kill, part * kill + count)
            send_all(producer, [Message(f"{topic}:{number}".encode(), key=str(number % 50)) for number in numbers])
            sent += [f"{topic}:{number}" for number in numbers]
        if kill < KILLS:
            name = crowd.add("take", share.value, *topics)
            until(partial(journal.has, name), f"{name} is ready")
            crowd.kill_any(dice)
    assert len(sent) == MESSAGES

    def backlog() -> int:
        return sum(each.backlog_messages for info in connection.topics() for each in info.subscriptions)

    until(lambda: backlog() == 0, "all is acknowledged")
    acknowledged = {
        fact.split("/")[0] for event in journal.events() if event[0] == "acknowledges" for fact in event[2:]
    }
    assert acknowledged == set(sent)
    check_files(folder)
    if share is Share.STANDBY:
        assert out_of_order(journal.events()) == []
    if share is Share.KEY:
        assert held_by_two(journal.events()) == []


def out_of_order(events: list[list[str]]) -> list[tuple[str, str]]:
    """What a consumer got before something of the same topic that was sent earlier."""
    last: dict[tuple[str, str], int] = {}
    found = []
    for what, name, *facts in events:
        for fact in facts if what == "got" else ():
            topic, number = fact.split("/")[0].split(":")
            if int(number) <= last.get((name, topic), -1):
                found.append((name, fact))
            last[name, topic] = int(number)
    return found


def held_by_two(events: list[list[str]]) -> list[tuple[str, str, str]]:
    """What a consumer got while another that lived had something of the same key."""
    held: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    killed: set[str] = set()
    found = []
    for what, name, *facts in events:
        if what == "killed":
            killed.add(name)
            for holders in held.values():
                holders.pop(name, None)
        for fact in facts if name not in killed else ():
            message_id, key = fact.split("/")
            if what == "acknowledges":
                held[key][name].discard(message_id)
            else:
                found += [(message_id, name, other) for other, ids in held[key].items() if ids and other != name]
                held[key][name].add(message_id)
    return found
