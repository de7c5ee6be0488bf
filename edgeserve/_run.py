"""Running operators until they end, fail, or are told to stop."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Protocol

from edgeserve._logging import logger
from edgeserve.errors import UsageError

_log = logger("run")

# How long a thread whose operator is closed may take to end; one that is inside a stream which blocks never does.
_END_S = 0.2
_SLICE_S = 0.2


class Runnable(Protocol):
    """What `run` needs of an operator."""

    @property
    def name(self) -> str:
        """The operator's name."""

    def __next__(self) -> object:
        """Make one step."""

    def stop(self) -> None:
        """Ask for the end."""

    def close(self) -> None:
        """Give everything back."""


def run(*operators: Runnable) -> None:
    """Run operators on this node, each in a thread of its own, until all have ended or they are told to stop.

    They stop on SIGTERM (when called in the main thread), on Ctrl-C, when one of them fails, and on `stop()` of each.
    All are closed in the end, in the order in which they are given: name what sends before what receives.

    Raises:
        UsageError: There are none, or one is given twice.
        KeyboardInterrupt: Ctrl-C.
        Exception: What the step of one operator raised, with a note that names the operator; the first, if several.
    """
    if not operators:
        raise UsageError("there is nothing to run: give one operator or more")
    for operator in operators:
        if not (hasattr(operator, "__next__") and hasattr(operator, "stop")):
            raise UsageError(f"run() takes operators, each an argument of its own, not {type(operator).__name__}")
    if len({id(operator) for operator in operators}) < len(operators):
        raise UsageError("an operator is given twice: each runs in one thread")
    group = _Group(operators)
    with _sigterm(group.tell_to_stop):
        try:
            group.start()
            group.wait()
        finally:
            group.close()
    if group.failures:
        raise group.failures[0]


class _Group:
    """Operators that run together: when one fails, all stop."""

    def __init__(self, operators: Sequence[Runnable]) -> None:
        self.failures: list[BaseException] = []
        self._operators = operators
        self._running = len(operators)
        self._threads: list[threading.Thread] = []
        self._is_told_to_stop = False
        # Of all that threads wait on, a signal's handler may only use this: its `put` is re-entrant.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> None:
        for operator in self._operators:
            # Daemons, so that a stream which blocks for ever does not hold up the exit.
            name = f"edgeserve-{operator.name}"
            thread = threading.Thread(target=self._steps, args=(operator,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Wait until all have ended, one has failed, or they are told to stop."""
        while self._running and not self.failures and not self._is_told_to_stop:
            # In slices: a signal that the system hands to another thread does not wake this one.
            with suppress(queue.Empty):
                self._news.get(timeout=_SLICE_S)
                self._running -= 1

    def tell_to_stop(self) -> None:
        self._is_told_to_stop = True
        self._news.put(None)

    def close(self) -> None:
        for operator in self._operators:
            operator.stop()
        for operator in self._operators:
            try:
                operator.close()
            except Exception as error:  # noqa: BLE001 - the others are closed all the same
                self._failed(operator, error)
        for thread in self._threads:
            thread.join(_END_S)

    def _steps(self, operator: Runnable) -> None:
        try:
            while True:
                next(operator)
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by the thread that called run
            self._failed(operator, error)
        finally:
            self._news.put(None)

    def _failed(self, operator: Runnable, error: BaseException) -> None:
        _log.error("operator %s failed: %s: %s", operator.name, type(error).__name__, error)
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(f"in edgeserve operator {operator.name!r}")
        self.failures.append(error)


@contextmanager
def _sigterm(stop_all: Callable[[], None]) -> Iterator[None]:
    """Call `stop_all` when SIGTERM comes, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop_all()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if before is not None:  # it was not Python's
            signal.signal(signal.SIGTERM, before)
