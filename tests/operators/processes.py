"""Operators in processes of their own, which tests kill.

`python -m tests.operators.processes ROLE JOURNAL OPTIONS` runs one; `Crew` starts, kills and watches them. Examples
are numbered, and what a process did to each is in its journal, written before and after the fact: so the journal of a
process that was killed says what it had in hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeserve import Compute, DataSource, Materialize, Model, Worker
from tests.broker.workers import ROOT, until

_DIGITS = 13
# A letter, a space, the number and the end of the line: the size of a journal says how many lines it has.
_LINE_BYTES = _DIGITS + 3
LAST = 10**_DIGITS - 1
"""The number after which a sink ends."""


def numbered(number: int, size: int = 0) -> bytes:
    """A payload that says its number."""
    return b"%013d" % number + b"." * (size - _DIGITS)


def number_of(payload: bytes) -> int:
    """The number that a payload says."""
    return int(payload[:_DIGITS])


class Journal:
    """What one process notes."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, number: int = 0) -> None:
        """Write down one fact: `ready`, `began`, `finished`, `confirmed` (up to this number), by the first letter."""
        os.write(self._file, b"%c %013d\n" % (ord(what[0]), number))


# What the processes do


def run_source(
    journal: Journal,
    broker: str,
    topic: str,
    *,
    first: int = 0,
    count: int = LAST,
    size: int = 0,
    pause_ms: float = 0,
    note_every: int = 0,
    **options: Any,
) -> None:
    """Send `count` numbers from `first` on, and note how far they are confirmed."""

    def numbers() -> Iterator[bytes]:
        noted = 0
        for number in range(first, first + count):
            stats = source.stats
            if stats.sent - stats.unconfirmed > noted + note_every:
                noted = stats.sent - stats.unconfirmed
                journal.note("confirmed", first + noted - 1)
            if pause_ms:
                time.sleep(pause_ms / 1000)
            yield numbered(number, size)

    source = DataSource(numbers(), broker, "only", topic=topic, **options)
    journal.note("ready")
    source.run()
    journal.note("confirmed", first + source.stats.sent - 1)


def run_batches(journal: Journal, broker: str, topic: str, *, first: int, batch: int, pause_ms: float) -> None:
    """Send numbers, each batch by a source of its own, and note each batch when its source is closed."""
    journal.note("ready")
    while True:
        with DataSource([numbered(number) for number in range(first, first + batch)], broker, "only", topic=topic) as s:
            for _ in s:
                pass
        first += batch
        journal.note("confirmed", first - 1)
        time.sleep(pause_ms / 1000)


def run_compute(
    journal: Journal,
    broker: str,
    topic_in: str,
    topic_out: str,
    *,
    work_ms: float = 0,
    poison: int | None = None,
    **options: Any,
) -> None:
    """Pass on what comes, but fail on `poison`."""

    def work(only: bytes) -> bytes:
        number = number_of(only)
        journal.note("began", number)
        time.sleep(work_ms / 1000)
        if number == poison:
            raise ValueError("poison")
        return only

    compute = Compute(work, broker, topic_in=topic_in, topic_out=topic_out, **options)
    journal.note("ready")
    compute.run()


def run_model(
    journal: Journal, broker: str, topics: dict[str, str], *, unsure_of: int = 0, work_ms: float = 0, **options: Any
) -> None:
    """Answer each number that it is asked about, but ask the next model about every `unsure_of`th."""

    def work(data: bytes, signal: bytes | None = None) -> tuple[bool, bytes]:
        number = number_of(data)
        assert signal is None or number_of(signal) == number
        journal.note("began", number)
        time.sleep(work_ms / 1000)
        return not unsure_of or number % unsure_of != 0, data

    model = Model(work, broker, **topics, **options)  # type: ignore[arg-type] # str, all of them
    journal.note("ready")
    model.run()


def run_sink(journal: Journal, broker: str, topic: str, *, work_ms: float = 0, **options: Any) -> None:
    """Take what comes, until `LAST`."""

    def take(payload: bytes) -> None:
        number = number_of(payload)
        journal.note("began", number)
        time.sleep(work_ms / 1000)
        journal.note("finished", number)
        if number == LAST:
            sink.stop()

    sink = Materialize(take, broker, topic=topic, **options)
    journal.note("ready")
    sink.run()


def run_worker(journal: Journal, broker: str, topic: str, *, key: str, **options: Any) -> None:
    """Run scripts."""
    worker = Worker(broker, topic, key=bytes.fromhex(key), **options)
    journal.note("ready")
    worker.run()


# How a test sees them


class Member:
    """One process, from its start to its end."""

    def __init__(self, role: str, path: Path, options: dict[str, Any]) -> None:
        self._path = path
        path.touch()
        command = [sys.executable, "-m", __name__, role, str(path), json.dumps(options)]
        self.process = subprocess.Popen(command, cwd=ROOT)

    def lines(self) -> int:
        """How much it has noted."""
        return self._path.stat().st_size // _LINE_BYTES

    def noted(self, what: str) -> list[int]:
        """The numbers of which it noted this, in order."""
        lines = self._path.read_text().splitlines()
        return [int(line[2:]) for line in lines if line[0] == what[0]]

    def until_lines(self, count: int, within_s: float = 30) -> None:
        """Wait until it has noted so much."""
        until(lambda: self.lines() >= count or self.process.poll() is not None, f"{count} lines", within_s)
        assert self.lines() >= count, f"it ended with {self.process.returncode}"

    def kill(self) -> None:
        """End it as a crash would, wherever it is."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}"
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Have it end in order."""
        self.process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self, within_s: float = 30) -> None:
        """Wait until it has ended in order."""
        assert self.process.wait(within_s) == 0


class Crew:
    """The processes of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: list[Member] = []

    def start(self, role: str, *, wait: bool = True, **options: Any) -> Member:
        """Start one, and wait until its operator is open."""
        member = Member(role, self._folder / f"journal-{len(self._members)}-{role}", options)
        self._members.append(member)
        if wait:
            member.until_lines(1)
        return member

    def close(self) -> None:
        """End those that still run."""
        for member in self._members:
            if member.process.poll() is None:
                member.process.kill()
            member.process.wait()


def until_finished(sinks: Sequence[Member], numbers: set[int]) -> None:
    """Wait until these sinks have taken all these numbers."""
    give_up_s = time.monotonic() + 30 + len(numbers) / 200
    while left := numbers.difference(finished(sinks)):
        assert time.monotonic() < give_up_s, f"{len(left)} of {len(numbers)} have not come, {sorted(left)[:5]} first"
        time.sleep(0.1)  # to look is not cheap


def finished(sinks: Sequence[Member]) -> list[int]:
    """What these sinks have taken, one after the other."""
    return [number for sink in sinks for number in sink.noted("finished")]


if __name__ == "__main__":
    _, role, path, given = sys.argv
    roles = {
        "source": run_source,
        "batches": run_batches,
        "compute": run_compute,
        "model": run_model,
        "sink": run_sink,
        "worker": run_worker,
    }
    roles[role](Journal(path), **json.loads(given))
