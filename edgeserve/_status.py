"""What `edgeserve top` sees of a process: a small file, written once a second while somebody looks.

One side is in every process that has open operators: a thread that looks once a second whether it is watched, and only
then measures and writes. The other side asks, by touching a file, and reads. Both are of one user, whose folder it is.
A file counts for as long as its writer holds the lock beside it, which the system takes from a process that dies.

Where several users share `$EDGESERVE_HOME`, anyone may have made a folder of that name first, and put links there to
what is to be overwritten. So nothing is read or written in a folder that is not this user's own, or that others may
write to.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeserve import _watch
from edgeserve._at_exit import Stage, at_exit
from edgeserve._core.clock import steady_s, wall_ms
from edgeserve._core.histogram import Histogram
from edgeserve._logging import logger
from edgeserve._watch import Reading, Watched
from edgeserve.address import data_folder

if TYPE_CHECKING:
    from edgeserve._broker.local.locks import FileLock

SWITCH = "EDGESERVE_TOP"
"""The variable that keeps a process from being watched, when it is `off`."""

LOOK_S = 1.0
"""How often a process looks whether it is watched, and writes if it is."""

RATES_S = 10.0
"""Over how long rates and durations are taken."""

_log = logger("top")

_VERSION = 1
_WATCHED_S = 5.0
_REQUEST = "watched"
_WATCHER = "top"


class FolderRefused(PermissionError):
    """Others could write where this user's requests and statuses are."""


def status_folder() -> Path:
    """Where requests and statuses are: a folder of this user's own, also where several share `$EDGESERVE_HOME`."""
    name = f"top-{os.getuid()}" if hasattr(os, "getuid") else "top"
    return data_folder() / name


def _is_there(folder: Path) -> bool:
    """Whether the folder is there.

    Raises:
        FolderRefused: It is not this user's alone.
    """
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    if sys.platform != "win32":
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise FolderRefused(f"{folder} is no folder of this user's own: remove it")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise FolderRefused(f"others may write to {folder}: remove it, and all that is in it")
    return True


# What is watched


class _Writer:
    """Writes what this process's operators do. `tick` is called by one thread, `close` by any."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._lock = threading.RLock()  # a signal handler of the user's may close operators, too
        self._held: FileLock | None = None
        self._is_closed = False
        self._history: deque[tuple[float, Mapping[Watched, Reading]]] = deque()

    def tick(self) -> None:
        """Write if somebody watches; else undo what is there."""
        with self._lock:
            if self._is_closed:
                return
            folder = self._folder = self._folder or status_folder()  # not at once, as it may take an import
            try:
                is_watched = _is_there(folder) and _is_watched(folder)
            except FolderRefused:
                self._stop()
                raise
            if is_watched:
                _watch.turn_on(_WATCHER)
                self._write(folder)
            else:
                self._stop()

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            self._is_closed = True
            self._stop()

    def abandon(self) -> None:
        """In a child of fork: the file is the parent's, and so is the lock, of which this is a copy."""
        if self._held is not None:
            self._held.close()

    def _write(self, folder: Path) -> None:
        if self._held is None:
            from edgeserve._broker.local.locks import hold_new

            self._held = hold_new(folder)
        now_s = steady_s()
        self._history.append((now_s, _watch.readings()))
        while now_s - self._history[0][0] > RATES_S:
            self._history.popleft()
        status = {
            "version": _VERSION,
            "pid": os.getpid(),
            "written_ms": wall_ms(),
            "operators": list(self._operators()),
        }
        path = self._held.path.with_suffix(".json")
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)  # the disk may have been full
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(status, file)
        new.replace(path)

    def _operators(self) -> Iterator[dict[str, Any]]:
        now_s, readings = self._history[-1]
        for watched, reading in readings.items():
            since_s, earlier = next((when_s, seen[watched]) for when_s, seen in self._history if watched in seen)
            yield _record(watched, reading, earlier, now_s - since_s)

    def _stop(self) -> None:
        _watch.turn_off(_WATCHER)
        self._history.clear()
        held, self._held = self._held, None
        if held is not None:
            with suppress(OSError):
                held.path.with_suffix(".json").unlink(missing_ok=True)
                held.remove()
            held.close()


def _is_watched(folder: Path) -> bool:
    try:
        touched_s = os.stat(folder / _REQUEST).st_mtime
    except OSError:
        return False
    return abs(wall_ms() / 1000 - touched_s) < _WATCHED_S


def _record(watched: Watched, reading: Reading, earlier: Reading, since_s: float) -> dict[str, Any]:
    """An operator as a status and `edgeserve top --json` have it; rates and durations are those of `since_s`."""
    now, before = reading.stats, earlier.stats
    key = watched.key
    record: dict[str, Any] = {
        "operator": key.operator,
        "class": key.kind,
        "topics_in": key.topics_in,
        "topics_out": key.topics_out,
        "over_s": round(since_s, 3),
        "received_per_s": round((now.received - before.received) / since_s, 3) if since_s else None,
        "sent_per_s": round((now.sent - before.sent) / since_s, 3) if since_s else None,
    }
    for what in ("step", "fetch", "end_to_end"):
        recent: Histogram = getattr(reading, what).since(getattr(earlier, what))
        for share in (50, 99):
            quantile_s = recent.quantile_s(share / 100)
            record[f"{what}_p{share}_ms"] = None if quantile_s is None else round(1000 * quantile_s, 6)
    return record | {
        "queued": reading.queued,
        "held": now.held,
        "unconfirmed": now.unconfirmed,
        "received": now.received,
        "sent": now.sent,
        "escalated": now.escalated,
        "dead_letters": now.dead_letters,
        "fates": {fate.value: count for fate, count in now.fates.items()},
    }


class _Thread:
    """Ticks, until it is ended."""

    def __init__(self) -> None:
        self.writer = _Writer()
        self._end = threading.Event()
        threading.Thread(target=self._run, name="edgeserve-top", daemon=True).start()

    def _run(self) -> None:
        while not self._end.wait(LOOK_S):
            try:
                self.writer.tick()
            except FolderRefused as error:
                _say_once(error)
            except Exception as error:  # noqa: BLE001 - nobody is to be disturbed because somebody looks
                _log.debug("this process can't be watched: %s", error)

    def end(self) -> None:
        """Tick no more."""
        self._end.set()
        with suppress(OSError):
            self.writer.close()


class _State:
    """What this process has of it; a child of fork begins with nothing."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.thread: _Thread | None = None
        self.has_said_why = False


_state = _State()


def _say_once(error: FolderRefused) -> None:
    if not _state.has_said_why:
        _state.has_said_why = True
        _log.warning("`edgeserve top` does not show this process: %s", error)


def begin() -> None:
    """An operator was opened."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return
    with _state.lock:
        if _state.thread is None:
            _state.thread = _Thread()


def end() -> None:
    """An operator was closed: if it was the last one, nobody looks any more whether somebody watches."""
    with _state.lock:
        if not _watch.has_open():  # asked under the lock, for another one may be opened meanwhile
            _end_thread()


def _end_thread() -> None:
    with _state.lock:
        if _state.thread is not None:
            _state.thread.end()
            _state.thread = None


def forget_parents() -> None:
    """In a child of fork: the thread is the parent's."""
    global _state  # noqa: PLW0603 - its lock may have been taken
    if _state.thread is not None:
        _state.thread.writer.abandon()
    _state = _State()


at_exit(Stage.FOLDERS, _end_thread)


# Who watches


def ask() -> None:
    """Have the processes of this user tell what they do, for the next few seconds.

    Raises:
        OSError: There is no place to ask.
    """
    folder = status_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _is_there(folder)
    (folder / _REQUEST).touch(mode=0o600)


def read_statuses() -> list[dict[str, Any]]:
    """The operators of this user's processes that answer, by name; what dead processes left is removed.

    Raises:
        FolderRefused: The folder is not this user's alone.
    """
    folder = status_folder()
    records = []
    for path in folder.glob("*.json") if _is_there(folder) else ():
        with suppress(OSError, ValueError):  # it may be gone since, or another one's that has nothing to say here
            if not _is_alive(path):
                continue
            status = _read(path)
            if status.get("version") == _VERSION:  # else it is of a process that has another version of this package
                silent_s = round(max(0, wall_ms() - status["written_ms"]) / 1000, 1)
                records += [{"pid": status["pid"], **each, "silent_s": silent_s} for each in status["operators"]]
    return sorted(records, key=lambda record: (record["operator"], record["pid"], record["class"]))


def _read(path: Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        found = os.fstat(file.fileno())
        if sys.platform != "win32" and (found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode)):
            raise OSError(f"{path} is not a file of this user's")
        status = json.load(file)
    return status if isinstance(status, dict) else {}


def _is_alive(path: Path) -> bool:
    from edgeserve._broker.local.locks import FileLock, is_held

    lock = path.with_suffix(".lock")
    if is_held(lock):
        return True
    for left in (path, path.with_suffix(".new")):
        left.unlink(missing_ok=True)
    if lock.exists():
        FileLock(lock).remove()
    return False
