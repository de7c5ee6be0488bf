"""What operators do where their logs can't be written, or not in time."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, DataSource, UsageError, replay
from edgeserve._broker.base import Delivery
from edgeserve._broker.connections import is_open
from edgeserve._core.clock import SYSTEM_CLOCK, Now, SystemClock
from edgeserve._core.step import Example, Parcel
from edgeserve._log import writer
from edgeserve._log.folder import LogFiles, LogFolder
from edgeserve._log.head import Head
from edgeserve._log.reading import find_runs
from edgeserve._log.recording import StepLog
from edgeserve._log.records import ENDED, FETCHED, Arrived, Lost, Ran, ServedMany
from edgeserve.replay._columns import Columns
from tests.broker.workers import ROOT, until
from tests.replay.pipelines import compute, pass_on, said, send
from tests.replay.recorded import only_run


class Disk:
    """Fails, or is slow, as a test says: what log files are written to in place of the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.turn = threading.Event()
        self.turn.set()
        self.no_files = False
        self.is_cut_off = False
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

            def truncate(self, size: int | None = None) -> int:
                if disk.is_cut_off:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                return super().truncate(size)

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
    return not log._records and not any(fields for *_, fields in log._many) and not log._in_hand


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
    monkeypatch.setattr(writer.LogWriter, "most_fields", 100)
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


# What else fails


@pytest.mark.parametrize("what", ["packing", "the clock"])
def test_whatever_fails_costs_the_records_at_hand_and_not_those_after_them(
    memory: str, logs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    caplog.set_level(logging.WARNING, "edgeserve")
    failing: list[str] = []
    pack, now = writer.pack_block, SystemClock.now

    def cannot_pack(*args: Any) -> bytes:
        if "packing" in failing:
            raise MemoryError
        return pack(*args)

    class Clock(SystemClock):
        def now(self) -> Now:
            if "the clock" in failing and threading.current_thread().name.startswith("edgeserve-log"):
                raise ValueError("the clock has stopped")
            return now(self)

    monkeypatch.setattr(writer, "pack_block", cannot_pack)
    with compute(memory, logs, clock=Clock()) as operator:
        for failing[:] in ([], [what], []):
            send(memory, 10)
            assert [next(operator) for _ in range(10)] == [b"%d" % number for number in range(10)]
            wait_for(operator, is_idle, "all is written or lost")
        lost = operator._observer._records.lost  # type: ignore[union-attr]
    log = replay.load(logs)
    assert lost > 0
    assert (log.runs[0].lost, log.runs[0].was_closed, len(log.examples)) == (lost, True, 20)
    assert "loses records: " + ("MemoryError" if what == "packing" else "ValueError: the clock") in caplog.text
    assert f"misses {lost} records" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_waits_when_the_logs_thread_has_ended_counts_as_lost(
    memory: str, logs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(self: writer.LogWriter, block: list[Any], count: int) -> None:
        raise SystemExit

    monkeypatch.setattr(writer.LogWriter, "_write", ends)
    with compute(memory, logs) as operator:
        log: Any = operator._observer._records  # type: ignore[union-attr]
        send(memory, 3, packing=False)
        assert [next(operator) for _ in range(3)] == [b"0", b"1", b"2"]
    assert log.lost == 3 + 3 + 1, "what arrived, what was served, and the end"
    assert "misses 7 records" in caplog.text


def test_what_a_disk_that_stands_still_has_not_taken_in_the_time_for_closing_counts_as_lost(
    memory: str, logs: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    operator = compute(memory, logs, close_timeout_ms=100)
    log: Any = operator._observer._records  # type: ignore[union-attr]
    disk.turn.clear()
    send(memory, 3, packing=False)
    assert [next(operator) for _ in range(3)] == [b"0", b"1", b"2"]
    began_s = time.monotonic()
    operator.close()
    assert time.monotonic() - began_s < 5
    assert log.lost == 3 + 3 + 1
    assert "misses 7 records, as the disk does not take them" in caplog.text
    disk.turn.set()
    until(lambda: not log.lost, "the disk goes on, and all is written")
    log._thread.join()
    found = replay.load(logs)
    assert (len(found.examples), found.runs[0].lost, found.runs[0].was_closed) == (3, 0, True)


def step_log(log: writer.LogWriter, **options: bool) -> StepLog:
    return StepLog(log, SYSTEM_CLOCK, **{"payloads": False, "at_once": True} | options)


def log_in(path: Path) -> writer.LogWriter:
    head = Head("r", 1, "op", "Compute", ["in"], [], "compute", {}, "here", 1, 0, has_payloads=False)
    return writer.LogWriter(LogFiles(LogFolder(path), "r", ".compute"), head, SYSTEM_CLOCK, lambda: 10_000)


def pack_of(count: int) -> list[Example]:
    parcel = Parcel(Delivery(None, "in", 1, b"", 1, 1, None, {}))
    parcel.is_pack = True
    return [Example(bytes(16), "only", b"", 1, b"", parcel, b"x") for _ in range(count)]


def test_packs_are_bounded_by_what_they_take_though_no_payloads_are_logged(
    logs: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MOST_BYTES", 1_000_000)
    log = log_in(logs)
    steps = step_log(log)
    disk.turn.clear()
    for _ in range(100):
        steps.received(pack_of(500))
    assert len(log._records) < 25
    assert log.lost > 75
    disk.turn.set()
    log.close((ENDED, 0.0, 0, 0, 0, {}))


def test_a_block_of_packs_is_as_small_as_others(logs: Path, disk: Disk) -> None:
    log = log_in(logs)
    steps = step_log(log)
    disk.turn.clear()
    for _ in range(60):
        steps.received(pack_of(500))
    disk.turn.set()
    log.close((ENDED, 0.0, 0, 0, 0, {}))
    (run,) = find_runs(logs)
    assert max(len(block.records) for block in run.blocks()) <= 12
    assert sum(len(block.records) for block in run.blocks()) == 61


@pytest.mark.parametrize("where", ["task", "gate"])
def test_a_reason_that_quotes_its_input_is_cut(memory: str, logs: Path, where: str) -> None:
    def fail(only: bytes) -> bytes:
        raise ValueError("x" * 1_000_000)

    send(memory, 2)
    options: dict[str, Any] = {"gate_in": fail} if where == "gate" else {}
    task = pass_on if where == "gate" else fail
    with Compute(task, memory, topic_in="in", log_path=logs, on_error="skip", **options) as operator:
        assert [next(operator), next(operator)] == [None, None]
    error = replay.load(logs).steps["error"][0]
    assert error.startswith("ValueError: xxx")
    assert error.endswith("x... (1000012 characters)")
    assert len(error) < 5000
    (file,) = logs.iterdir()
    assert file.stat().st_size < 20_000


def test_a_file_whose_torn_end_can_not_be_cut_off_is_followed_by_another_one(
    memory: str, logs: Path, disk: Disk
) -> None:
    with compute(memory, logs, log_filename="r") as operator:
        for room, is_cut_off, no_files in (
            (None, False, False), (10, True, True), (None, True, True), (None, False, False),
        ):  # fmt: skip
            disk.room, disk.is_cut_off, disk.no_files = room, is_cut_off, no_files
            send(memory, 10)
            assert len([next(operator) for _ in range(10)]) == 10
            wait_for(operator, is_idle, "all is written or lost")
        lost = operator._observer._records.lost  # type: ignore[union-attr]
    assert len(list(logs.iterdir())) == 2
    log = replay.load(logs)
    assert lost > 0
    assert (len(log.examples), log.runs[0].lost, log.runs[0].was_closed) == (20, lost, True)
    assert 0 < log.runs[0].torn_bytes <= 10


def test_an_old_file_that_can_not_be_removed_is_said_and_tried_again(
    logs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = True
    unlink = Path.unlink

    def may_fail(self: Path, missing_ok: bool = False) -> None:
        if refused and self.name == "r.compute":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", may_fail)
    head = Head("r", 1, "op", "Compute", ["in"], [], "compute", {}, "here", 1, 0, has_payloads=True)
    folder = LogFolder(logs, max_file_bytes=64 * 1024, max_bytes=192 * 1024)
    log = writer.LogWriter(LogFiles(folder, "r", ".compute"), head, SYSTEM_CLOCK, lambda: 10_000)

    def add(count: int) -> None:
        for number in range(count):
            log.add((FETCHED, number, bytes(40_000)))
            until(lambda: not log._waiting(), "it is written")

    add(8)
    names = [f"r.{number}.compute" for number in (6, 7, 8)]
    assert sorted(file.name for file in logs.iterdir()) == [*names, "r.compute"]
    assert "the files before it could not be closed or removed: PermissionError" in caplog.text
    assert "as there can be no other file" not in caplog.text
    refused = False
    add(1)
    assert not (logs / "r.compute").exists()
    log.close((ENDED, 0.0, 0, 0, 0, {}))
    assert log.lost == 0
