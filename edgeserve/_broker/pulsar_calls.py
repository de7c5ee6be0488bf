"""Asking Pulsar's client without blocking inside it.

Its own blocking calls retry for up to four times the time-outs that they were given, turn Ctrl-C into an exception of
theirs, never return when the client is closed at a bad moment, and abort the process if the interpreter ends
meanwhile. The forms with a callback do none of this: here they are waited for in Python, with a limit. Nothing here
imports the client.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from edgeserve._interrupts import raise_noted

_SLICE_MS = 100

_Answer = concurrent.futures.Future[Any]


class RefusedError(Exception):
    """The client says no.

    Attributes:
        name: Its name for the reason.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Calls:
    """Takes the place of the native client inside a `pulsar.Client`, which prepares the arguments of its calls."""

    def __init__(self, native: Any, limit_ms: int) -> None:
        self._native = native
        self._limit_ms = limit_ms
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: set[_Answer] = set()
        self._is_closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def create_producer(self, topic: str, configuration: Any) -> Any:
        """The native producer, or `RefusedError` or `concurrent.futures.TimeoutError`."""
        return self._ask(partial(self._native.create_producer_async, topic, configuration))

    def subscribe(self, topic: str, subscription: str, configuration: Any) -> Any:
        """The native consumer, or `RefusedError` or `concurrent.futures.TimeoutError`."""
        return self._ask(partial(self._native.subscribe_async, topic, subscription, configuration))

    def _ask(self, start: Callable[[Callable[..., None]], object]) -> Any:
        answer: _Answer = concurrent.futures.Future()
        with self._lock:
            if self._is_closed:
                raise RefusedError("AlreadyClosed")
            self._waiting.add(answer)
        try:
            start(partial(self._answered, answer))
            # In slices: a Ctrl-C that was noted meanwhile is raised here, where nothing is half done.
            for _ in range(self._limit_ms // _SLICE_MS):
                if concurrent.futures.wait([answer], _SLICE_MS / 1000).done:
                    break
                raise_noted()
            return answer.result(_SLICE_MS / 1000)
        except RefusedError:
            raise
        except BaseException:
            # Out of time, or Ctrl-C. What still comes is let go of.
            if not answer.cancel() and answer.exception() is None:
                answer.result().close_async(_ignore)
            raise

    def _answered(self, answer: _Answer, result: Any, made: Any) -> None:
        with self._lock:
            self._waiting.discard(answer)
            self._changed.notify_all()
        try:
            if result.name == "Ok":
                answer.set_result(made)
            else:
                answer.set_exception(RefusedError(result.name))
        except concurrent.futures.InvalidStateError:
            if result.name == "Ok":
                made.close_async(_ignore)

    def end(self) -> None:
        """Fail the calls that still wait, now and from now on."""
        with self._lock:
            self._is_closed = True
            left = list(self._waiting)
        for answer in left:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                answer.set_exception(RefusedError("AlreadyClosed"))

    def answered_within(self, limit_ms: int) -> bool:
        """Whether the client has answered all calls, also those that nobody waits for any more."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, limit_ms / 1000)


def ended_within(limit_ms: int, start: Callable[[Callable[..., None]], object]) -> bool:
    """Start something whose failure changes nothing, like a `close_async`. Whether it ended in time."""
    ended = threading.Event()
    start(lambda *_: ended.set())
    return ended.wait(limit_ms / 1000)


def _ignore(*_: object) -> None: ...
