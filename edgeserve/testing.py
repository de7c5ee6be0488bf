"""For tests of your own pipelines: a clock that the test turns, and a broker that ends with the test.

With pytest, the fixtures `edgeserve_broker` (an address) and `edgeserve_clock` (a `ManualClock`) are there as soon as
edgeserve is installed.
"""

from __future__ import annotations

import threading
import uuid

from edgeserve._broker.connections import is_open
from edgeserve._broker.local.memory import end_memory_folder
from edgeserve._core.clock import Now
from edgeserve.address import MEMORY
from edgeserve.errors import UsageError

__all__ = ["ManualClock", "end_memory_broker", "memory_broker"]


class ManualClock:
    """A clock that stands still until `advance` turns it. Give it to operators as `clock=`.

    An operator that waits looks at it every few real ms, so that a test never sleeps: turn the clock, then call
    `next()`.

    Args:
        wall_ms: What it shows at first, ms since the epoch.
    """

    # Short, because whoever turns the clock does not wake those who wait for it.
    _slice_ms = 5

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self._lock = threading.Lock()
        self._now = Now(wall_ms, 0.0)

    def now(self) -> Now:
        """The time that it shows."""
        return self._now

    def advance(self, duration_ms: float) -> None:
        """Turn it on by `duration_ms`.

        Raises:
            ValueError: The duration is negative.
        """
        if duration_ms < 0:
            raise ValueError(f"a clock is not turned back: {duration_ms} ms")
        with self._lock:
            steady_ms = self._now.steady_ms + duration_ms
            self._now = Now(self._now.wall_ms + round(steady_ms) - round(self._now.steady_ms), steady_ms)

    def slice_ms(self, until_steady_ms: float | None) -> int:
        """How many real ms to wait before looking at the clock again; 0 if the time has come."""
        return 0 if until_steady_ms is not None and self._now.steady_ms >= until_steady_ms else self._slice_ms


def memory_broker() -> str:
    """The address of a fresh broker that lives in this process, until it ends or `end_memory_broker` is called."""
    return f"local://{MEMORY}{uuid.uuid4().hex}"


def end_memory_broker(address: str) -> None:
    """End a broker that `memory_broker` made, before the process ends: all it holds is gone.

    Raises:
        UsageError: An operator still has it open.
    """
    if is_open(address):
        raise UsageError(f"{address} is in use: close its operators first")
    end_memory_folder(f"{MEMORY}{address.partition(MEMORY)[2]}")
