"""Which examples a sink has served, kept on disk: what the broker sends again after a kill is not served twice."""

from __future__ import annotations

import os
import sqlite3

from edgeserve._deduplicate import Deduplicate
from edgeserve._journal_file import open_journal
from edgeserve.errors import EdgeServeError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS served (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, served_ms INTEGER NOT NULL)
"""
# Old ones are removed in slices of this many, so that no step pays for many.
_SLICE = 1000


class ServedIds:
    """The ids that one sink has served, in a file that its stand-bys on this machine share.

    An id is written when the callable has returned, before its message is acknowledged. It survives SIGKILL, as what
    is written is the system's; a power cut may take the last ones.
    """

    def __init__(self, limits: Deduplicate, address: str, topics: list[str], sink_id: str) -> None:
        self._limits = limits
        self._pid = os.getpid()
        self._since_removal = 0
        self._database = open_journal(
            "served",
            (address, sorted(topics), sink_id),
            _SCHEMA,
            purpose="deduplicate= keeps the ids that were served",
            in_memory=address.startswith("local://:memory:"),
            synchronous="OFF",
        )

    def has(self, example_id: bytes, wall_ms: int) -> bool:
        """Whether it was served, within the bounds.

        Raises:
            EdgeServeError: The file can't be read.
        """
        sql = "SELECT 1 FROM served WHERE id = ? AND served_ms >= ?"
        try:
            return bool(self._database.execute(sql, (example_id, wall_ms - self._limits.max_age_ms)).fetchall())
        except sqlite3.Error as error:
            raise EdgeServeError(f"what was served could not be looked up: {error}") from error

    def add(self, example_id: bytes, wall_ms: int) -> None:
        """Remember one.

        Raises:
            EdgeServeError: The file can't be written; the example was served, and stays unacknowledged.
        """
        try:
            self._database.execute("INSERT OR REPLACE INTO served (id, served_ms) VALUES (?, ?)", (example_id, wall_ms))
            self._since_removal += 1
            if self._since_removal >= min(_SLICE, self._limits.max_ids):
                self._since_removal = 0
                self._remove(wall_ms)
        except sqlite3.Error as error:
            raise EdgeServeError(f"what was served could not be noted: {error}") from error

    def _remove(self, wall_ms: int) -> None:
        # By number, which is the order of time and has an index; a slice of the oldest for their age.
        sql = "DELETE FROM served WHERE number <= (SELECT max(number) FROM served) - ?"
        self._database.execute(sql, (self._limits.max_ids,))
        oldest = "SELECT number FROM served ORDER BY number LIMIT ?"
        sql = f"DELETE FROM served WHERE number IN ({oldest}) AND served_ms < ?"  # noqa: S608 - a constant
        self._database.execute(sql, (2 * _SLICE, wall_ms - self._limits.max_age_ms))

    def close(self) -> None:
        """Close the file; a child of fork leaves it alone."""
        if self._pid == os.getpid():
            self._database.close()
