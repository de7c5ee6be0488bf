"""`edgeserve top`, and what it asks processes for."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from edgeserve import DataSource, _status, _watch
from edgeserve._broker.local.locks import FileLock
from edgeserve._status import ask, read_statuses, status_folder
from edgeserve.cli.top import operators_table
from edgeserve.testing import memory_broker
from tests.broker.workers import ROOT, until
from tests.cli.command import edgeserve, start_edgeserve

PIPELINE = """
import sys, threading
from edgeserve import Compute, DataSource, Materialize, run

def numbers():
    pause = threading.Event()
    while not pause.wait(0.002):
        yield b"x"

broker = "local://:memory:room"
source = DataSource(numbers(), broker, "cam")
double = Compute(lambda cam: cam * 2, broker, "double")
sink = Materialize(len, broker, sink_id="display", idle_timeout_ms=60_000)
print("ready", flush=True)
run(source, double, sink)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of the test's own: what it asks, no other process is asked."""
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def pipeline(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Three operators in a process of their own."""
    command = [sys.executable, "-W", "error", "-c", PIPELINE]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def names() -> list[str]:
    ask()
    return [operator["operator"] for operator in read_statuses()]


def test_the_operators_of_another_process_are_shown_with_their_rates_and_durations(
    pipeline: subprocess.Popen[str],
) -> None:
    shown = edgeserve("top", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    found = {operator["operator"]: operator for operator in map(json.loads, shown.stdout.splitlines())}
    assert {name: operator["class"] for name, operator in found.items()} == {
        "cam": "DataSource",
        "display": "Materialize",
        "double": "Compute",
    }
    double = found["double"]
    assert double["pid"] == pipeline.pid
    assert (double["topics_in"], double["topics_out"]) == (["src"], ["dst"])
    assert double["received"] == sum(double["fates"].values()) + double["held"]
    assert double["received_per_s"] > 0
    assert double["sent_per_s"] > 0
    assert 0 < double["step_p50_ms"] <= double["step_p99_ms"]
    assert double["end_to_end_p50_ms"] > double["step_p50_ms"]
    assert double["fetch_p50_ms"] is None, "nothing was fetched"
    assert found["cam"]["step_p50_ms"] > 0


def test_a_table_is_shown_once_where_there_is_no_terminal(pipeline: subprocess.Popen[str]) -> None:
    shown = edgeserve("top")
    assert shown.returncode == 0
    heading, *rows = [line.split() for line in shown.stdout.splitlines() if line.strip(" ─")]
    assert heading[:4] == ["operator", "class", "pid", "topics"]
    assert [row[:3] for row in rows] == [
        ["cam", "DataSource", str(pipeline.pid)],
        ["display", "Materialize", str(pipeline.pid)],
        ["double", "Compute", str(pipeline.pid)],
    ]


def test_a_process_that_was_killed_disappears_and_leaves_nothing(pipeline: subprocess.Popen[str]) -> None:
    until(lambda: "double" in names(), "the operators are shown")
    pipeline.kill()
    pipeline.wait()
    assert names() == []
    assert [path.name for path in status_folder().iterdir()] == ["watched"]


def test_nobody_is_a_line_on_stderr(home: Path) -> None:
    shown = edgeserve("top", "--once")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert f"no operator is open in a process of this user's that has {home}" in shown.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")
def test_ctrl_c_ends_it_with_130(home: Path) -> None:
    process = start_edgeserve("top", "--once")
    until((status_folder() / "watched").exists, "it has asked")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals of this kind")
def test_on_a_terminal_it_goes_on_until_it_is_interrupted(pipeline: subprocess.Popen[str]) -> None:
    ours, its = os.openpty()
    command = [sys.executable, "-W", "error", "-m", "edgeserve", "top"]
    environment = {**os.environ, "COLUMNS": "200", "TERM": "xterm"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        try:
            seen = b""
            while b"display" not in seen:
                seen += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            while b"interrupted" not in seen:
                seen += os.read(ours, 4096)
            assert process.wait(30) == 130
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize("width", [80, 200])
def test_a_table_fits_its_terminal_and_shows_everything(width: int) -> None:
    times_ms = {"step_p50_ms": 0.0312, "step_p99_ms": 4.04, "end_to_end_p50_ms": 99.6, "end_to_end_p99_ms": 61_000.0}
    operator = {
        "pid": 4_194_303,
        "operator": "wrist-left\x1b",
        "class": "Compute",
        "topics_in": ["acc", "gyro"],
        "topics_out": ["dst"],
        "received_per_s": 12_345.6,
        "sent_per_s": 0.44,
        "queued": 11,
        "held": 22,
        "unconfirmed": 33,
        "fates": {"used": 1000, "too old": 7},
        "silent_s": 12.3,
        **times_ms,
    }
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(operators_table([operator], width))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    words = " ".join(printed.split())
    for shown in ("wrist-left\\x1b", "silent", "Compute", "4194303", "acc,", "gyro →", "12,346", "0.4"):
        assert shown in words
    for shown in ("31 µs", "4.0 ms", "100 ms", "61 s", "11", "22", "33", "1,000 used"):
        assert shown in words


# What a process does for it


@pytest.fixture
def writer(home: Path) -> Iterator[_status._Writer]:
    """What writes of this process's operators, whose thread the test is."""
    made = _status._Writer()
    yield made
    made.close()


def test_nothing_is_written_and_nothing_measured_when_nobody_watches(writer: _status._Writer, home: Path) -> None:
    with DataSource([b"x"], memory_broker(), "cam") as source:
        writer.tick()
        next(source)
        writer.tick()
        (reading,) = _watch.readings().values()
    assert reading.step.count == 0
    assert list(home.iterdir()) == []


def test_what_was_written_is_removed_and_nothing_measured_when_nobody_watches_any_more(
    writer: _status._Writer,
) -> None:
    with DataSource([b"x"] * 2, memory_broker(), "cam") as source:
        ask()
        writer.tick()
        next(source)
        assert [operator["operator"] for operator in read_statuses()] == ["cam"]
        os.utime(status_folder() / "watched", (0, 0))
        writer.tick()
        next(source)
        (reading,) = _watch.readings().values()
    assert reading.step.count == 1
    assert [path.name for path in status_folder().iterdir()] == ["watched"]


def test_rates_are_there_at_the_second_look(writer: _status._Writer) -> None:
    with DataSource([b"x"] * 3, memory_broker(), "cam") as source:
        ask()
        writer.tick()
        (first,) = read_statuses()
        for _ in source:
            pass
        writer.tick()
        (second,) = read_statuses()
    assert (first["received_per_s"], first["step_p50_ms"]) == (None, None)
    assert second["received_per_s"] > 0
    assert second["step_p50_ms"] > 0
    assert (second["received"], second["fates"]) == (3, {"used": 3})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "edgeserve-top"]


def test_there_is_one_thread_while_operators_are_open_and_none_afterwards() -> None:
    broker = memory_broker()
    with DataSource([], broker, "cam"), DataSource([], broker, "imu"):
        assert len(threads()) == 1
    until(lambda: not threads(), "the thread has ended")


def test_a_process_may_decline_to_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    until(lambda: not threads(), "the threads of earlier tests have ended")
    monkeypatch.setenv("EDGESERVE_TOP", "off")
    with DataSource([], memory_broker(), "cam"):
        assert threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_watched_by_itself_and_takes_nothing_from_its_parent(home: Path) -> None:
    with DataSource([], memory_broker(), "cam"):
        until(lambda: names() == ["cam"], "the parent is shown")
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            inherited = len(threads())
            with DataSource([], memory_broker(), "child"):
                os.write(writes, b"%d" % inherited)
                signal.pause()
        assert os.read(reads, 1) == b"0"
        until(lambda: names() == ["cam", "child"], "both are shown")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        until(lambda: names() == ["cam"], "the parent is shown, and the child is not")
        os.close(reads)
        os.close(writes)
    until(lambda: names() == [], "nobody is shown")


def test_an_operator_that_is_opened_while_the_last_one_closes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = memory_broker()
    opened: list[DataSource] = []
    really = _watch.closed

    def closed(watched: _watch.Watched) -> None:
        really(watched)
        if not opened:  # as another thread may, at this moment
            opened.append(DataSource([], broker, "next"))

    monkeypatch.setattr(_watch, "closed", closed)
    DataSource([], broker, "cam").close()
    until(lambda: names() == ["next"], "it is shown")
    opened[0].close()
    until(lambda: not threads(), "the thread has ended")


# Whose folder it is

not_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="folders have no owners or modes there")


@pytest.fixture(params=["anybody may write to it", "a link", "somebody else's", "a file"])
def bad_folder(request: pytest.FixtureRequest, home: Path) -> Path:
    """A folder as somebody else may have made it, who waits for statuses in it."""
    folder = status_folder()
    made = home / "made" if request.param == "a link" else folder
    made.mkdir()
    (made / "watched").touch()
    if request.param == "anybody may write to it":
        made.chmod(0o770)
    elif request.param == "a link":
        folder.symlink_to(made)
    elif request.param == "a file":
        (made / "watched").unlink()
        made.rmdir()
        made.touch()
    elif os.getuid() == 0:
        os.chown(made, 12345, -1)
    else:
        pytest.skip("only root can give a folder away")
    return folder


@not_on_windows
def test_nothing_is_read_or_written_in_a_folder_that_is_not_this_users_alone(
    writer: _status._Writer, bad_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(bad_folder.glob("*"))
    monkeypatch.setattr(_status, "LOOK_S", 0.01)
    monkeypatch.setattr(_status._state, "has_said_why", False)
    until(lambda: not threads(), "the threads of earlier tests have ended")
    with DataSource([b"x"] * 2, memory_broker(), "cam") as source:
        for _ in range(2):
            next(source)
            with pytest.raises(_status.FolderRefused):
                writer.tick()
        until(lambda: any(record.name == "edgeserve.top" for record in caplog.records), "the thread has said it")
        (reading,) = _watch.readings().values()
    assert reading.step.count == 0
    assert sorted(bad_folder.glob("*")) == before
    with pytest.raises(OSError, match=str(bad_folder)):
        ask()
    with pytest.raises(_status.FolderRefused):
        read_statuses()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "edgeserve.top"]
    assert said.startswith(f"`edgeserve top` does not show this process: {bad_folder}") or str(bad_folder) in said
    shown = edgeserve("top", "--once")
    assert shown.returncode != 0
    assert f"the operators can't be asked through {bad_folder}" in " ".join(shown.stderr.split())


@not_on_windows
def test_a_folder_that_becomes_anybodys_is_written_to_no_more(writer: _status._Writer) -> None:
    with DataSource([b"x"], memory_broker(), "cam") as source:
        ask()
        writer.tick()
        assert len(list(status_folder().glob("*.json"))) == 1
        status_folder().chmod(0o777)
        with pytest.raises(_status.FolderRefused):
            writer.tick()
        assert [path.name for path in status_folder().iterdir()] == ["watched"]
        next(source)
        (reading,) = _watch.readings().values()
    assert reading.step.count == 0


@not_on_windows
def test_no_file_is_written_through_a_link(writer: _status._Writer, home: Path) -> None:
    precious = home / "precious"
    precious.write_text("precious")
    with DataSource([b"x"], memory_broker(), "cam"):
        ask()
        writer.tick()
        (lock,) = status_folder().glob("*.lock")
        lock.with_suffix(".new").symlink_to(precious)
        writer.tick()
        assert [operator["operator"] for operator in read_statuses()] == ["cam"]
    assert precious.read_text() == "precious"
    link = home / "link.lock"
    link.symlink_to(home / "made-through-it")
    with pytest.raises(FileExistsError):
        FileLock(link, is_new=True).acquire()
    assert not (home / "made-through-it").exists()


@pytest.mark.parametrize("status", ['{"version": 2}', '{"pid": 1}', "[", '"text"'])
def test_a_status_of_another_version_is_not_shown(writer: _status._Writer, status: str) -> None:
    with DataSource([], memory_broker(), "cam"):
        ask()
        writer.tick()
        (path,) = status_folder().glob("*.json")
        path.write_text(status)
        assert read_statuses() == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_not_shown(writer: _status._Writer) -> None:
    with DataSource([], memory_broker(), "cam"):
        ask()
        writer.tick()
        (path,) = status_folder().glob("*.json")
        os.chown(path, 12345, -1)
        assert read_statuses() == []
