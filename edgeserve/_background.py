"""Steps in a thread of the operator's own, for those who await them."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")

# How long ending waits for a call that is about to return; one that blocks for ever is left behind.
_END_S = 0.05


class BackgroundStep(Generic[R]):
    """One call that runs elsewhere. Any number may wait for it; giving up a wait changes nothing for the step."""

    def __init__(self, call: Callable[[], R]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._outcome: Callable[[], R] | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def run(self) -> None:
        """Make the call."""
        try:
            result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            failure = error

            def outcome() -> R:
                raise failure

            self._settle(outcome)
        else:
            self.resolve(result)

    def resolve(self, result: R) -> None:
        """Give it a result, unless it has one."""
        self._settle(lambda: result)

    def _settle(self, outcome: Callable[[], R]) -> None:
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
            waiters, self._waiters = self._waiters, []
        self._done.set()
        for loop, waiter in waiters:
            with suppress(RuntimeError):  # the loop may have been closed meanwhile
                loop.call_soon_threadsafe(_wake, waiter)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end, at most `timeout_s`. Whether it has ended."""
        return self._done.wait(timeout_s)

    async def until_done(self) -> None:
        """Wait for its end."""
        import asyncio  # who awaits has it loaded, and who does not is spared it

        entry = (asyncio.get_running_loop(), asyncio.get_running_loop().create_future())
        with self._lock:
            if self._outcome is not None:
                return
            self._waiters.append(entry)
        try:
            await entry[1]
        finally:
            with self._lock:
                if entry in self._waiters:
                    self._waiters.remove(entry)

    def result(self) -> R:
        """What the call returned, or raised; only when it has ended."""
        if self._outcome is None:
            raise RuntimeError("the step has not ended")
        return self._outcome()


class StepThread(Generic[R]):
    """A daemon thread that makes one call after the other.

    Args:
        name: The thread's name.
        at_end: What the steps result in that were not made when the thread was ended.
    """

    def __init__(self, name: str, at_end: R) -> None:
        self._at_end = at_end
        self._lock = threading.Lock()
        self._is_ended = False
        self._unfinished: list[BackgroundStep[R]] = []
        self._calls: queue.SimpleQueue[BackgroundStep[R] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], R]) -> BackgroundStep[R]:
        """Make a call after those before it, in the context that the caller has now, with its span for one."""
        step = BackgroundStep(partial(contextvars.copy_context().run, call))
        with self._lock:
            if self._is_ended:
                step.resolve(self._at_end)
            else:
                self._unfinished.append(step)
                self._calls.put(step)
        return step

    def end(self) -> None:
        """End the thread; nobody waits for ever for a call that it did not finish."""
        with self._lock:
            self._is_ended = True
        self._calls.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S)
            for step in list(self._unfinished):
                step.resolve(self._at_end)

    def _run(self) -> None:
        while (step := self._calls.get()) is not None:
            step.run()
            self._unfinished.remove(step)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
