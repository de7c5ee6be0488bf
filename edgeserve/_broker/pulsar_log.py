"""What Pulsar's client logs, in the tree of loggers or in a file. Nothing here imports the client.

It has one log for the process, of one level: what the first client is given counts, whatever later ones are given.

It may not be a Python logger. The client calls that on threads of its own, which then need the interpreter: while they
hold locks that others wait for, and when the interpreter ends. With client 3.13 and everything logged, a process that
had closed its client aborted at its end in 4 of 30 runs, and in none with a file. A pipe is no better: once it is full
the client's threads block. So the client writes to a file without a name, which a thread of ours reads.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from edgeserve._core.clock import pause_ms
from edgeserve._logging import is_heard, logger
from edgeserve.errors import UsageError

FILE_VARIABLE = "EDGESERVE_PULSAR_LOG"

_log = logger("broker.pulsar.client")

_LOOK_MS = 100
_CHUNK_BYTES = 1 << 16
# What was read is cut off beyond this.
_MOST_BYTES = 4 << 20
# So much is there at most; then what was not read is cut off with it.
_MOST_UNREAD_BYTES = 64 << 20
_LAST_LOOK_S = 1.0
_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) +([A-Z]+) +\[[^]]*\] ([^:|]+):(\d+) \| (.*)")
# The client's names, in its API and in its lines.
_LEVELS = {
    logging.DEBUG: ("Debug", "DEBUG"),
    logging.INFO: ("Info", "INFO"),
    logging.WARNING: ("Warn", "WARN"),
    logging.ERROR: ("Error", "ERROR"),
}
_LEVEL_OF = {line: level for level, (_, line) in _LEVELS.items()}

_lock = threading.Lock()
_is_chosen = False
_follower: _Follower | None = None


@contextlib.contextmanager
def client_logger(library: ModuleType) -> Iterator[Any]:
    """What to give a client as its logger; the first one that is made with it decides for the process.

    Raises:
        UsageError: The file that `$EDGESERVE_PULSAR_LOG` names can't be written.
    """
    global _is_chosen, _follower  # noqa: PLW0603 - the client's log is the process's, too
    with _lock:
        level = next((level for level in _LEVELS if is_heard(_log, level)), None)
        path = os.environ.get(FILE_VARIABLE)
        if _is_chosen or (level is None and not path):
            yield library.FileLogger(library.LoggerLevel.Error, os.devnull)
        elif path:
            _check_file(path)
            level = logging.DEBUG if level == logging.DEBUG else logging.INFO
            yield library.FileLogger(getattr(library.LoggerLevel, _LEVELS[level][0]), path)
        else:
            with _nameless_file() as (descriptor, path):
                yield library.FileLogger(getattr(library.LoggerLevel, _LEVELS[level or logging.INFO][0]), path)
                _follower = _Follower(descriptor)
                _follower.start()
        _is_chosen = True


def pass_on() -> None:
    """Pass on what was logged up to now; for the process's end."""
    if _follower is not None:
        _follower.pass_on(_LAST_LOOK_S)


def in_child_of_fork() -> None:
    """In a child, what its own clients log goes on to its parent, which reads the file that they share."""
    global _lock, _follower  # they may have been in use by other threads of the parent
    _lock, _follower = threading.Lock(), None


def _check_file(path: str) -> None:
    try:
        with open(path, "ab"):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(f"{FILE_VARIABLE} is {path!r}, where the log of Pulsar's client can't be: {error}") from error


@contextlib.contextmanager
def _nameless_file() -> Iterator[tuple[int, str]]:
    """A file that goes when nobody has it open any more; it has a name within the block."""
    descriptor, path = tempfile.mkstemp(prefix="edgeserve-pulsar-", suffix=".log")
    try:
        yield descriptor, path
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        with contextlib.suppress(OSError):  # where a file that is open keeps its name
            os.unlink(path)


class _Follower:
    """A thread that makes records of the lines in a file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._rest = b""
        self._level = logging.INFO

    def start(self) -> None:
        threading.Thread(target=self._run, name="edgeserve-pulsar-log", daemon=True).start()

    def _run(self) -> None:
        while True:
            pause_ms(_LOOK_MS)
            with contextlib.suppress(Exception):  # the next lines may be better
                self.pass_on(-1)

    def pass_on(self, limit_s: float) -> None:
        if not self._lock.acquire(timeout=limit_s):
            return  # a handler blocks
        try:
            while chunk := os.read(self._descriptor, _CHUNK_BYTES):
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                for line in lines:
                    with contextlib.suppress(Exception):  # of a filter, or of a line as nobody thought of it
                        self._record(line.decode("utf-8", "replace"))
                self._cut_off()
        finally:
            self._lock.release()

    def _cut_off(self) -> None:
        """Keep the file from growing without bound."""
        read_bytes = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if read_bytes <= _MOST_BYTES:
            return
        # What is written between the two calls would be lost: a line now and then, of thousands.
        unread_bytes = os.fstat(self._descriptor).st_size - read_bytes
        if not 0 < unread_bytes < _MOST_UNREAD_BYTES:
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            if unread_bytes > 0:
                self._rest = b""
                _log.warning(
                    "%d bytes of this log came faster than they could be passed on, and are lost", unread_bytes
                )

    def _record(self, line: str) -> None:
        # Lines that the client's threads write at the same moment can be mixed up, and messages can be of several.
        found = _LINE.fullmatch(line)
        written_s = _seconds(found[1]) if found is not None else None
        if found is not None and written_s is not None:
            self._level = _LEVEL_OF.get(found[2], logging.INFO)
        if not line.strip() or not _log.isEnabledFor(self._level):
            return
        if found is None or written_s is None:
            record = _log.makeRecord(_log.name, self._level, "", 0, line, (), None)
        else:
            record = _log.makeRecord(_log.name, self._level, found[3], int(found[4]), found[5], (), None)
            record.created = written_s
            record.msecs = written_s * 1000 % 1000
        _log.handle(record)


def _seconds(written: str) -> float | None:
    """The time that a line says; None if there is none such, as where two lines are mixed up."""
    try:
        return datetime.datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
