"""One SQLite file that several processes use: how it is opened, read, written in turns, and removed."""

from __future__ import annotations

import contextlib
import enum
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from edgeserve._broker.local.locks import FileLock
from edgeserve._core.clock import pause_ms, steady_ms

T = TypeVar("T")

APPLICATION_ID = 0x45536C62  # "ESlb", in the header of each of our files

PAGE_BYTES = 4096

# SQLite's own busy handler sleeps for 1-100 ms, so we try again by ourselves.
_RETRY_MS = 0.1
_GIVE_UP_MS = 30_000


class Durability(enum.Enum):
    """What outlives what: the values of `PRAGMA synchronous`."""

    OFF = "OFF"
    """For a broker in memory."""
    NORMAL = "NORMAL"
    """What is committed survives the death of every process."""
    FULL = "FULL"
    """And a power cut."""


class Schema(NamedTuple):
    """The tables of one kind of file.

    Attributes:
        version: Grows with each change; a file of another version is refused.
        statements: What makes them.
    """

    version: int
    statements: tuple[str, ...]


class ForeignFile(sqlite3.DatabaseError):
    """A file that is no database of ours, or one of another version."""


class Database:
    """An open file. One thread at a time uses it; its `Session` sees to that.

    Writers of all processes take turns by a lock on a file beside it. SQLite would serialise them too, but leaves
    their waiting to us, and its releases before 3.51.3 can lose pages when two connections commit and checkpoint
    at the same moment (the "WAL-reset bug").
    """

    def __init__(self, path: Path, schema: Schema, durability: Durability) -> None:
        self.path = path
        self._turn = FileLock(path.with_suffix(".lock"))
        self._seen_version: int | None = None
        try:
            with self._its_turn():
                if not path.exists() or path.stat().st_size == 0:
                    _make(path, schema, durability)
                self._sql = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
                try:
                    _patiently(lambda: self._prepare(schema, durability))
                except BaseException:
                    self._sql.close()
                    raise
        except BaseException:
            self._turn.close()
            raise

    def _prepare(self, schema: Schema, durability: Durability) -> None:
        ((application,),) = self._sql.execute("PRAGMA application_id").fetchall()
        if application != APPLICATION_ID:
            raise ForeignFile(f"{self.path} is no file of the local broker's")
        ((version,),) = self._sql.execute("PRAGMA user_version").fetchall()
        if version != schema.version:
            raise ForeignFile(f"{self.path} has format {version}, and this release of edgeserve reads {schema.version}")
        self._sql.execute(f"PRAGMA synchronous = {durability.value}")
        self._sql.execute("PRAGMA wal_autocheckpoint = 1000").fetchall()
        self._sql.execute(f"PRAGMA journal_size_limit = {16 << 20}").fetchall()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows; nothing is left open that could hold up a checkpoint."""
        return _patiently(lambda: self._sql.execute(sql, parameters).fetchall())

    def changed(self) -> bool:
        """Whether another connection has committed since this was last asked; yes at first."""
        version: int = _patiently(lambda: self._sql.execute("PRAGMA data_version").fetchall())[0][0]
        is_new, self._seen_version = version != self._seen_version, version
        return is_new

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which no other process's overlaps."""
        with self._its_turn(), self._transaction():
            yield self._sql

    def remove_unless_shared(self) -> None:
        """Remove the file, unless another connection has it open; close this one."""
        with self._its_turn():
            try:
                # SQLite allows this to the only connection there is, and opening one takes a turn too.
                _patiently(lambda: self._sql.execute("PRAGMA journal_mode = DELETE").fetchall(), give_up_ms=0)
            except sqlite3.OperationalError:
                with contextlib.suppress(sqlite3.OperationalError):
                    self._sql.execute("VACUUM")
                return
            self._sql.close()
            self.path.unlink()
            self._turn.remove()
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._sql.close()
        self._turn.close()

    @contextlib.contextmanager
    def _its_turn(self) -> Iterator[None]:
        self._turn.acquire()
        try:
            yield
        finally:
            self._turn.release()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._sql.in_transaction:  # Ctrl-C came between two lines of the one before
            self._sql.execute("ROLLBACK")
        try:
            _patiently(lambda: self._sql.execute("BEGIN IMMEDIATE"))
            yield
            _patiently(lambda: self._sql.execute("COMMIT"))
        except BaseException:
            if self._sql.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._sql.execute("ROLLBACK")
            raise


def _make(path: Path, schema: Schema, durability: Durability) -> None:
    """Make a new file, so that it is there whole or not at all."""
    for suffix in ("-wal", "-shm"):  # of a file that somebody removed; SQLite would take them for the new one's
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(_empty(schema))
        if durability is Durability.FULL:
            file.flush()
            os.fsync(file.fileno())
    part.replace(path)


@lru_cache
def _empty(schema: Schema) -> bytes:
    """The bytes of a file with empty tables; to copy them takes a tenth of the time of making them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "empty.db")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as sql:
            sql.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            for statement in schema.statements:
                sql.execute(statement)
            sql.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            sql.execute(f"PRAGMA user_version = {schema.version}")
            sql.execute("PRAGMA journal_mode = WAL").fetchall()
        return path.read_bytes()


def _patiently(attempt: Callable[[], T], give_up_ms: int = _GIVE_UP_MS) -> T:
    """Try again for as long as another connection is in the way: recovering after a crash, or closing as the last."""
    started_ms: float | None = None
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "locking" not in str(error):
                raise
            now_ms = steady_ms()
            started_ms = now_ms if started_ms is None else started_ms
            if now_ms - started_ms >= give_up_ms:
                raise
        pause_ms(_RETRY_MS)
