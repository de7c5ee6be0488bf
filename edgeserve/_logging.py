"""Where every logger of the package comes from: quiet unless the user listens, and one line for each event.

`edgeserve` has a handler that does nothing. Without any, Python's last resort would write warnings to stderr.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback

from edgeserve._core.clock import steady_ms

_EVERY_MS = 60_000


def logger(name: str | None = None) -> logging.Logger:
    """The logger `edgeserve.NAME`; without a name, the one above all of them."""
    made = logging.getLogger("edgeserve" if name is None else f"edgeserve.{name}")
    made.addFilter(_in_one_line)
    return made


def _in_one_line(record: logging.LogRecord) -> bool:
    """Make one line of a message that quotes others, and of an exception; the traceback is for those who debug.

    What is quoted may be no Unicode, as the names of files, and no handler could write it.
    """
    try:
        said = record.getMessage()
    except Exception:  # noqa: BLE001 - the handler that formats it meets it again, and says it its way
        return True
    text = said
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        text = f"{text}: {type(error).__name__}: {error}"
        if not logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            where = traceback.extract_tb(record.exc_info[2])[-1:]
            text += "".join(f" ({frame.filename}:{frame.lineno} in {frame.name})" for frame in where)
            record.exc_info = None
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(text.splitlines()) > 1:
        text = " ".join(text.split())
    if text != said:
        record.msg, record.args = text, ()
    return True


def is_heard(log: logging.Logger, level: int) -> bool:
    """Whether anybody would get a record of this level."""
    if not log.isEnabledFor(level):
        return False
    at: logging.Logger | None = log
    while at is not None:
        if any(level >= each.level and not isinstance(each, logging.NullHandler) for each in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def last_words(log: logging.Logger, message: str, *args: object) -> None:
    """Log an error that no caller is left to get; on stderr if nobody listens to the log, as it may be of a loss."""
    log.error(message, *args)
    if not is_heard(log, logging.ERROR) and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # it may be closed
            sys.stderr.write(f"edgeserve: {' '.join((message % args).split())}\n")


logger().addHandler(logging.NullHandler())


class Seldom:
    """Says what may happen again and again: at once the first time, then once a minute, with how often it was.

    Args:
        log: Where it is said.
        level: At which level.
    """

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self._lock = threading.Lock()
        self._said_ms: float | None = None
        self._unsaid: tuple[str, tuple[object, ...]] | None = None
        self._times = 0

    def say(self, message: str, *args: object) -> None:
        """Say it, or count it."""
        with self._lock:
            if not self.is_due:
                self._unsaid = (message, args)
                self._times += 1
                return
            self._said_ms = steady_ms()
            times, self._times, self._unsaid = self._times, 0, None
        if times:
            message, args = f"{message} (and %d times since the last such line)", (*args, times)
        self._log.log(self._level, message, *args)

    @property
    def is_due(self) -> bool:
        """Whether it would be said now, and not counted."""
        return self._said_ms is None or steady_ms() - self._said_ms >= _EVERY_MS

    def over(self) -> None:
        """Begin anew: the next time is a first time."""
        with self._lock:
            self._said_ms, self._unsaid, self._times = None, None, 0

    def close(self) -> None:
        """Say what was only counted."""
        with self._lock:
            unsaid, times = self._unsaid, self._times
            self._unsaid, self._times = None, 0
        if unsaid is not None:
            message, args = unsaid
            self._log.log(self._level, f"{message} (the last of %d since the last such line)", *args, times)
