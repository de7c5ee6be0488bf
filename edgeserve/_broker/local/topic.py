"""A topic's file: the messages that producers write, and how far each subscription has acknowledged them."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from edgeserve._broker.base import Message
from edgeserve._broker.local.database import PAGE_BYTES, Database, Durability, Schema
from edgeserve._core.clock import wall_ms

_SCHEMA = Schema(
    version=1,
    statements=(
        # `uid` is another each time the topic is made, `is_made` false once it was deleted but could not be removed.
        "CREATE TABLE topic (name TEXT NOT NULL, uid TEXT NOT NULL, is_made INTEGER NOT NULL)",
        """CREATE TABLE messages (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, event_ms INTEGER, publish_ms INTEGER NOT NULL, key TEXT,
            properties TEXT, payload BLOB NOT NULL)""",
        "CREATE TABLE subscriptions (name TEXT PRIMARY KEY, acknowledged INTEGER NOT NULL) WITHOUT ROWID",
    ),
)

_INSERT = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"

# Always of one length, so that SQLite prepares it once; few, because each may be large.
AT_ONCE = 16
_SELECT = f"SELECT * FROM messages WHERE seq IN ({', '.join('?' * AT_ONCE)})"  # noqa: S608 - a constant

# A power cut can take the last commits, and with them numbers that a subscription has passed already. So each writer
# starts beyond any that can have been lost.
_GAP = 1 << 20
_TRIM_ROWS = 20_000
_NOTHING: Mapping[str, str] = MappingProxyType({})

Row = tuple[int | None, int, str | None, str | None, bytes]
"""A message as it is stored, but for its number: event_ms, publish_ms, key, properties, payload."""


class Stored(NamedTuple):
    """A message that is stored: its row."""

    seq: int
    event_ms: int | None
    publish_ms: int
    key: str | None
    properties: str | None
    payload: bytes


def row_of(message: Message) -> Row:
    """The row that stores a message, published now."""
    properties = json.dumps(dict(message.properties)) if message.properties else None
    return message.event_ms, wall_ms(), message.key, properties, bytes(message.payload)


def bytes_of(row: Row) -> int:
    """About what a row takes in the file: what does not fit into one page fills several."""
    _, _, key, properties, payload = row
    size = len(payload) + len(key or "") + len(properties or "") + 32
    return size if size < PAGE_BYTES // 4 else -(-size // (PAGE_BYTES - 4)) * PAGE_BYTES + 64


def properties_of(stored: Stored) -> Mapping[str, str]:
    """The properties of a message that is stored."""
    return _parsed(stored.properties) if stored.properties is not None else _NOTHING


# Nearly all messages of a topic have the same ones, and each that is held would have its own copy.
@lru_cache(maxsize=256)
def _parsed(properties: str) -> Mapping[str, str]:
    parsed: dict[str, str] = json.loads(properties)
    return MappingProxyType(parsed)


class Topic:
    """A topic's open file."""

    def __init__(self, path: Path, name: str | None, durability: Durability) -> None:
        """Open the file at `path`, made if need be; with no `name`, one that was made before."""
        self._database = Database(path, _SCHEMA, durability)
        if name is None:
            rows = self._database.read("SELECT name FROM topic")
            name = rows[0][0] if rows else ""
        self.name = name
        self._has_written = False

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def changed(self) -> bool:
        """Whether somebody else has written since this was last asked; yes at first."""
        return self._database.changed()

    # What is there.

    @property
    def is_made(self) -> bool:
        """Whether the topic exists: neither only its file, nor what is left of it while others have it open."""
        return bool(self._database.read("SELECT 1 FROM topic WHERE is_made"))

    def has_beyond(self, seq: int) -> bool:
        """Whether there is a message with a greater number."""
        return bool(self._database.read("SELECT 1 FROM messages WHERE seq > ? LIMIT 1", (seq,)))

    def keys_beyond(self, seq: int, limit: int) -> list[tuple[int, str | None]]:
        """Numbers and keys of the messages that come next."""
        return self._database.read("SELECT seq, key FROM messages WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))

    def key(self, seq: int) -> str | None:
        """The key of one message."""
        rows = self._database.read("SELECT key FROM messages WHERE seq = ?", (seq,))
        return rows[0][0] if rows else None

    def messages(self, seqs: Sequence[int]) -> dict[int, Stored]:
        """Those of these messages that are stored, by number; at most `AT_ONCE` of them."""
        padded = (*seqs, *[seqs[-1]] * (AT_ONCE - len(seqs)))
        return {row[0]: Stored(*row) for row in self._database.read(_SELECT, padded)}

    def used_bytes(self) -> int:
        """How much of the file is in use; 0 if there are no messages."""
        if not self.has_beyond(0):
            return 0
        ((free,),) = self._database.read("PRAGMA freelist_count")
        return self.file_bytes() - int(free) * PAGE_BYTES

    def file_bytes(self) -> int:
        """How large the file is, with what is free in it."""
        ((pages,),) = self._database.read("PRAGMA page_count")
        return int(pages) * PAGE_BYTES

    def count(self) -> int:
        """How many messages there are."""
        ((count,),) = self._database.read("SELECT count(*) FROM messages")
        return int(count)

    def backlog(self, cursor: int, earlier: Sequence[int]) -> tuple[int, int]:
        """Messages and bytes of payload: those beyond `cursor`, and the `earlier` ones."""
        sql = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM messages WHERE seq "
        ((count, size),) = self._database.read(sql + "> ?", (cursor,))
        for seq in earlier:
            ((one, its_size),) = self._database.read(sql + "= ?", (seq,))
            count, size = count + one, size + its_size
        return count, size

    # Writing.

    def make(self) -> None:
        """Make the topic, if it is not there."""
        if not self.is_made:
            with self._database.write() as sql:
                self._make(sql)

    def _make(self, sql: sqlite3.Connection) -> None:
        if not sql.execute("SELECT 1 FROM topic WHERE is_made").fetchall():
            sql.execute("DELETE FROM topic")
            sql.execute("INSERT INTO topic VALUES (?, ?, 1)", (self.name, uuid.uuid4().hex[:12]))

    def append(self, rows: Sequence[Row]) -> None:
        """Store messages, in one transaction; in a topic that was deleted, make it again."""
        with self._database.write() as sql:
            self._make(sql)
            seq: int | None = None  # SQLite goes on counting
            if not self._has_written:
                last = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchall()
                seq = last[0][0] + _GAP if last else 1
            sql.execute(_INSERT, (seq, *rows[0]))
            sql.executemany(_INSERT, ((None, *row) for row in rows[1:]))
        self._has_written = True

    # Subscriptions.

    def subscribe(self, subscription: str) -> str:
        """Keep messages for a subscription from now on. The topic's `uid`."""
        with self._database.write() as sql:
            self._make(sql)
            sql.execute("INSERT OR IGNORE INTO subscriptions VALUES (?, 0)", (subscription,))
            ((uid,),) = sql.execute("SELECT uid FROM topic").fetchall()
        return str(uid)

    def unsubscribe(self, subscription: str) -> None:
        """Keep nothing for a subscription any more."""
        with self._database.write() as sql:
            sql.execute("DELETE FROM subscriptions WHERE name = ?", (subscription,))

    def subscriptions(self) -> dict[str, int]:
        """The subscriptions, by name, with the number up to which each has acknowledged all."""
        return dict(self._database.read("SELECT name, acknowledged FROM subscriptions ORDER BY name"))

    def behind(self) -> Sequence[str]:
        """The subscriptions that have not acknowledged all there is."""
        sql = "SELECT name FROM subscriptions WHERE acknowledged < (SELECT max(seq) FROM messages) ORDER BY name"
        return [name for (name,) in self._database.read(sql)]

    def acknowledged(self, subscription: str, seq: int) -> None:
        """Note that a subscription has acknowledged all up to `seq`."""
        if self.subscriptions().get(subscription, seq) < seq:
            with self._database.write() as sql:
                sql.execute("UPDATE subscriptions SET acknowledged = ? WHERE name = ?", (seq, subscription))

    def trim(self) -> bool:
        """Remove a slice of what all subscriptions have acknowledged. Whether there is more."""
        done = min(self.subscriptions().values(), default=0)
        if not self._database.read("SELECT 1 FROM messages WHERE seq <= ? LIMIT 1", (done,)):
            return False
        slice_sql = "SELECT max(seq) FROM (SELECT seq FROM messages WHERE seq <= ? ORDER BY seq LIMIT ?)"
        with self._database.write() as sql:
            # Asked again: a subscription may have come since.
            sql.execute(
                f"DELETE FROM messages WHERE seq <= ({slice_sql})"  # noqa: S608 - a constant
                " AND seq <= (SELECT min(acknowledged) FROM subscriptions)",
                (done, _TRIM_ROWS),
            )
        return True

    def remove(self) -> None:
        """Remove the topic with all it holds. A producer that still has it makes it again with its next message."""
        with self._database.write() as sql:
            sql.execute("DELETE FROM messages")
            sql.execute("DELETE FROM subscriptions")
            sql.execute("UPDATE topic SET is_made = 0")
        self._database.remove_unless_shared()
