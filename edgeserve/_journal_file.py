"""Opening the SQLite files in which an operator notes what must outlive its process."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from edgeserve.address import data_folder
from edgeserve.errors import EdgeServeError


def open_journal(
    folder: str,
    owner: tuple[object, ...],
    schema: str,
    *,
    purpose: str,
    in_memory: bool,
    synchronous: Literal["FULL", "OFF"],
) -> sqlite3.Connection:
    """The file of `owner` in this folder of the machine's data, shared by all processes that are the same owner.

    Args:
        folder: The folder's name.
        owner: What tells one owner from another; its `repr` names the file.
        schema: The SQL that makes the tables where there are none yet.
        purpose: What the file is for, as an error begins with it.
        in_memory: Whether nothing is to outlive this process.
        synchronous: FULL for what must survive a power cut; OFF where surviving the end of the process will do.

    Raises:
        EdgeServeError: The file can't be opened.
    """
    name = hashlib.sha256(repr(owner).encode("utf-8", "replace")).hexdigest()[:24]
    path = ":memory:" if in_memory else data_folder() / folder / f"{name}.db"
    try:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opening:  # closes it when the rest fails
            # Statements are transactions of their own unless one is begun.
            database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
            opening.callback(database.close)
            database.execute("PRAGMA journal_mode = WAL").fetchall()
            database.execute(f"PRAGMA synchronous = {synchronous}")
            database.executescript(schema)
            opening.pop_all()
    except (OSError, sqlite3.Error) as error:
        raise EdgeServeError(f"{purpose} in {path}: {error}") from error
    return database
