"""When a signal that waits for its data asks for it, and how often it did.

Where replicas share flows, the data may be with another one: the signal asks, less and less often. Pure.
"""

from __future__ import annotations

import heapq
import math
import struct
from collections import deque
from typing import NamedTuple

from edgeserve._core.step import Example

# How long a signal waits before it asks the first time.
FIRST_MS = 400
# A signal that was given back is here again, or at another replica, long before that.
_GONE_MS = 5000
_HEAD = struct.Struct(">qB")
_MOST_TIMES = 255
_SAMPLE_MS = 50

MAX_FLOW_ID_BYTES = 1000
"""The most that an ask carries."""


class Ask(NamedTuple):
    """What one replica asks the others.

    Attributes:
        flow_id: Whose data it waits for.
        capture_ms: When that was captured, as far as the signal says.
        times: How often it has asked, this time included; 0 where it asks for nothing, and only says that it is there.
    """

    flow_id: bytes
    capture_ms: int
    times: int

    def encode(self) -> bytes:
        """As it travels."""
        return _HEAD.pack(self.capture_ms, min(self.times, _MOST_TIMES)) + self.flow_id

    @classmethod
    def decode(cls, data: bytes) -> Ask | None:
        """From what travelled; None if it is none."""
        if len(data) < _HEAD.size:
            return None
        capture_ms, times = _HEAD.unpack_from(data)
        return cls(data[_HEAD.size :], capture_ms, times)


HELLO = Ask(b"", 0, 0).encode()
"""What a replica says for the others to know of it."""


class Horizon:
    """How far something had got some time ago.

    Args:
        keep_ms: How long ago it may be asked for.
    """

    def __init__(self, keep_ms: float) -> None:
        self._keep_ms = keep_ms
        self._seen: deque[tuple[float, float]] = deque()

    def reach(self, value: float, steady_ms: float) -> None:
        """It has got so far by now."""
        seen = self._seen
        if not seen or value > seen[-1][1]:
            if len(seen) > 1 and seen[-1][0] < seen[-2][0] + _SAMPLE_MS:
                seen.pop()
            seen.append((steady_ms, value))
            while len(seen) > 1 and seen[1][0] <= steady_ms - self._keep_ms:
                seen.popleft()

    def as_of(self, steady_ms: float) -> float:
        """How far it had got at least by then."""
        return next((value for at_ms, value in reversed(self._seen) if at_ms <= steady_ms), -math.inf)


class _Asked(NamedTuple):
    times: int
    since_ms: float
    last_ms: float


class Asking:
    """The signals that are to ask, and what is known of their flows.

    Args:
        longest_ms: The longest time between two asks.
        max_flows: Of how many flows it is kept how often was asked.
    """

    def __init__(self, longest_ms: float, max_flows: int) -> None:
        self._longest_ms = max(FIRST_MS, longest_ms)
        self._max_flows = max_flows
        self._due: list[tuple[float, int, Example]] = []
        self._number = 0
        self._asked: dict[bytes, _Asked] = {}

    @property
    def next_steady_ms(self) -> float | None:
        """When the next signal is due; None if there is none."""
        return self._due[0][0] if self._due else None

    def wait(self, signal: Example, steady_ms: float) -> None:
        """A signal waits from now on; it is due when it should ask."""
        known = self._known(signal.header, steady_ms)
        wait_ms = min(FIRST_MS << min(known.times if known else 0, 10), self._longest_ms)
        self._number += 1
        heapq.heappush(self._due, (steady_ms + wait_ms, self._number, signal))

    def take_due(self, steady_ms: float) -> Example | None:
        """A signal that is due, if one is; it may have gone since."""
        return heapq.heappop(self._due)[2] if self._due and self._due[0][0] <= steady_ms else None

    def note(self, signal: Example, steady_ms: float) -> Ask:
        """The ask for a signal, which is counted."""
        known = self._known(signal.header, steady_ms)
        times, since_ms = (known.times, known.since_ms) if known else (0, signal.arrived_steady_ms)
        self._asked[signal.header] = _Asked(times + 1, since_ms, steady_ms)
        if len(self._asked) > self._max_flows:
            del self._asked[next(iter(self._asked))]
        return Ask(signal.header, signal.capture_ms, times + 1)

    def since_ms(self, signal: Example, steady_ms: float) -> float:
        """Since when its flow has waited, also while it was given back."""
        known = self._known(signal.header, steady_ms)
        return known.since_ms if known else signal.arrived_steady_ms

    def forget(self, flow_id: bytes) -> None:
        """The flow waits no longer."""
        self._asked.pop(flow_id, None)

    def _known(self, flow_id: bytes, steady_ms: float) -> _Asked | None:
        known = self._asked.get(flow_id)
        if known is not None and steady_ms > known.last_ms + self._longest_ms + _GONE_MS:
            del self._asked[flow_id]  # of a signal that went to another replica
            return None
        return known
