"""What a consumer has acknowledged and given back, until its subscription's file says so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple


class Settled(NamedTuple):
    """Deliveries by id that a consumer needs no more.

    Attributes:
        done: Those that are acknowledged.
        returned: Those that are given back; to one that is `done` as well, it comes too late.
    """

    done: Sequence[int] = ()
    returned: Sequence[int] = ()


class Settling:
    """Gathers what any thread settles, for the next turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: list[int] = []
        self._returned: list[int] = []

    def acknowledge(self, ids: Sequence[int]) -> None:
        """Note deliveries that are done with."""
        with self._lock:
            self._done.extend(ids)

    def give_back(self, ids: Sequence[int]) -> None:
        """Note deliveries that are for others, or come again."""
        with self._lock:
            self._returned.extend(ids)

    def noted(self) -> Settled:
        """All that is noted so far."""
        with self._lock:
            return Settled(self._done[:], self._returned[:])

    def forget(self, settled: Settled) -> None:
        """Let go of what the file says now."""
        with self._lock:
            del self._done[: len(settled.done)]
            del self._returned[: len(settled.returned)]
