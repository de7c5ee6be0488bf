"""How the scripts of a worker end: by themselves, at their limit, with the worker; and that nothing of them goes on."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgeserve import CodeSource, Fate, ScriptFailed
from edgeserve._core.clock import wall_ms
from edgeserve.testing import ManualClock
from tests.broker.workers import until
from tests.operators.processes import Crew
from tests.operators.worker.scripts import KEY, adding, refused, send, worker


def test_a_script_that_fails_is_a_dead_letter_and_the_worker_goes_on(
    broker: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, topic, "print('so far'); raise ValueError('\\x1b[2Jbad')", "raise SystemExit(7)", "print(2)")
    with caplog.at_level(logging.INFO, "edgeserve.worker"), worker(broker, topic) as node:
        results = [next(node) for _ in range(3)]
        assert [result and result.exit_code for result in results] == [1, 7, 0]
        assert node.stats.fates == {Fate.FAILED: 2, Fate.USED: 1}
    assert results[0] is not None
    assert results[0].has_failed
    assert results[0].stdout == "so far\n"
    assert results[0].stderr.splitlines()[-1] == "ValueError: \x1b[2Jbad"
    first, second = refused(broker, topic, 2)
    assert first.error.endswith("ended with exit code 1: ValueError: \\x1b[2Jbad")
    assert second.error.endswith("ended with exit code 7")
    logged = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "edgeserve.worker"]
    assert [level for level, _ in logged] == ["INFO", "INFO", "WARNING"] * 2 + ["INFO"] * 2
    script_id = str(results[0].script_id)
    assert all(script_id in text and "'code-source'" in text and topic in text for _, text in logged[:3])
    assert "sha256 " in logged[0][1]
    assert "exit code 1 after" in logged[1][1]
    assert "7 bytes of output" in logged[1][1]
    assert logged[2][1].endswith("ValueError: \\x1b[2Jbad")


def test_with_raise_the_step_raises_with_the_result_and_the_script_does_not_run_again(
    broker: str, topic: str, ran: Path
) -> None:
    send(broker, topic, adding(ran) + "raise SystemExit(3)", adding(ran, "next"))
    with worker(broker, topic, on_error="raise") as node:
        with pytest.raises(ScriptFailed, match="exit code 3") as raised:
            next(node)
        assert raised.value.result.exit_code == 3
        assert next(node) is not None
        assert node.stats.held == 1
    with worker(broker, topic, on_error="raise", rerun_interrupted=True) as node:
        assert next(node) is None
    assert "and has failed: it is not started again" in refused(broker, topic)[0].error
    assert ran.read_text().split() == ["ran", "next"]


def test_with_retry_a_script_runs_until_it_does_not_fail(broker: str, topic: str, ran: Path) -> None:
    send(broker, topic, adding(ran) + f"assert open({str(ran)!r}).read().count('ran') == 3")
    with worker(broker, topic, on_error="retry", max_retries=3, retry_interval_ms=0) as node:
        assert (result := next(node)) is not None
        assert result.exit_code == 0
        assert node.stats.fates == {Fate.USED: 1}
    assert ran.read_text().split() == ["ran"] * 3


def test_a_script_that_a_signal_ended_says_which(broker: str, topic: str) -> None:
    send(broker, topic, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "import os; os.killpg(0, 9)")
    with worker(broker, topic) as node:
        assert [result and result.exit_code for result in (next(node), next(node))] == [-15, -9]


def test_of_what_a_script_prints_the_end_is_kept_and_all_is_counted(broker: str, topic: str) -> None:
    send(broker, topic, "import sys\nfor n in range(20_000): print(n)\nprint('x' * 3_000_000, file=sys.stderr)")
    with worker(broker, topic, max_output_bytes=1000) as node:
        assert (result := next(node)) is not None
    assert len(result.stdout) == 1000
    assert result.stdout.endswith("19998\n19999\n")
    assert result.stdout_bytes == sum(len(str(number)) + 1 for number in range(20_000))
    assert (len(result.stderr), result.stderr_bytes) == (1000, 3_000_001)


# Scripts that hold a lock, which no process has any more when all that they started is gone

HOLDING = """
import fcntl, subprocess, sys, time
held = open({lock!r}, 'w')
fcntl.flock(held, fcntl.LOCK_EX)
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=[held.fileno()])
print('so far')
with open({begun!r}, 'a') as file:
    file.write('begun' + chr(10))
{then}
"""


class Holding:
    """A script that runs for ten minutes, as does what it has started."""

    def __init__(self, folder: Path, then: str = "time.sleep(600)") -> None:
        self._lock, self._begun = folder / "lock", folder / "begun"
        self._begun.touch()
        self.path = self._begun
        self.script = HOLDING.format(lock=str(self._lock), begun=str(self._begun), then=then)

    @property
    def begun(self) -> int:
        """How often it has begun."""
        return self._begun.read_text().count("begun")

    def is_gone(self) -> bool:
        """Whether nothing of it runs."""
        with self._lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


@pytest.fixture
def holding(tmp_path: Path) -> Holding:
    return Holding(tmp_path)


def test_at_the_time_limit_the_script_ends_with_all_that_it_has_started(
    broker: str, topic: str, holding: Holding
) -> None:
    clock = ManualClock(wall_ms())
    send(broker, topic, holding.script)
    with worker(broker, topic, time_limit_ms=60_000, clock=clock, idle_timeout_ms=None) as node:
        turning = threading.Thread(target=lambda: (until(lambda: holding.begun, "it began"), clock.advance(60_000)))
        turning.start()
        result = next(node)
        turning.join()
        until(holding.is_gone, "all of it is gone")
        assert result is not None
        assert (result.is_timed_out, result.has_failed, result.exit_code) == (True, True, -9)
        assert (result.stdout, result.duration_ms) == ("so far\n", 60_000)
        assert node.stats.fates == {Fate.FAILED: 1}
    assert "was ended at its time limit" in refused(broker, topic)[0].error


def test_when_a_script_has_ended_so_does_what_it_has_left_behind(broker: str, topic: str, tmp_path: Path) -> None:
    leaving = Holding(tmp_path, then="")
    send(broker, topic, leaving.script)
    with worker(broker, topic) as node:
        assert (result := next(node)) is not None
        assert result.exit_code == 0
    until(leaving.is_gone, "all of it is gone")


def test_closing_waits_for_a_script_and_then_ends_it(broker: str, topic: str, holding: Holding) -> None:
    send(broker, topic, holding.script)
    results: list[object] = []
    node = worker(broker, topic, close_timeout_ms=300, idle_timeout_ms=None)
    stepping = threading.Thread(target=lambda: results.extend(node))
    stepping.start()
    until(lambda: holding.begun, "it began")
    node.close()
    stepping.join(10)
    assert not stepping.is_alive()
    until(holding.is_gone, "all of it is gone")
    assert results == [None]
    assert node.stats.held == 1
    with worker(broker, topic) as successor:
        assert next(successor) is None
    assert holding.begun == 1
    assert "and its end was not, as its worker was killed or closed" in refused(broker, topic)[0].error


def test_closing_lets_a_script_end_that_needs_little_time(broker: str, topic: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    send(broker, topic, f"open({str(gate)!r}).read(); print('done')")
    results: list[Any] = []
    node = worker(broker, topic, idle_timeout_ms=None)
    stepping = threading.Thread(target=lambda: results.extend(node))
    stepping.start()
    with gate.open("w"):  # which waits for the script
        closing = threading.Thread(target=node.close)
        closing.start()
        until(lambda: node._is_stopping, "the worker is closing")
    closing.join(20)
    stepping.join(20)
    assert [result.stdout for result in results] == ["done\n"]
    assert node.stats.fates == {Fate.USED: 1}


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_script_in_the_middle_of_which_its_worker_is_killed_ends_and_does_not_run_again(
    broker: str, topic: str, crew: Crew, holding: Holding, tmp_path: Path, how: str
) -> None:
    options = {"broker": broker, "topic": topic, "key": KEY.hex(), "close_timeout_ms": 200}
    send(broker, topic, holding.script)
    member = crew.start("worker", **options)
    until(lambda: holding.begun, "it began")
    member.kill() if how == "SIGKILL" else member.end()
    until(holding.is_gone, "all of it is gone")
    with worker(broker, topic) as successor:
        assert next(successor) is None
        assert successor.stats.fates == {Fate.FAILED: 1}
    assert holding.begun == 1
    assert "it is not started again (rerun_interrupted=True would)" in refused(broker, topic)[0].error


def test_a_script_that_was_interrupted_runs_again_where_that_is_asked_for(
    broker: str, topic: str, crew: Crew, tmp_path: Path
) -> None:
    holding = Holding(
        tmp_path, then=f"time.sleep(600 if open({str(tmp_path / 'begun')!r}).read().count('b') < 2 else 0)"
    )
    send(broker, topic, holding.script)
    member = crew.start("worker", broker=broker, topic=topic, key=KEY.hex())
    until(lambda: holding.begun, "it began")
    member.kill()
    until(holding.is_gone, "all of it is gone")
    with worker(broker, topic, rerun_interrupted=True) as successor:
        assert (result := next(successor)) is not None
        assert result.exit_code == 0
        assert successor.stats.fates == {Fate.USED: 1}
    assert holding.begun == 2


def test_a_script_whose_end_was_noted_and_not_acknowledged_comes_again_and_is_a_duplicate(
    broker: str, topic: str, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(broker, topic, adding(ran))
    node = worker(broker, topic)
    monkeypatch.setattr(node, "_acknowledge", lambda _: None)
    assert next(node) is not None
    node.close()
    with worker(broker, topic, rerun_interrupted=True) as successor:
        assert next(successor) is None
        assert successor.stats.fates == {Fate.DUPLICATE: 1}
        assert list(successor) == []
    with worker(broker, topic) as third:
        assert list(third) == [], "the duplicate was acknowledged"
    assert ran.read_text() == "ran\n"


def test_ctrl_c_ends_a_script(broker: str, topic: str, holding: Holding) -> None:
    send(broker, topic, holding.script)

    def interrupt() -> None:
        until(lambda: holding.begun, "it began")
        os.kill(os.getpid(), 2)

    interrupting = threading.Thread(target=interrupt)
    with worker(broker, topic) as node:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            next(node)
        interrupting.join()
        until(holding.is_gone, "all of it is gone")
        assert node.stats.held == 1


def test_nothing_of_a_script_is_left_in_the_folder_of_temporary_files(
    broker: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    send(broker, topic, "print(__file__)", "1/0")
    with worker(broker, topic) as node:
        assert (result := next(node)) is not None
        assert result.stdout.startswith(str(tmp_path / "temporary"))
        next(node)
    assert list((tmp_path / "temporary").iterdir()) == []


FORKING = """
import os, signal, sys, time
from edgeserve._script_process import ScriptProcess
process = ScriptProcess(sys.argv[1].encode(), dict(os.environ), 1000)
while not os.path.getsize(sys.argv[2]):
    time.sleep(0.01)
if os.fork() == 0:
    print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_script_does_not_outlive_its_worker_for_a_child_that_the_worker_has_forked(holding: Holding) -> None:
    command = [sys.executable, "-c", FORKING, holding.script, str(holding.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.kill()
        until(holding.is_gone, "all of it is gone, and the child is not")


def test_scripts_that_fail_do_not_keep_quiet_about_one_that_is_refused(
    broker: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, topic, "raise SystemExit(1)", "raise SystemExit(2)")
    with CodeSource(["print(3)"], broker, topic=topic) as source:
        next(source)
    with caplog.at_level(logging.INFO, "edgeserve"), worker(broker, topic) as node:
        for _ in range(3):
            next(node)
        assert any("it is not signed" in line for line in caplog.messages)
