"""Which scripts a worker has started, kept on disk: none runs twice, also after the worker was killed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from edgeserve._core.signed import ScriptRefused
from edgeserve._journal_file import open_journal
from edgeserve.errors import EdgeServeError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scripts (
    id BLOB PRIMARY KEY, message_id TEXT NOT NULL, signed_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL,
    state INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS by_age ON scripts (signed_ms);
CREATE TABLE IF NOT EXISTS forgotten (number INTEGER PRIMARY KEY CHECK (number = 1), signed_ms INTEGER NOT NULL);
INSERT OR IGNORE INTO forgotten VALUES (1, 0);
"""
# The states of a script.
_STARTED, _ENDED, _FAILED = 0, 1, 2


class Earlier(NamedTuple):
    """What is known of a script that was started before.

    Attributes:
        message_id: The broker's id of the message that it came in.
        started_ms: When, ms since the epoch.
        has_ended: Whether it ran to its end.
        has_failed: Whether it failed there, and is to be given up.
    """

    message_id: str
    started_ms: int
    has_ended: bool = False
    has_failed: bool = False

    def has_succeeded(self, message_id: str, *, reruns_interrupted: bool) -> bool:
        """Whether there is nothing left to do for a script that comes in this message; False: it is to run again.

        Raises:
            ScriptRefused: It may not run again.
        """
        if self.message_id != message_id:
            raise ScriptRefused(
                f"it is a replay: this worker noted its start at {self.started_ms}, from message {self.message_id}"
            )
        if self.has_failed:
            raise ScriptRefused(f"it was started at {self.started_ms} and has failed: it is not started again")
        if self.has_ended or reruns_interrupted:
            return self.has_ended
        raise ScriptRefused(
            f"its start was noted at {self.started_ms} and its end was not, as its worker was killed or closed "
            "meanwhile: it is not started again (rerun_interrupted=True would)"
        )


class ScriptJournal:
    """The scripts that one worker has started, in a file that its replicas on this machine share.

    A script is noted before it starts, and what is noted survives a power cut. It is forgotten when it is too old to be
    run in any case. How far that has gone is noted as well: what was signed before that is never run, so that neither a
    clock that is turned back nor a larger `max_age_ms` lets a forgotten script in again.

    Args:
        topic: The topic of the scripts.
        worker_id: The worker.
        max_age_ms: How long ago scripts may have been signed.
        in_memory: Whether nothing is to outlive this process.
    """

    def __init__(self, topic: str, worker_id: str, max_age_ms: float, *, in_memory: bool) -> None:
        self._max_age_ms = max_age_ms
        self._pid = os.getpid()
        self._database = open_journal(
            "scripts",
            # Not by the broker's address: there are several ways to write it, and a replay may come by each.
            (topic, worker_id),
            _SCHEMA,
            purpose="a worker notes which scripts it has started",
            in_memory=in_memory,
            synchronous="FULL",
        )

    def find(self, script_id: bytes) -> Earlier | None:
        """What is known of a script; None if nothing is.

        Raises:
            EdgeServeError: The file can't be read.
        """
        try:
            return self._found(script_id)
        except sqlite3.Error as error:
            raise EdgeServeError(f"it could not be looked up whether a script was started: {error}") from error

    def start(self, script_id: bytes, message_id: str, signed_ms: int, now_ms: int) -> Earlier | None:
        """Note that a script is about to start. What is known of it, if it was noted before: it may not start.

        Raises:
            ScriptRefused: It may have been forgotten.
            EdgeServeError: The file can't be written: the script may not start.
        """
        try:
            with self._transaction():
                horizon_ms = self._forget(now_ms)
                earlier = self._found(script_id)
                if earlier is None and signed_ms <= horizon_ms:
                    raise ScriptRefused(
                        f"it was signed at {signed_ms}, and of what was signed until {horizon_ms} this worker has "
                        "forgotten what it ran"
                    )
                if earlier is None:
                    sql = "INSERT INTO scripts (id, message_id, signed_ms, started_ms) VALUES (?, ?, ?, ?)"
                    self._database.execute(sql, (script_id, message_id, signed_ms, now_ms))
            return earlier
        except sqlite3.Error as error:
            raise EdgeServeError(f"the start of a script could not be noted, so it is not run: {error}") from error

    def take_back(self, script_id: bytes) -> None:
        """Forget a start that was noted and has failed: nothing of the script has run.

        Raises:
            EdgeServeError: The file can't be written.
        """
        try:
            self._database.execute("DELETE FROM scripts WHERE id = ?", (script_id,))
        except sqlite3.Error as error:
            raise EdgeServeError(f"it could not be noted that a script was not started: {error}") from error

    def end(self, script_id: bytes, *, has_failed: bool = False) -> None:
        """Note that a script has ended, and whether it has failed, and is to be given up if it comes again.

        Raises:
            EdgeServeError: The file can't be written.
        """
        try:
            state = _FAILED if has_failed else _ENDED
            self._database.execute("UPDATE scripts SET state = ? WHERE id = ?", (state, script_id))
        except sqlite3.Error as error:
            raise EdgeServeError(f"the end of a script could not be noted: {error}") from error

    def _found(self, script_id: bytes) -> Earlier | None:
        sql = "SELECT message_id, started_ms, state FROM scripts WHERE id = ?"
        for message_id, started_ms, state in self._database.execute(sql, (script_id,)).fetchall():
            return Earlier(message_id, started_ms, state != _STARTED, state == _FAILED)
        return None

    def _forget(self, now_ms: int) -> int:
        """Forget what is too old to be run. Until when what was signed may be forgotten, ms since the epoch."""
        oldest_ms = now_ms - int(self._max_age_ms)
        horizon = "SELECT max(signed_ms) FROM scripts WHERE signed_ms < ?"
        sql = f"UPDATE forgotten SET signed_ms = max(signed_ms, coalesce(({horizon}), 0))"  # noqa: S608 - a constant
        self._database.execute(sql, (oldest_ms,))
        self._database.execute("DELETE FROM scripts WHERE signed_ms < ?", (oldest_ms,))
        ((horizon_ms,),) = self._database.execute("SELECT signed_ms FROM forgotten").fetchall()
        return int(horizon_ms)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Let no replica in between."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file; a child of fork leaves it alone."""
        if self._pid == os.getpid():
            self._database.close()
