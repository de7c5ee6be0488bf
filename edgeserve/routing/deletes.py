"""Deleting payloads that were used, without anybody waiting for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from edgeserve._core.clock import steady_ms
from edgeserve._logging import Seldom, logger
from edgeserve.routing.transfer import shown
from edgeserve.routing.urls import parse_payload_url

_log = logger("routing")

# Acknowledgements are sent on without being confirmed; by then they have arrived, or the broker is away.
_AFTER_MS = 1000
_IDLE_MS = 60_000
_MOST_WAITING = 10_000


class Deletes:
    """A thread that deletes one payload after another. Where a store refuses, that is counted and no error.

    Args:
        delete: Deletes the payload of a URL.
    """

    def __init__(self, delete: Callable[[str], None]) -> None:
        self._delete = delete
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, str]] = deque()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._refusals = Seldom(_log, logging.INFO)
        self.refused = 0
        """How many payloads were not deleted."""

    def put(self, text: str) -> None:
        """Have the payload of a URL deleted by and by, when its acknowledgement has surely reached the broker."""
        with self._changed:
            if len(self._waiting) >= _MOST_WAITING:
                self.refused += 1
                return
            self._waiting.append((steady_ms() + _AFTER_MS, text))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgeserve-delete", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_ms: int) -> None:
        """Delete what waits, within a limit; the rest counts as refused."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_ms / 1000)
        with self._changed:
            self.refused += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        while (text := self._next()) is not None:
            try:
                self._delete(text)
            except FileNotFoundError:
                pass  # somebody else was faster
            except Exception as error:  # noqa: BLE001 - that a payload stays is no fault of the stream
                self.refused += 1
                self._refusals.say(
                    "the payload at %s was not deleted: %s", parse_payload_url(text).public, shown(error)
                )

    def _next(self) -> str | None:
        """Wait for the next one to be due; None when there will be none."""
        with self._changed:
            while True:
                if self._is_closing:
                    return self._waiting.popleft()[1] if self._waiting else None
                left_ms = self._waiting[0][0] - steady_ms() if self._waiting else _IDLE_MS
                if left_ms <= 0:
                    return self._waiting.popleft()[1]
                self._changed.wait(left_ms / 1000)
