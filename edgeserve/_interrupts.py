"""Ctrl-C, kept away from the bookkeeping of a step.

`KeyboardInterrupt` can be raised between any two lines of the main thread: with a lock taken and not yet guarded, or
with an example out of the inbox and not yet in the join. While a step does its own work there, Ctrl-C is noted; it is
raised where nothing is half done: in waits, in the user's gates and tasks, and at the end of the step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


class _State:
    """What the handler and the main thread share; no other thread touches it.

    Attributes:
        is_installed: Whether the handler was looked at since a step last waited.
        is_shielded: Whether a step is doing its own work.
        is_noted: Whether Ctrl-C came meanwhile.
    """

    is_installed = False
    is_shielded = False
    is_noted = False


_state = _State()
_main = threading.main_thread().ident


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.is_shielded:
        _state.is_noted = True
    else:
        signal.default_int_handler(number, frame)


def shield(thread_id: int) -> bool:
    """Begin a step's own work. Whether `unshield` has to end it: in the main thread, unless one is under way."""
    if thread_id != _main or _state.is_shielded:
        return False
    if not _state.is_installed:
        _install()
    _state.is_shielded = True
    return True


def _install() -> None:
    # A handler of the user's own is left alone; it may come and go, so it is looked at now and then.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
    _state.is_installed = True


def unshield() -> None:
    """End a step's own work.

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile.
    """
    _state.is_shielded = False
    if _state.is_noted:
        raise_noted()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C away from what must not be half done, like opening several operators, until it is done.

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile.
    """
    has_shield = shield(threading.get_ident())
    try:
        yield
    finally:
        if has_shield:
            unshield()


def raise_noted() -> None:
    """Raise what was noted, where a step waits and nothing is half done.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
    """
    if threading.get_ident() == _main:
        _state.is_installed = False
        if _state.is_noted:
            _state.is_noted = False
            raise KeyboardInterrupt


def interruptibly(function: Callable[[A], T], argument: A) -> T:
    """Call the user's code, in which Ctrl-C means what it always means."""
    if not _state.is_shielded or threading.get_ident() != _main:
        return function(argument)
    if _state.is_noted:
        raise_noted()
    _state.is_shielded = False
    try:
        return function(argument)
    finally:
        _state.is_shielded = True
