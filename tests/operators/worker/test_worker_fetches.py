"""What a worker fetches: nothing of what may not run, and not for ever."""

from __future__ import annotations

import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edgeserve import Fate
from edgeserve._core.clock import wall_ms
from edgeserve._core.signed import Signer
from edgeserve._script_journal import ScriptJournal
from tests.broker.workers import until
from tests.operators.conftest import Sent, Wire
from tests.operators.worker.scripts import KEY, adding, refused, send, store, worker

DAY_MS = 24 * 3600 * 1000


class Talker:
    """Somebody's server, which greets for as long as it is listened to, and says who came."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.visits = 0
        self.url = f"ftp://127.0.0.1:{self._server.getsockname()[1]}/job.py"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._server:
            while True:
                visitor, _ = self._server.accept()
                self.visits += 1
                with visitor, suppress(OSError):
                    while not self._over.wait(0.02):
                        visitor.sendall(b"220-welcome\r\n")


@pytest.fixture
def talker() -> Talker:
    return Talker()


@pytest.mark.parametrize("place", ["stored", "url"])
@pytest.mark.parametrize("what", ["forged", "redirected", "old", "replayed"])
def test_nothing_is_fetched_of_what_may_not_run(
    broker: str, wire: Wire, ran: Path, talker: Talker, place: str, what: str
) -> None:
    script_id = uuid.uuid4()
    signed_ms = wall_ms() - (DAY_MS + 60_000 if what == "old" else 0)
    key = KEY[::-1] if what == "forged" else KEY
    url = f"{talker.url}-not" if what == "redirected" else talker.url
    sent = Signer(key).signed(wire.dst, script_id.bytes, signed_ms, adding(ran).encode(), **{place: url})  # type: ignore[arg-type] # one of them
    if what == "replayed":
        journal = ScriptJournal(wire.dst, "worker-sub", DAY_MS, in_memory=False)
        journal.start(script_id.bytes, "another message", signed_ms, signed_ms)
        journal.close()
    store(wire, Sent(script_id, "any", replace(sent, **{place: talker.url}).packed(), wall_ms()))
    with worker(broker, wire.dst, ftp=True, on_error="retry") as node:
        assert next(node) is None
        assert node.stats.fates == {Fate.FAILED: 1}
    assert talker.visits == 0
    said = {"old": "max_age_ms", "replayed": "it is a replay"}.get(what, "its signature is not that")
    assert said in refused(broker, wire.dst)[0].error


def test_a_server_that_never_comes_to_an_end_holds_the_worker_up_for_no_longer_than_the_time_limit(
    broker: str, wire: Wire, talker: Talker
) -> None:
    script_id = uuid.uuid4()
    sent = Signer(KEY).signed(wire.dst, script_id.bytes, wall_ms(), b"print(1)", stored=talker.url)
    store(wire, Sent(script_id, "any", sent.packed(), wall_ms()))
    send(broker, wire.dst, "print('next')")
    with worker(broker, wire.dst, time_limit_ms=1000) as node:
        assert next(node) is None
        assert (result := next(node)) is not None
        assert result.stdout == "next\n"
        until(lambda: not node._values.route._made()._under_way, "the transfer was ended")
    assert talker.visits == 1
    assert "it was not here after 1,000 ms, which is the limit" in refused(broker, wire.dst)[0].error
