"""Deleting payloads that were used, without anybody waiting for it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from edgeserve.routing.transfer import shown

_log = logging.getLogger("edgeserve.routing")


class Deletes:
    """A thread that deletes one payload after another. Where a store refuses, that is counted and no error.

    Args:
        delete: Deletes the payload of a URL.
    """

    def __init__(self, delete: Callable[[str], None]) -> None:
        self._delete = delete
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.refused = 0
        """How many payloads were not deleted."""

    def put(self, text: str) -> None:
        """Have the payload of a URL deleted by and by."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgeserve-delete", daemon=True)
                self._thread.start()
        self._waiting.put(text)

    def close(self, timeout_ms: int) -> None:
        """Delete what waits, within a limit."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout_ms / 1000)

    def _run(self) -> None:
        while (text := self._waiting.get()) is not None:
            try:
                self._delete(text)
            except FileNotFoundError:
                pass  # somebody else was faster
            except Exception as error:  # noqa: BLE001 - that a payload stays is no fault of the stream
                self.refused += 1
                _log.info("a payload was not deleted: %s", shown(error))
