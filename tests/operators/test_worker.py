"""Scripts that travel to workers: what runs, what never does, and that nothing of it goes on for ever."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeserve import (
    CodeSource,
    DataSource,
    EdgeServeError,
    Fate,
    PayloadUnavailable,
    ScriptFailed,
    UsageError,
    Worker,
)
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetter, DeadLetterBox
from edgeserve._core.clock import wall_ms
from edgeserve._core.signed import Signed, Signer, unpack_signed
from edgeserve._script_journal import ScriptJournal
from edgeserve.routing import Fetching, FolderStore, FtpServer
from edgeserve.testing import ManualClock, memory_broker
from tests.broker.workers import until
from tests.operators.conftest import CODEC, Sent, Wire
from tests.operators.processes import Crew

KEY = bytes(range(32))
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file to which scripts add a line when they run."""
    path = tmp_path / "ran"
    path.touch()
    return path


def adding(path: Path, line: str = "ran") -> str:
    """A script that says that it ran."""
    return f"with open({str(path)!r}, 'a') as file:\n    file.write({line!r} + chr(10))\n"


def send(broker: str, topic: str, *scripts: str, **options: Any) -> None:
    with CodeSource(scripts, broker, topic=topic, **{"key": KEY, **options}) as source:
        assert len(list(source)) == len(scripts)


def worker(broker: str, topic: str, **options: Any) -> Worker:
    return Worker(broker, topic, **{"key": KEY, "idle_timeout_ms": 2000, **options})


def refused(broker: str, topic: str, count: int = 1) -> list[DeadLetter]:
    """The dead letters of a topic."""
    lease = ConnectionLease(broker)
    try:
        box = DeadLetterBox(lease.connection, str(lease.address), topic)
        letters = []
        for letter in box.read(10_000):
            letters.append(letter)
            if len(letters) == count:
                break
        box.close()
    finally:
        lease.close()
    assert len(letters) == count
    return letters


def signed(topic: str, script: str) -> Sent:
    """A script as its source would send it."""
    now_ms, script_id = wall_ms(), uuid.uuid4()
    signature = Signer(KEY).signature(topic, script_id.bytes, now_ms, script.encode())
    return Sent(script_id, "any", Signed(now_ms, signature, script=script.encode()).packed(), now_ms)


def store(wire: Wire, one: Sent, topic: str | None = None) -> None:
    """Store an example on `dst`."""
    wire.send_raw(CODEC.encode(one.id, one.source, one.payload), wall_ms(), wire.dst if topic is None else topic)


def with_script(one: Sent, script: str) -> Sent:
    """The same with another script."""
    genuine = unpack_signed(one.payload)
    return one._replace(payload=Signed(genuine.signed_ms, genuine.signature, script=script.encode()).packed())


# What runs


def test_a_signed_script_runs_and_next_says_how_it_ended(broker: str, topic: str) -> None:
    send(broker, topic, "import sys\nprint('héllo')\nprint('oops', file=sys.stderr)")
    with worker(broker, topic) as node:
        result = next(node)
        assert result is not None
        assert (result.stdout, result.stderr) == ("héllo\n", "oops\n")
        assert (result.exit_code, result.is_timed_out, result.has_failed) == (0, False, False)
        assert (result.stdout_bytes, result.stderr_bytes, result.source) == (7, 5, "code-source")
        assert result.duration_ms > 0
        assert node.stats.fates == {Fate.USED: 1}
        assert node.stats.held == 0
        assert list(node) == [], "and it runs once"


def test_scripts_run_one_after_the_other_in_their_order(broker: str, topic: str, ran: Path) -> None:
    send(broker, topic, *(adding(ran, str(number)) for number in range(5)))
    with worker(broker, topic) as node:
        for _ in range(5):
            next(node)
    assert ran.read_text().split() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("prefix", ["", "persistent://public/default/"])
def test_a_topic_is_the_same_with_and_without_what_pulsar_takes_for_granted(
    broker: str, topic: str, prefix: str
) -> None:
    send(broker, prefix + topic, "print(1)")
    with worker(broker, topic) as node:
        assert (result := next(node)) is not None
        assert result.stdout == "1\n"


def test_workers_of_different_names_run_every_script_each_and_those_of_one_name_share_them(
    broker: str, topic: str, ran: Path
) -> None:
    with (
        worker(broker, topic, worker_id="one", idle_timeout_ms=700) as one,
        worker(broker, topic, worker_id="one", idle_timeout_ms=700) as replica,
        worker(broker, topic, worker_id="two", idle_timeout_ms=700) as two,
    ):
        send(broker, topic, *(adding(ran) for _ in range(4)))
        shared = [result for node in (one, replica) for result in node]
        assert len(shared) == 4
        assert len(list(two)) == 4
    assert len(ran.read_text().split()) == 8


@pytest.mark.parametrize(
    ("scheme", "said"), [("ftp", "its bytes are not those"), ("file", "its signature is not that")]
)
def test_what_the_sources_store_keeps_is_fetched_and_checked_before_it_runs(
    broker: str, topic: str, tmp_path: Path, scheme: str, said: str
) -> None:
    folder = tmp_path / "scripts"
    with ExitStack() as stack:
        if scheme == "ftp":
            kept_in: Any = stack.enter_context(FtpServer(folder, port=0)).store()
            options: dict[str, Any] = {"local_ftp_path": str(tmp_path / "here")}
        else:
            kept_in, options = FolderStore(folder), {"fetching": Fetching(folders=[str(folder)])}
        send(broker, topic, "print('small')", store=kept_in)
        send(broker, topic, "print('large')", "print('altered')", store=kept_in, store_above_bytes=0)
        kept = {path.read_text(): path for path in folder.rglob("*.payload")}
        assert set(kept) == {"print('large')", "print('altered')"}
        kept["print('altered')"].write_text("print('ALTERED')")
        node = stack.enter_context(worker(broker, topic, **options))
        results = [next(node), next(node)]
        assert [result and result.stdout for result in results] == ["small\n", "large\n"]
        assert next(node) is None
        assert node.stats.fates == {Fate.USED: 2, Fate.FAILED: 1}
    (letter,) = refused(broker, topic)
    assert said in letter.error


@pytest.mark.parametrize("ftp_memory", [True, False])
def test_a_url_stands_for_the_script_that_was_there_when_it_was_signed(
    broker: str, topic: str, tmp_path: Path, ftp_memory: bool
) -> None:
    folder, here = tmp_path / "scripts", tmp_path / "here"
    folder.mkdir()
    script = folder / "job.py"
    options: dict[str, Any] = {"ftp": True, "ftp_memory": ftp_memory, "local_ftp_path": str(here)}
    with FtpServer(folder, port=0) as server, worker(broker, topic, **options) as node:
        url = f"{server.url}job.py"
        with CodeSource([url, url, url], broker, topic=topic, key=KEY) as source:
            for text in ("print('one')", "print('two')"):
                script.write_text(text)
                payload = next(source)
                assert payload is not None
                assert unpack_signed(payload).url == url
                result = next(node)
                assert result is not None
                assert result.stdout == text[7:10] + "\n"
            next(source)
        script.write_text("print('not signed')")
        assert next(node) is None
    (letter,) = refused(broker, topic)
    assert "its signature is not that of this key" in letter.error
    assert len(list(here.rglob("job.py"))) == (0 if ftp_memory else 1)


def test_without_ftp_a_url_that_the_source_was_given_is_not_fetched(broker: str, topic: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("print(1)")
    url = f"file://{tmp_path}/job.py"
    send(broker, topic, url, fetching=Fetching(folders=[str(tmp_path)]))
    with worker(broker, topic, fetching=Fetching(folders=[str(tmp_path)])) as node:
        assert next(node) is None
        assert node.stats.fetches.fetched == 0
    (letter,) = refused(broker, topic)
    assert "fetches such with ftp=True" in letter.error


def test_a_source_raises_for_a_url_of_nothing_and_goes_on(broker: str, topic: str, tmp_path: Path) -> None:
    items = [f"file://{tmp_path}/none.py", "print(1)"]
    with CodeSource(items, broker, topic=topic, key=KEY, fetching=Fetching(folders=[str(tmp_path)])) as source:
        with pytest.raises(PayloadUnavailable):
            next(source)
        assert next(source) is not None
        assert source.stats.fates == {Fate.FAILED: 1, Fate.USED: 1}


def test_a_script_whose_store_is_away_was_not_started_and_runs_when_it_is_put_back(
    broker: str, topic: str, tmp_path: Path
) -> None:
    folder = tmp_path / "scripts"
    options = {"fetching": Fetching(folders=[str(folder)])}
    send(broker, topic, "print(1)", store=FolderStore(folder), store_above_bytes=0)
    (kept,) = folder.rglob("*.payload")
    away = kept.rename(tmp_path / "away")
    with worker(broker, topic, **options) as node:
        assert next(node) is None
        assert node.stats.fates == {Fate.FAILED: 1}
    away.rename(kept)
    lease = ConnectionLease(broker)
    box = DeadLetterBox(lease.connection, str(lease.address), topic)
    letter = next(box.read(10_000))
    assert "PayloadUnavailable" in letter.error
    box.put_back([letter], 10_000)
    box.close()
    lease.close()
    with worker(broker, topic, **options) as node:
        assert (result := next(node)) is not None
        assert result.stdout == "1\n"


# What never runs


def test_what_is_not_signed_is_a_dead_letter_with_the_bytes_it_came_as(broker: str, topic: str, ran: Path) -> None:
    send(broker, topic, adding(ran), key=None)
    with worker(broker, topic, on_error="skip") as node:
        assert next(node) is None
        assert node.stats.fates == {Fate.FAILED: 1}
        assert node.stats.dead_letters == 1
    (letter,) = refused(broker, topic)
    assert letter.error == "ScriptRefused: it is not signed"
    assert letter.data.endswith(adding(ran).encode())
    assert ran.read_text() == ""


@pytest.mark.parametrize("on_error", ["raise", "retry", "dead_letter", "skip"])
def test_whatever_on_error_says_what_is_altered_becomes_a_dead_letter(
    broker: str, wire: Wire, ran: Path, on_error: str
) -> None:
    one = signed(wire.dst, adding(ran))
    store(wire, one)
    store(wire, with_script(one, adding(ran, "evil")))
    with worker(broker, wire.dst, on_error=on_error) as node:
        assert next(node) is not None
        assert next(node) is None
        assert node.stats.fates == {Fate.USED: 1, Fate.FAILED: 1}
    (letter,) = refused(broker, wire.dst)
    assert "ScriptRefused: its signature is not that of this key" in letter.error
    assert ran.read_text() == "ran\n"


def test_an_altered_copy_that_comes_first_does_not_keep_the_script_from_running(
    broker: str, wire: Wire, ran: Path
) -> None:
    one = signed(wire.dst, adding(ran))
    for each in (with_script(one, adding(ran, "evil")), with_script(one, adding(ran, "evil too")), one):
        store(wire, each)
    with worker(broker, wire.dst) as node:
        assert [next(node) is None for _ in range(3)] == [True, True, False]
    assert ran.read_text() == "ran\n"
    refused(broker, wire.dst, 2)


def test_a_script_for_another_topic_is_refused(broker: str, wire: Wire, ran: Path) -> None:
    store(wire, signed(wire.src, adding(ran)))
    with worker(broker, wire.dst) as node:
        assert next(node) is None
    assert "signed for another topic" in refused(broker, wire.dst)[0].error
    assert ran.read_text() == ""


def test_a_script_that_is_sent_as_another_example_is_refused(broker: str, wire: Wire, ran: Path) -> None:
    one = signed(wire.dst, adding(ran))
    store(wire, one)
    store(wire, one._replace(id=uuid.uuid4()))
    with worker(broker, wire.dst) as node:
        assert [next(node) is None, next(node) is None] == [False, True]
    assert "as another example" in refused(broker, wire.dst)[0].error
    assert ran.read_text() == "ran\n"


def test_a_script_signed_with_another_key_is_refused(broker: str, topic: str, ran: Path) -> None:
    send(broker, topic, adding(ran), key=KEY[::-1])
    with worker(broker, topic) as node:
        assert next(node) is None
    assert "signed with another key" in refused(broker, topic)[0].error
    assert ran.read_text() == ""


@pytest.mark.parametrize("fails", [False, True])
def test_a_replay_is_refused_at_once_and_by_the_next_run_of_the_worker(
    broker: str, wire: Wire, ran: Path, fails: bool
) -> None:
    one = signed(wire.dst, adding(ran) + ("1/0" if fails else ""))
    store(wire, one)
    store(wire, one)
    with worker(broker, wire.dst) as node:
        assert [next(node) is None, next(node) is None] == [False, True]
    store(wire, one)
    with worker(broker, wire.dst, rerun_interrupted=True) as node:
        assert next(node) is None
        assert node.stats.fates == {Fate.FAILED: 1}
    letters = refused(broker, wire.dst, 3 if fails else 2)
    assert ["it is a replay: this worker has started it at" in each.error for each in letters[-2:]] == [True, True]
    assert ran.read_text() == "ran\n"


def test_what_was_signed_too_long_ago_is_refused_and_so_may_be_forgotten(broker: str, topic: str, ran: Path) -> None:
    now_ms = wall_ms()
    for age_ms in (DAY_MS + 1, DAY_MS, -DAY_MS, -DAY_MS - 1):
        send(broker, topic, adding(ran, str(age_ms)), clock=ManualClock(now_ms - age_ms))
    with worker(broker, topic, clock=ManualClock(now_ms), idle_timeout_ms=None) as node:
        assert [next(node) is None for _ in range(4)] == [True, False, False, True]
    assert ran.read_text().split() == [str(DAY_MS), str(-DAY_MS)]
    old, early = refused(broker, topic, 2)
    assert "86,400,001 ms ago, and max_age_ms is 86,400,000" in old.error
    assert "in the future" in early.error


def test_what_may_run_but_whose_start_cannot_be_noted_is_taken_by_the_next_step(
    broker: str, topic: str, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise EdgeServeError("the disk is full")

    send(broker, topic, adding(ran))
    with worker(broker, topic, on_error="skip") as node:
        with monkeypatch.context() as patched:
            patched.setattr(ScriptJournal, "start", fail)
            with pytest.raises(EdgeServeError, match="disk is full"):
                next(node)
        assert ran.read_text() == ""
        assert next(node) is not None
        assert node.stats.fates == {Fate.USED: 1}


def test_what_is_no_example_is_malformed_and_what_is_marked_as_a_url_is_not_fetched(
    broker: str, wire: Wire, tmp_path: Path
) -> None:
    wire.send_raw(b"short", wall_ms(), wire.dst)
    options: dict[str, Any] = {"store": FolderStore(tmp_path / "store"), "store_above_bytes": 0}
    with DataSource([b"print(1)"], broker, "any", topic=wire.dst, **options) as source:
        list(source)
    with worker(broker, wire.dst, ftp=True, fetching=Fetching(folders=[str(tmp_path)])) as node:
        assert [next(node), next(node)] == [None, None]
        assert node.stats.fates == {Fate.MALFORMED: 1, Fate.FAILED: 1}
        assert node.stats.fetches.fetched == 0


# Keys


def test_a_worker_without_a_key_does_not_start_and_says_how_to_make_one() -> None:
    with pytest.raises(UsageError, match=r"does not start without a key.*secrets\.token_bytes\(32\).*can run code"):
        Worker(memory_broker())


@pytest.mark.parametrize("key", [b"k" * 15, "k" * 32, b""])
def test_a_key_that_is_none_is_refused_on_both_sides(key: Any) -> None:
    with pytest.raises(UsageError, match="the key"):
        Worker(memory_broker(), key=key)
    with pytest.raises(UsageError, match="the key"):
        CodeSource([], memory_broker(), key=key)


def test_the_key_is_shown_nowhere_and_no_script_finds_it(
    broker: str, topic: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = b"0123456789-this-is-the-key-98765"
    monkeypatch.setenv("MY_WORKERS_KEY", key.decode())
    script = "import json, os, sys; json.dump([dict(os.environ), sys.argv, sys.stdin.read()], sys.stdout)"
    with caplog.at_level(logging.DEBUG), CodeSource([script, "1/0"], broker, topic=topic, key=key) as source:
        shown = [repr(source), *map(repr, source)]
        with worker(broker, topic, key=key, environment={"MODE": "test"}) as node:
            result = next(node)
            next(node)
            shown += [repr(node), repr(result), repr(vars(node)), repr(node.stats)]
    assert result is not None
    environment, arguments, given = json.loads(result.stdout)
    known = {"PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "EDGESERVE_HOME"}
    assert set(environment) - known == {"MODE", "PYTHONUNBUFFERED", "PYTHONIOENCODING"}
    assert (len(arguments), given) == (1, "")
    told = "\n".join([*shown, caplog.text, result.stdout])
    assert key.decode() not in told
    assert key.hex() not in told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker_id": ""}, "worker_id"),
        ({"time_limit_ms": -1}, "time_limit_ms"),
        ({"max_age_ms": "day"}, "max_age_ms"),
        ({"max_output_bytes": 0}, "max_output_bytes"),
        ({"environment": {"A": 1}}, "environment: expected a mapping"),
        ({"environment": "A=1"}, "environment: expected a mapping"),
        ({"on_error": "stop"}, "on_error"),
        ({"topic": ""}, "no topic's name"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Worker(memory_broker(), key=KEY, **options)


def test_a_source_without_a_key_fetches_nothing() -> None:
    with pytest.raises(UsageError, match="give a key="):
        CodeSource([], memory_broker(), fetching=Fetching())


def test_two_workers_of_one_name_and_different_keys_are_refused_in_one_process(topic: str) -> None:
    broker = memory_broker()
    with worker(broker, topic), pytest.raises(UsageError, match="different names"):
        worker(broker, topic, key=KEY[::-1])


# How scripts end


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
    with worker(broker, topic, on_error="raise") as node:
        assert next(node) is None
    assert "has not ended" in refused(broker, topic)[0].error
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
with open({begun!r}, 'a') as file:
    file.write('begun' + chr(10))
print('so far')
{then}
"""


class Holding:
    """A script that runs for ten minutes, as does what it has started."""

    def __init__(self, folder: Path, then: str = "time.sleep(600)") -> None:
        self._lock, self._begun = folder / "lock", folder / "begun"
        self._begun.touch()
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
    assert "and has not ended, as its worker was killed or closed" in refused(broker, topic)[0].error


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


def test_a_script_that_cannot_be_started_is_an_error_of_its_step(
    broker: str, topic: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    send(broker, topic, "print(1)")
    with worker(broker, topic, on_error="raise") as node:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
        with pytest.raises(EdgeServeError, match="can't be started on this node"):
            next(node)
