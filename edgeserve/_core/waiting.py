"""Examples that wait to be matched."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Any

from edgeserve._core.step import Example

# So many entries that have gone may stay however few wait.
_FEW = 64


class Waiting:
    """Examples that wait, by flow and by capture time.

    An entry is a list, as lists are compared fast: its capture time, a number that orders equal ones, and the example,
    None when it has gone. Those that have gone stay in the heap until they come to its top, or are half of it.

    Args:
        keeps_newest: Whether `newest_ms` is kept exact, which costs more the more wait.
    """

    def __init__(self, *, keeps_newest: bool = False) -> None:
        self._keeps_newest = keeps_newest
        self._by_flow: dict[bytes, list[list[Any]]] = {}
        self._by_capture: list[list[Any]] = []
        self._number = 0
        self.count = 0
        """How many wait."""
        self.bytes = 0
        """How many bytes they have, as they travelled."""
        self.newest_ms: int | None = None
        """When the last of them was captured; None if none waits."""

    def add(self, example: Example) -> None:
        """Have an example wait."""
        self._number += 1
        entry = [example.capture_ms, self._number, example]
        of_flow = self._by_flow.get(example.header)
        if of_flow is None:
            self._by_flow[example.header] = [entry]
        else:
            of_flow.append(entry)
        heapq.heappush(self._by_capture, entry)
        self.count += 1
        self.bytes += len(example.data)
        if self.newest_ms is None or example.capture_ms > self.newest_ms:
            self.newest_ms = example.capture_ms
        example.park()

    def take_nearest(
        self, flow_id: bytes, capture_ms: int, reach_ms: int, latest_ms: float = math.inf
    ) -> Example | None:
        """The example of a flow that was captured nearest to a time, within reach of it, and not after `latest_ms`.

        It waits no longer.
        """
        entries = self._by_flow.get(flow_id)
        if entries is None:
            return None
        if len(entries) > 1:
            nearest = min(entries, key=lambda entry: (entry[0] > latest_ms, abs(entry[0] - capture_ms)))
        else:
            nearest = entries[0]
        return self._take(nearest) if nearest[0] <= latest_ms and abs(nearest[0] - capture_ms) <= reach_ms else None

    def oldest(self) -> Example | None:
        """The one that was captured first."""
        heap = self._by_capture
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def take_oldest(self) -> Example:
        """The one that was captured first, which there is, and which waits no longer."""
        self.oldest()
        return self._take(self._by_capture[0])

    def take(self, example: Example) -> bool:
        """Have this one wait no longer. Whether it waited."""
        for entry in self._by_flow.get(example.header, ()):
            if entry[2] is example:
                self._take(entry)
                return True
        return False

    def holds(self, example: Example) -> bool:
        """Whether this one waits."""
        return any(entry[2] is example for entry in self._by_flow.get(example.header, ()))

    def all(self) -> Iterator[Example]:
        """All of them, by flow."""
        return (entry[2] for entries in self._by_flow.values() for entry in entries)

    def _take(self, entry: list[Any]) -> Example:
        example: Example = entry[2]
        entry[2] = None
        entries = self._by_flow[example.header]
        if len(entries) == 1:
            del self._by_flow[example.header]
        else:
            entries.remove(entry)
        self.count -= 1
        self.bytes -= len(example.data)
        if len(self._by_capture) > 2 * self.count + _FEW:
            self._by_capture = [each for each in self._by_capture if each[2] is not None]
            heapq.heapify(self._by_capture)
        if example.capture_ms == self.newest_ms and self._keeps_newest:
            self.newest_ms = max([each[0] for each in self._by_capture if each[2] is not None], default=None)
        example.unpark()
        return example
