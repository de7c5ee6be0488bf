"""Scripts that a worker could not start: they may start later. And those that it did start, which may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeserve import EdgeServeError, Fate, _script_process
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetterBox
from edgeserve._script_journal import ScriptJournal
from edgeserve._script_process import ScriptProcess
from tests.operators.conftest import CODEC
from tests.operators.worker.scripts import adding, refused, send, worker


@pytest.fixture(params=["no room for it", "no process for it"])
def cannot_start(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[], AbstractContextManager[None]]:
    """While this lasts, scripts can't be started: the worker can't, or what it starts them with."""
    host = tmp_path / "host.py"
    host.write_text(
        "import os, runpy\ndef fail(*_, **__): raise OSError(11, 'no more processes')\n"
        f"os.posix_spawn = fail\nrunpy.run_path({str(_script_process._HOST)!r}, run_name='__main__')\n"
    )

    @contextmanager
    def lasting() -> Iterator[None]:
        with monkeypatch.context() as patched:
            if request.param == "no room for it":
                patched.setattr("tempfile.tempdir", str(tmp_path / "none"))
            else:
                patched.setattr(_script_process, "_HOST", host)
            yield

    return lasting


def test_a_script_that_cannot_be_started_is_an_error_of_its_step_and_runs_when_it_comes_again(
    broker: str, topic: str, ran: Path, cannot_start: Callable[[], AbstractContextManager[None]]
) -> None:
    send(broker, topic, adding(ran))
    with worker(broker, topic, on_error="raise") as node, cannot_start():
        with pytest.raises(EdgeServeError, match="can't be started on this node"):
            next(node)
        assert node.stats.held == 1
    with worker(broker, topic, on_error="raise") as node:
        assert next(node) is not None
    assert ran.read_text() == "ran\n"


def test_a_dead_letter_that_could_not_be_started_runs_when_it_is_put_back_and_not_twice(
    broker: str, topic: str, ran: Path, cannot_start: Callable[[], AbstractContextManager[None]]
) -> None:
    send(broker, topic, adding(ran) + "1/0")
    with worker(broker, topic) as node, cannot_start():
        assert next(node) is None
        assert node.stats.fates == {Fate.FAILED: 1}
    for _ in range(2):
        lease = ConnectionLease(broker)
        box = DeadLetterBox(lease.connection, str(lease.address), topic)
        box.put_back([next(box.read(10_000))], 10_000)
        box.close()
        lease.close()
        with worker(broker, topic) as node:
            next(node)
    assert "it is a replay" in refused(broker, topic)[0].error
    assert ran.read_text() == "ran\n"


def test_with_retry_a_script_is_tried_until_it_can_be_started(
    broker: str, topic: str, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def sometimes(*arguments: Any) -> ScriptProcess:
        tries.append(1)
        if len(tries) in (1, 3):
            raise EdgeServeError("no memory")
        return ScriptProcess(*arguments)

    monkeypatch.setattr("edgeserve.worker.ScriptProcess", sometimes)
    send(broker, topic, adding(ran) + "1/0")
    with worker(broker, topic, on_error="retry", max_retries=2, retry_interval_ms=0) as node:
        next(node)
        assert node.stats.fates == {Fate.FAILED: 1}
    assert ran.read_text() == "ran\n"
    (letter,) = refused(broker, topic)
    journal = ScriptJournal(topic, "worker-sub", 1e9, in_memory=False)
    earlier = journal.find(CODEC.decode(letter.data)[0].bytes)
    journal.close()
    assert earlier is not None, "it could not be started the third time, but had run the second"
    assert earlier.has_failed


def test_a_script_whose_end_cannot_be_noted_does_not_run_again(
    broker: str, topic: str, ran: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise EdgeServeError("the disk is full")

    monkeypatch.setattr(ScriptJournal, "end", fail)
    send(broker, topic, adding(ran))
    with worker(broker, topic, on_error="retry") as node:
        assert next(node) is not None
        assert node.stats.fates == {Fate.USED: 1}
    assert ran.read_text() == "ran\n"
    assert "the disk is full" in caplog.text
