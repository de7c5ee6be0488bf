"""The processes of `worker`, started, killed and watched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from edgeserve._broker.base import Share
from edgeserve.address import LocalAddress, PulsarAddress

ROOT = Path(__file__).parents[2]


class Event(NamedTuple):
    """One line of the journal."""

    worker: str
    what: str
    id: str | None = None
    key: str | None = None
    topic: str | None = None


def until(condition: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    """Wait until `condition()` holds, and fail if it does not in time."""
    give_up_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up_s, f"not within {within_s} s: {what}"
        time.sleep(0.005)


class Workers:
    """The workers of one test on one subscription."""

    def __init__(self, address: LocalAddress | PulsarAddress, folder: Path, subscription: str = "shared") -> None:
        self._address = address
        self._journal = folder / f"journal-{subscription}"
        self._journal.touch()
        self._subscription = subscription
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(
        self,
        worker: str,
        topics: Sequence[str],
        share: Share,
        *,
        lag: int | None = 0,
        queue_size: int = 100,
        paused: Sequence[str] = (),
    ) -> None:
        """Start one and wait until it is subscribed.

        `lag` is how many of its messages it leaves unacknowledged while more keep coming; None: all, for ever.
        Of its topics, those in `paused` are paused from the beginning.
        """
        is_local = isinstance(self._address, LocalAddress)
        options = {
            "broker": "local" if is_local else "apache",
            "address": self._address.path if isinstance(self._address, LocalAddress) else self._address.url,
            "topics": list(topics),
            "subscription": self._subscription,
            "share": share.value,
            "queue_size": queue_size,
            "lag": lag,
            "paused": list(paused),
            "journal": str(self._journal),
        }
        command = [sys.executable, "-m", "tests.broker.worker", worker, json.dumps(options)]
        self._processes[worker] = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True)
        until(lambda: self.of(worker, "ready") or self._ended(worker), f"{worker} is ready")
        assert not self._ended(worker), f"{worker} ended at once"

    def _ended(self, worker: str) -> bool:
        return self._processes[worker].poll() is not None

    def kill(self, worker: str) -> None:
        """End one as a crash would."""
        self._note(worker, "is killed")
        self._processes[worker].kill()
        self._processes[worker].wait()

    def close(self, worker: str) -> None:
        """Have one close its consumer and end."""
        process = self._processes[worker]
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0

    def _note(self, worker: str, what: str) -> None:
        with self._journal.open("a") as journal:
            journal.write(json.dumps({"worker": worker, "what": what}) + "\n")

    def end(self) -> None:
        """End those that still run."""
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()

    @property
    def events(self) -> Sequence[Event]:
        """What all have done so far."""
        lines = self._journal.read_text().split("\n")[:-1]
        return [Event(**json.loads(line)) for line in lines]

    def of(self, worker: str, what: str) -> Sequence[Event]:
        """What one has done of one kind."""
        return [event for event in self.events if event.worker == worker and event.what == what]

    def ids(self, what: str, worker: str | None = None) -> Sequence[str]:
        """The messages of all events of one kind, in order."""
        return [event.id or "" for event in self.events if event.what == what and worker in (None, event.worker)]

    def all_acknowledged(self, ids: Iterable[str], within_s: float = 30.0) -> None:
        """Wait until each of these has been acknowledged."""
        wanted = set(ids)
        until(
            lambda: wanted <= set(self.ids("acknowledges")),
            f"all {len(wanted)} acknowledged",
            within_s,
        )


def keys_with_two_holders(events: Iterable[Event]) -> Sequence[tuple[str, str, str]]:
    """Each message that a worker got while another, alive and present, had one of its key unacknowledged."""
    holding: dict[str, dict[str, set[str]]] = {}
    gone: set[str] = set()
    found = []
    for worker, what, message_id, key, _ in events:
        if what in ("is killed", "leaves"):
            gone.add(worker)
            for holders in holding.values():
                holders.pop(worker, None)
        elif worker in gone or key is None or message_id is None:
            continue
        elif what == "got":
            holders = holding.setdefault(key, {})
            found += [(message_id, worker, other) for other, ids in holders.items() if other != worker and ids]
            holders.setdefault(worker, set()).add(message_id)
        elif what == "acknowledges":
            holding.get(key, {}).get(worker, set()).discard(message_id)
    return found
