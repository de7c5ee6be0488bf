"""The databases that one user of the broker has open, and what a fork does to them.

SQLite keeps tables of its open files and locks for the whole process. A forked child inherits them in a state that
is not its own, so that neither what it inherited nor what it opens on the same paths can be trusted. All files are
therefore closed before a fork, and opened again when they are next needed.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar, cast

from edgeserve._broker.local.locks import FileLock, hold_new

FORKED = "a connection to the local broker can't be used by a forked process: open another there"


class ForkedSession(Exception):
    """A connection was used by a process that inherited it over a fork."""


class Closable(Protocol):
    """What a session keeps open."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)


class Session:
    """Open files and the lock that guards them: use them only within `with session:`.

    A consumer, a writer and each administrative call have their own. A thread is never in two of them at once, so
    that a fork can wait for all.

    Attributes:
        is_inherited: Whether this is a forked child's copy, which is of no use.
    """

    def __init__(self, most_files: int | None = None) -> None:
        self._lock = threading.RLock()
        self._most_files = most_files
        self._depth = 0
        self._open: OrderedDict[Path, Closable] = OrderedDict()
        self.is_inherited = False
        with _registry_lock:
            _sessions.add(self)

    def __enter__(self) -> Session:
        self._lock.acquire()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._depth == 1:
                self.close_surplus()
        finally:
            self._depth -= 1
            self._lock.release()

    def use(self, path: Path, opener: Callable[[], C]) -> C:
        """What is open at `path`, else what `opener` opens; open until the session is left, or `close_surplus`."""
        if self.is_inherited:
            raise ForkedSession(FORKED)
        found = self._open.get(path)
        if found is None:
            found = self._open[path] = opener()
        else:
            self._open.move_to_end(path)
        return cast(C, found)

    def close_surplus(self) -> None:
        """Close what was not used for longest, down to the bound; only where nothing that `use` gave is in use."""
        while self._most_files is not None and len(self._open) > self._most_files:
            self._open.popitem(last=False)[1].close()

    def close(self) -> None:
        """Close all files; they are opened again when they are next used."""
        with self:
            while self._open:
                self._open.popitem()[1].close()

    def before_fork(self) -> None:
        """Wait until nobody is in the session, keep everybody out, and close all files."""
        self._lock.acquire()
        self.close()

    def after_fork(self, in_child: bool) -> None:  # noqa: FBT001 - called by this module alone
        """Let the session's users in again, but none in the child."""
        self.is_inherited = in_child
        self._lock.release()


class Lifeline:
    """A lock that is held for as long as its connection, or at most its process, lives."""

    def __init__(self, folder: Path) -> None:
        with _registry_lock:
            self._lock: FileLock = hold_new(folder)
            _lifelines.add(self)

    @property
    def path(self) -> Path:
        """Where others look whether it is held."""
        return self._lock.path

    def let_go(self) -> None:
        """Release the lock, and remove its file."""
        with _registry_lock:
            _lifelines.discard(self)
            self._lock.remove()
            self._lock.close()

    def drop_copy(self) -> None:
        """In a forked child: close the inherited file, with which the lock would outlive the parent."""
        self._lock.close()


_registry_lock = threading.Lock()
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_lifelines: set[Lifeline] = set()
_stopped_for_fork: list[Session] = []


def _before_fork() -> None:
    _registry_lock.acquire()
    for session in list(_sessions):
        session.before_fork()
        _stopped_for_fork.append(session)


def _after_fork(in_child: bool) -> None:  # noqa: FBT001 - called by this module alone
    if in_child:
        while _lifelines:
            _lifelines.pop().drop_copy()
    while _stopped_for_fork:
        _stopped_for_fork.pop().after_fork(in_child)
    _registry_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(in_child=False),
        after_in_child=lambda: _after_fork(in_child=True),
    )
