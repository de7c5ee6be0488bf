"""Scripts that travel to workers: what runs, and what never does."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeserve import CodeSource, DataSource, EdgeServeError, Fate, PayloadUnavailable, UsageError, Worker, replay
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetterBox
from edgeserve._core.clock import wall_ms
from edgeserve._core.signed import unpack_signed
from edgeserve._script_journal import ScriptJournal
from edgeserve.routing import Fetching, FolderStore, FtpServer
from edgeserve.testing import ManualClock, memory_broker
from tests.operators.conftest import Wire
from tests.operators.worker.scripts import KEY, adding, refused, send, signed, store, with_script, worker

DAY_MS = 24 * 3600 * 1000


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


def test_a_replay_log_has_what_ran_how_it_ended_and_what_was_refused(broker: str, topic: str, tmp_path: Path) -> None:
    with CodeSource(["print(1)"], broker, topic=topic) as source:
        next(source)
    send(broker, topic, "print(2)", "exit(3)")
    with worker(broker, topic, log_path=tmp_path / "logs") as node:
        for _ in range(3):
            next(node)
        fates = {fate.value: count for fate, count in node.stats.fates.items()}
    log = replay.load(tmp_path / "logs")
    assert Counter(log.examples["fate"]) == fates == {"used": 1, "failed": 2}
    assert len(log.uses) == 1
    errors = sorted(log.steps["error"].dropna())
    assert [error.partition(":")[0] for error in errors] == ["ScriptFailed"]
    assert log.runs[0].operator_class == "Worker"


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


@pytest.mark.parametrize(("scheme", "said"), [("ftp", "its bytes are not those"), ("file", "its bytes are not those")])
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
    assert letter.error == "ScriptRefused: its bytes are not those that were signed"
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
    assert letter.error == "ScriptRefused: its bytes are not those that were signed"
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
    assert ["it is a replay: this worker noted its start at" in each.error for each in letters[-2:]] == [True, True]
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
    known = {"PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH"}
    known |= {"EDGESERVE_HOME", "EDGESERVE_TOP"}
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
        ({"max_age_ms": math.inf}, "max_age_ms is inf"),
        ({"max_age_ms": 1e300}, "a century"),
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
