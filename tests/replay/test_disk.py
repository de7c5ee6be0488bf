"""What operators do where their logs can't be written, or not in time."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, DataSource, UsageError, replay
from edgeserve._broker.connections import is_open
from edgeserve._log import writer
from edgeserve._log.folder import LogFolder
from edgeserve._log.reading import find_runs
from edgeserve._log.records import Arrived, Lost, Ran, ServedMany
from edgeserve.replay._columns import Columns
from tests.broker.workers import ROOT, until
from tests.replay.pipelines import compute, said, send
from tests.replay.recorded import only_run


class Disk:
    """Fails, or is slow, as a test says: what log files are written to in place of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.turn = threading.Event()
        self.turn.set()
        self.no_files = False
        disk = self

        class File(FileIO):
            def __init__(self, path: Path, mode: str) -> None:
                if disk.no_files:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                super().__init__(path, mode)

            def write(self, data: Any) -> int:
                disk.turn.wait()
                if disk.room is None:
                    return super().write(data)
                if not disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written = super().write(data[: disk.room])
                disk.room -= written
                return written

        monkeypatch.setattr("edgeserve._log.folder.FileIO", File)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(monkeypatch)
    yield disk
    disk.turn.set()


def wait_for(operator: Compute, condition: Callable[[writer.LogWriter], object], what: str) -> None:
    log: Any = operator._observer
    until(lambda: condition(log._records), what)


def is_idle(log: writer.LogWriter) -> bool:
    return not log._records and not any(fields for *_, fields in log._many)


def test_a_full_disk_costs_records_which_are_counted_and_no_step(
    memory: str, logs: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "edgeserve")
    with compute(memory, logs) as operator:
        for round_ in range(4):
            disk.room = None if round_ % 2 == 0 else 100
            send(memory, 10)
            assert [next(operator) for _ in range(10)] == [b"%d" % number for number in range(10)]
            wait_for(operator, is_idle, "all is written or lost")
        disk.room = None
        lost = operator._observer._records.lost  # type: ignore[union-attr]
        assert lost > 0
    log = replay.load(logs)
    assert (log.runs[0].lost, log.runs[0].was_closed, log.runs[0].torn_bytes) == (lost, True, 0)
    assert len(log.examples) == 20
    warnings = [record.getMessage() for record in caplog.records if "loses records" in record.getMessage()]
    assert len(warnings) == 2, "the first one, and how many there were when it was closed"
    assert f"misses {lost} records" in caplog.text
    with pytest.raises(UsageError, match="misses records"):
        replay.run(log)


def test_what_the_disk_did_not_take_is_told_at_the_end_though_nothing_follows(
    memory: str, logs: Path, disk: Disk
) -> None:
    send(memory, 3)
    with compute(memory, logs) as operator:
        disk.turn.clear()
        assert next(operator) == b"0"
        disk.room = 0
        disk.turn.set()
        wait_for(operator, lambda log: log._unwritten, "something is lost")
        assert [next(operator), next(operator)] == [b"1", b"2"]
        wait_for(operator, is_idle, "all is lost")
        write, log = writer.LogWriter._write, operator._observer._records  # type: ignore[union-attr]

        def then_there_is_room(self: Any, block: list[Any], count: int) -> None:
            disk.room = None if not block else 0
            write(self, block, count)

        log._write = then_there_is_room.__get__(log)  # type: ignore[union-attr]
    records = said(only_run(logs, "worker1"))
    assert [type(each) for each in records] == [Lost]
    assert records[0].records == log.lost  # type: ignore[union-attr]


def test_a_file_that_has_no_head_yet_gets_one_when_there_is_room_again(logs: Path, memory: str, disk: Disk) -> None:
    folder = LogFolder(logs, max_file_bytes=64 * 1024)
    with compute(memory, folder, log_verbose=True, log_filename="r") as operator:
        for room in (None, 0, None):
            with DataSource([bytes(40_000)], memory, "only", topic="in") as source:
                next(source)
            disk.room = room
            next(operator)
            wait_for(operator, is_idle, "all is written or lost")
    assert len(list(logs.iterdir())) > 1
    log = replay.load(logs)
    assert (len(log.examples), log.runs[0].was_closed, log.runs[0].torn_bytes) == (2, True, 0)
    assert log.runs[0].lost > 0


def test_where_there_can_be_no_other_file_the_one_that_is_there_grows(memory: str, logs: Path, disk: Disk) -> None:
    folder = LogFolder(logs, max_file_bytes=64 * 1024)
    with compute(memory, folder, log_verbose=True) as operator:
        disk.no_files = True
        for _ in range(4):
            with DataSource([bytes(40_000)], memory, "only", topic="in") as source:
                next(source)
            next(operator)
            wait_for(operator, is_idle, "all is written")
        disk.no_files = False
        with DataSource([b"small"], memory, "only", topic="in") as source:
            next(source)
        next(operator)
    log = replay.load(logs)
    assert (len(log.examples), log.runs[0].lost, len(list(logs.iterdir()))) == (5, 0, 2)


def test_a_disk_that_takes_no_head_is_said_at_once(memory: str, logs: Path, disk: Disk) -> None:
    disk.room = 10
    with pytest.raises(UsageError, match="No space left"):
        compute(memory, logs)
    assert not is_open(memory)


@pytest.mark.parametrize("verbose", [True, False])
def test_a_disk_that_stands_still_holds_up_no_step_and_the_memory_is_bounded(
    memory: str, logs: Path, disk: Disk, verbose: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MOST_RECORDS", 50)
    monkeypatch.setattr(writer, "_MOST_BYTES", 1000)
    monkeypatch.setattr("edgeserve._log.recording.MOST_FIELDS", 100)
    with compute(memory, logs, log_verbose=verbose) as operator:
        log: Any = operator._observer._records  # type: ignore[union-attr]
        disk.turn.clear()
        send(memory, 300, packing=False)
        assert [next(operator) for _ in range(300)] == [b"%d" % number for number in range(300)]
        assert len(log._records) <= 52
        assert all(len(fields) <= 105 for *_, fields in log._many)
        assert log.lost > 200
        lost = log.lost
        disk.turn.set()
    found = replay.load(logs)
    assert (found.runs[0].lost, found.runs[0].was_closed) == (lost, True)
    assert len(found.examples) <= 100
    records = said(only_run(logs, "worker1"))
    served = sum(len(each.fields) // 5 for each in records if isinstance(each, ServedMany))
    taken = sum(isinstance(each, (Arrived, Ran)) for each in records)
    assert taken + served + lost == 600


def test_a_limit_of_the_system_for_files_costs_records_and_no_step(tmp_path: Path, logs: Path) -> None:
    script = f"""
import resource
from edgeserve import Compute
from edgeserve._broker import connections
from tests.manual_broker import ManualBroker
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
manual = ManualBroker()
connections.connect = lambda address: manual
compute = Compute(lambda only: only, "local://:memory:x", log_path={str(logs)!r}, log_verbose=True)
for number in range(12):
    manual.arrive(str(number), "only", bytes(10_000))
    assert next(compute) == bytes(10_000)
    manual.confirm()
    while compute._observer._records._records:
        pass
compute.close()
print(compute._observer._records.lost)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = find_runs(logs)
    columns = Columns(run)
    assert columns.lost == int(done.stdout) > 0
    assert (run.torn_bytes, columns.ended is not None) == (0, True)
    assert run.files[0].path.stat().st_size <= 60_000
