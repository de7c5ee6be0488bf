"""The files in which operators note what must outlive them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgeserve._journal_file import open_journal
from edgeserve.errors import EdgeServeError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path))
    return tmp_path


def opened(owner: str = "a", *, in_memory: bool = False) -> sqlite3.Connection:
    schema = "CREATE TABLE IF NOT EXISTS noted (id INTEGER)"
    return open_journal("notes", (owner,), schema, purpose="it notes", in_memory=in_memory, synchronous="OFF")


def count(database: sqlite3.Connection) -> int:
    ((number,),) = database.execute("SELECT count(*) FROM noted").fetchall()
    return int(number)


def test_what_is_noted_is_there_for_the_same_owner_and_for_no_other() -> None:
    for in_memory, found in ((False, 1), (True, 0)):
        database = opened(in_memory=in_memory)
        database.execute("INSERT INTO noted VALUES (1)")
        database.close()
        again, other = opened(in_memory=in_memory), opened("b", in_memory=in_memory)
        assert (count(again), count(other)) == (found, 0)
        again.close()
        other.close()


def test_a_file_that_is_no_database_is_named_and_not_kept_open(home: Path) -> None:
    opened().close()
    (path,) = (home / "notes").glob("*.db")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(EdgeServeError, match=f"it notes in {path}: file is not a database") as raised:
        opened()
    assert raised.tb is not None, "what holds on to the frame that opened it"
    assert not [link for link in Path("/proc/self/fd").glob("*") if link.is_symlink() and link.readlink() == path]
