"""One confirmation for several messages."""

from __future__ import annotations

import threading

from edgeserve._broker.base import Confirmed
from edgeserve.errors import BrokerError


class ConfirmedTogether:
    """Called for each of `count` messages, it calls `confirmed` when all are settled: with the first error, if any."""

    def __init__(self, count: int, confirmed: Confirmed) -> None:
        self._left = count
        self._confirmed = confirmed
        self._error: BrokerError | None = None
        self._lock = threading.Lock()

    def __call__(self, error: BrokerError | None) -> None:
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
            self._error = self._error or error
        if is_last:
            self._confirmed(self._error)
