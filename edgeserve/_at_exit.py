"""What is done when the interpreter exits, in an order that does not depend on what was imported when."""

from __future__ import annotations

import atexit
import enum
from collections.abc import Callable

from edgeserve._logging import last_words, logger

_log = logger("exit")


class Stage(enum.IntEnum):
    """What is done first has the smaller number."""

    OPERATORS = 1
    """They flush, and acknowledge what is confirmed, over connections that are still open."""
    CONNECTIONS = 2
    """They close their files."""
    FOLDERS = 3
    """Brokers in memory end."""


_calls: list[tuple[Stage, Callable[[], object]]] = []


def at_exit(stage: Stage, call: Callable[[], object]) -> None:
    """Have `call` called at exit; within a stage, in the order in which they were registered."""
    _calls.append((stage, call))


def _run() -> None:
    for _, call in sorted(_calls, key=lambda entry: entry[0]):
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - what comes after it must be done all the same, also after Ctrl-C
            last_words(_log, "while the interpreter exits: %r", error)


atexit.register(_run)
