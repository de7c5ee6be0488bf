"""The clocks of several hosts, told apart by the messages that went between them.

A message that leaves one host and arrives at another says that the second clock is ahead of the first by no more than
the time it seems to have taken. Where messages went both ways, the two bounds enclose the offset: with the fastest
message each way it is half the difference of what they seem to have taken, as in the Network Time Protocol (RFC 5905),
wrong by no more than half of what they took together. Where they went one way only, nothing but an upper bound is
known, and no clock is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Seen = Mapping[tuple[str, str], float]
"""The least time, in ms, that a message from one host to another seems to have taken, by the two."""


@dataclass(frozen=True)
class ClockPair:
    """What is known of two hosts' clocks.

    Attributes:
        host: The one.
        other: The other.
        offset_ms: How far the clock of `other` is ahead of that of `host`; None where messages went one way only, or
            contradict each other, as a clock was set meanwhile.
        error_ms: By how much that may be wrong; None where it is not known.
        least_ms: What the fastest message between them seems to have taken; if it is negative, the clock where it
            arrived is behind by that much or more.
        arrived_at: Where that message arrived.
    """

    host: str
    other: str
    offset_ms: float | None
    error_ms: float | None
    least_ms: float
    arrived_at: str


@dataclass(frozen=True)
class Clocks:
    """How the hosts' clocks are brought to that of the first.

    Attributes:
        reference: The host whose clock counts.
        shifts_ms: What is added to times of a host; those that are not in it are left as they are.
        pairs: What is known of each two hosts between which messages went.
    """

    reference: str
    shifts_ms: Mapping[str, float] = field(default_factory=dict)
    pairs: Sequence[ClockPair] = ()

    def shift_ms(self, host: str) -> float:
        """What is added to times of a host."""
        return self.shifts_ms.get(host, 0.0)


def tell_clocks(hosts: Sequence[str], seen: Seen) -> Clocks:
    """Tell the offsets of the hosts' clocks, as far as the messages between them do."""
    pairs = []
    edges: dict[str, list[tuple[str, float]]] = {}
    for one in sorted(set(hosts)):
        for other in sorted(set(hosts)):
            there, back = seen.get((one, other)), seen.get((other, one))
            if one >= other or (there is None and back is None):
                continue
            least_ms, arrived_at = min((ms, to) for ms, to in ((there, other), (back, one)) if ms is not None)
            if there is None or back is None or there + back < 0:
                pairs.append(ClockPair(one, other, None, None, least_ms, arrived_at))
                continue
            offset_ms, error_ms = (there - back) / 2, (there + back) / 2
            pairs.append(ClockPair(one, other, offset_ms, error_ms, least_ms, arrived_at))
            edges.setdefault(one, []).append((other, offset_ms))
            edges.setdefault(other, []).append((one, -offset_ms))
    reference = hosts[0] if hosts else ""
    shifts = {reference: 0.0}
    reached = [reference]
    for host in reached:
        for other, offset_ms in edges.get(host, ()):
            if other not in shifts:
                shifts[other] = shifts[host] - offset_ms
                reached.append(other)
    return Clocks(reference, shifts, pairs)
