"""The life that all operators share: one step at a time, in a `for` or an `async for`, until it is closed.

`Operator` owns stepping, stopping and closing and knows nothing of what a step does: that is `_step`, written by
`DataSource` and, for all operators that receive, by `Consuming` in `_consuming.py`.
"""

from __future__ import annotations

import enum
import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, final

from edgeserve import _status, _watch
from edgeserve._at_exit import Stage, at_exit
from edgeserve._background import BackgroundStep, StepThread
from edgeserve._core.checks import check_ms
from edgeserve._core.clock import SYSTEM_CLOCK, Clock, steady_ms
from edgeserve._core.ledger import Stats
from edgeserve._core.observing import Observer, with_observer, without_observer
from edgeserve._interrupts import raise_noted, shield, unshield
from edgeserve._logging import last_words, logger
from edgeserve._run import run
from edgeserve._watch import Watched
from edgeserve.errors import EdgeServeError, UsageError

T = TypeVar("T")
Self = TypeVar("Self", bound="Operator[Any]")

_log = logger("operator")

_SLICE_MS = 50


class End(enum.Enum):
    """What a step returns when there is nothing more to come."""

    OF_STREAM = "the end of the stream"


@dataclass(frozen=True)
class Life:
    """How an operator lives.

    Attributes:
        clock: Where it reads the time; None for the machine's.
        idle_timeout_ms: How long a consumer waits for an arrival before the iteration stops; None: for ever.
        close_timeout_ms: How long closing waits for a step that is under way, and for confirmations.
    """

    clock: Clock | None = None
    idle_timeout_ms: float | None = None
    close_timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        if self.idle_timeout_ms is not None:
            check_ms("idle_timeout_ms", self.idle_timeout_ms)
        check_ms("close_timeout_ms", self.close_timeout_ms)


class Flushed(Protocol):
    """Something that closing waits for."""

    def close(self, timeout_ms: int) -> None:
        """Wait until everything is confirmed, at most `timeout_ms`."""


class Operator(ABC, Generic[T]):
    """What is common to `DataSource`, `Compute` and `Materialize`.

    Iterate with `next()`, `for` or `async for`; `run()` steps until the stream ends or the process is told to stop.
    Close with `with` or `close()`; what is still open when the interpreter exits is closed then. One operator makes
    one step at a time: a second thread that calls `next()` waits for its turn.
    """

    _observer: Observer | None = None
    """Who is told what it does; None for nobody."""
    _watched: Watched | None = None

    def __init__(self, name: str, life: Life) -> None:
        self._name = name
        self._life = life
        self._clock: Clock = life.clock if life.clock is not None else SYSTEM_CLOCK
        self._parts = ExitStack()
        self._pid = os.getpid()
        self._is_inherited = False  # a child of fork has a copy, which it can't use
        self._turn = threading.Lock()
        self._turn_owner: int | None = None
        self._is_stopping = False
        self._is_closed = False
        self._closes_after_step = False
        self._close_until_ms: float | None = None
        # The thread that last made a step, and the one whose iteration was closed under it.
        self._stepper: int | None = None
        self._interrupted: int | None = None
        self._thread: StepThread[T | End | None] | None = None
        # Steps whose awaiting caller was cancelled: the next calls take them over.
        self._left: deque[BackgroundStep[T | End | None]] = deque()

    @property
    def name(self) -> str:
        """The operator's name: its `source_id`, `worker_id` or `sink_id`."""
        return self._name

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}: {self.stats})"

    @property
    @abstractmethod
    def stats(self) -> Stats:
        """What it received, what became of that, and what it sent; also after `close()`."""

    @abstractmethod
    def _step(self) -> T | End | None:
        """Make one step; return the end when `_is_stopping` is seen while waiting."""

    @abstractmethod
    def _stop_waiting(self) -> None:
        """Make a step give up what it waits for without looking at `_is_stopping`."""

    def _abandon_step(self) -> bool:
        """Give up a step that has taken nothing in yet and waits for something that can't be told to stop.

        Whether the step under way was such a one. It then does nothing any more.
        """
        return False

    @final
    def __iter__(self: Self) -> Self:
        return self

    @final
    def __next__(self) -> T | None:
        result = self._take_over() if self._left else self._take_turn()
        if result is End.OF_STREAM:
            self._interrupted = None
            raise StopIteration
        return result

    @final
    def __aiter__(self: Self) -> Self:
        return self

    @final
    async def __anext__(self) -> T | None:
        """Make one step in a thread of the operator's own.

        A cancelled call leaves its step running; the next call waits for that step and returns its result.
        """
        try:
            step = self._left.popleft()
        except IndexError:
            if self._interrupted is None:
                self._check_usable()
            if self._thread is None:
                self._thread = StepThread(f"edgeserve-{self._name}", End.OF_STREAM)
            step = self._thread.submit(self._take_turn)
        try:
            await step.until_done()
        except BaseException:  # cancelled
            self._left.appendleft(step)
            raise
        result = step.result()
        if result is End.OF_STREAM:
            self._interrupted = None
            raise StopAsyncIteration
        return result

    @final
    def __enter__(self: Self) -> Self:
        self._check_usable()
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except EdgeServeError as closing_error:
            if error is None:
                raise
            # The error that ended the block tells more than what closing stumbled over because of it.
            _log.error("operator %s: while closing: %s", self._name, closing_error)

    @final
    def run(self) -> None:
        """Step until the stream ends, SIGTERM comes or `stop()` is called, then close.

        Raises:
            KeyboardInterrupt: Ctrl-C; the operator is closed first.
            Exception: What a step raised; the operator is closed first.
        """
        run(self)

    @final
    def stop(self) -> None:
        """Ask for the end: a step that waits, or the next one, ends the iteration. From any thread."""
        self._is_stopping = True

    @final
    def close(self) -> None:
        """Wait for the step under way and for confirmations, then give everything back. Does nothing when repeated.

        Called by a task or a gate of the operator itself, it takes effect at the end of their step.

        Raises:
            DeliveryError: Not everything was confirmed within `close_timeout_ms`.
        """
        self._is_stopping = True
        if self._is_closed:
            return
        if self._stepper != threading.get_ident() or self._turn_owner == self._stepper:
            self._interrupted = self._stepper
        if self._turn_owner == threading.get_ident():
            self._closes_after_step = True
            return
        if self._is_inherited:
            self._is_closed = True  # the parts are the parent's: neither used nor closed here
            return
        self._close_until_ms = steady_ms() + self._life.close_timeout_ms
        has_turn = self._turn_within(self._life.close_timeout_ms)
        try:
            self._close_parts()
        finally:
            if has_turn:
                self._turn.release()

    def _turn_within(self, timeout_ms: float) -> bool:
        """Wait until no step is under way. Whether that is so in the end."""
        waited_ms = 0
        while not self._turn.acquire(timeout=_SLICE_MS / 1000):
            waited_ms += _SLICE_MS
            if self._abandon_step():
                return False
            if waited_ms >= timeout_ms:
                self._stop_waiting()
                if self._turn.acquire(timeout=_SLICE_MS / 1000):
                    return True
                _log.warning("operator %s: closed while its step was still running", self._name)
                return False
        return True

    def _close_parts(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        _open_operators.discard(self)
        if self._thread is not None:
            self._thread.end()
        try:
            self._parts.close()
        finally:
            if self._watched is not None:
                _watch.closed(self._watched)
                _status.end()
            if _log.isEnabledFor(logging.INFO):
                _log.info("operator %s closed: %s", self._name, self.stats)

    def _close_flushed(self, part: Flushed) -> None:
        """Flush within what is left of the time for closing."""
        part.close(self._left_to_close_ms())

    def _left_to_close_ms(self) -> int:
        if self._close_until_ms is None:
            self._close_until_ms = steady_ms() + self._life.close_timeout_ms
        return max(_SLICE_MS, int(self._close_until_ms - steady_ms()))

    def _tell(self, observer: Observer) -> None:
        self._observer = with_observer(self._observer, observer)

    def _tell_no_more(self, observer: Observer) -> None:
        self._observer = without_observer(self._observer, observer)

    def _tell_the_end(self) -> None:
        if (observer := self._observer) is not None:
            observer.close(self.stats)

    def _opened(
        self, ports: str, topics_in: Sequence[str], topics_out: Sequence[str], queue_length: Callable[[], int]
    ) -> None:
        """The constructor is done: from now on the interpreter's exit closes the operator, and it can be watched."""
        _open_operators.add(self)
        key = _watch.key_of(self, self._name, topics_in, topics_out)
        self._watched = Watched(key, self._clock, lambda: self.stats, queue_length, self._tell, self._tell_no_more)
        _watch.opened(self._watched)
        _status.begin()
        _log.info("operator %s opened: a %s that %s", self._name, type(self).__name__, ports)

    def _check_usable(self) -> None:
        if self._is_closed:
            raise UsageError(f"operator {self._name!r} is closed: make a new one")
        if self._is_inherited:
            raise UsageError(
                f"operator {self._name!r} was made in process {self._pid} and does not work in its fork "
                f"{os.getpid()}: make it after the fork"
            )

    def _take_turn(self) -> T | End | None:
        me = threading.get_ident()
        if self._is_closed or self._is_inherited:
            if not self._is_closed or self._interrupted != me:
                self._check_usable()
            self._interrupted = None
            return End.OF_STREAM
        has_shield = shield(me)
        try:
            if not self._turn.acquire(blocking=False):
                self._wait_for_turn(me)
            try:
                if self._is_stopping:
                    return End.OF_STREAM
                self._turn_owner = self._stepper = me
                return self._step()
            except (StopIteration, StopAsyncIteration) as error:
                # Passed on, it would end the iteration as if there were nothing more to come.
                raise RuntimeError(f"something in operator {self._name!r} raised {type(error).__name__}") from error
            finally:
                self._turn_owner = None
                try:
                    if self._closes_after_step:
                        self._close_parts()
                finally:
                    self._turn.release()
        finally:
            if has_shield:
                unshield()

    def _wait_for_turn(self, me: int) -> None:
        if self._turn_owner == me:
            raise UsageError(f"operator {self._name!r} is in the middle of a step, and its task asked for another")
        # In slices: a signal that the system hands to another thread wakes none that waits for ever.
        while not self._turn.acquire(timeout=_SLICE_MS / 1000):
            raise_noted()

    def _take_over(self) -> T | End | None:
        """The result of a step whose awaiting caller was cancelled."""
        try:
            step = self._left.popleft()
        except IndexError:
            return self._take_turn()
        try:
            while not step.wait(_SLICE_MS / 1000):
                pass
        except BaseException:  # Ctrl-C
            self._left.appendleft(step)
            raise
        return step.result()


_open_operators: set[Operator[Any]] = set()


def _close_all() -> None:
    for operator in list(_open_operators):
        try:
            operator.close()
        except Exception as error:  # noqa: BLE001 - the others are closed all the same
            last_words(_log, "operator %s: while closing at exit: %s", operator.name, error)


at_exit(Stage.OPERATORS, _close_all)


def _in_child_of_fork() -> None:
    for operator in _open_operators:
        operator._is_inherited = True
    _open_operators.clear()
    _watch.forget_parents()
    _status.forget_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child_of_fork)
