"""When what arrived had reached its node: sooner than it was received, where the operator was busy.

The broker's client does not say it: it is asked for the next message when the operator has done with the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What was there before is handed over sooner than that; what comes later came while the operator waited for it.
_HANDED_OVER_MS = 50.0


def reached_ms(
    np: Any,
    received_ms: NDArray[np.float64],
    publish_ms: NDArray[np.float64],
    senders: NDArray[np.int64],
    at_work_ms: NDArray[np.float64],
    opened_ms: float,
) -> NDArray[np.float64]:
    """When each message had reached the node, by the clock by which it was received.

    It took as long as the fastest of its sender's: the one that met an operator that waited, or came close to it. So
    the senders' clocks may show what they like. It was not there before the operator was, nor after it was received.

    Args:
        np: NumPy.
        received_ms: When each was handed over to the operator.
        publish_ms: When each was sent, by its sender's clock.
        senders: By whose: numbers from 0.
        at_work_ms: When the operator did something, in any order.
        opened_ms: When the operator was opened.
    """
    if not len(received_ms):
        return received_ms
    ways_ms = received_ms - publish_ms
    fastest_ms = np.full(int(senders.max()) + 1, np.inf)
    np.minimum.at(fastest_ms, senders, ways_ms)
    reached = np.maximum(publish_ms + fastest_ms[senders], opened_ms)
    # Each of these is nearly in order, which this way of sorting makes use of.
    moments_ms = np.sort(np.concatenate([[opened_ms], at_work_ms, received_ms]), kind="stable")
    before = np.searchsorted(moments_ms, received_ms, side="left") - 1
    waited_ms = received_ms - moments_ms[np.maximum(before, 0)]
    came_while_waiting = (before > 0) & (waited_ms > _HANDED_OVER_MS)
    return np.where(came_while_waiting, received_ms, np.minimum(reached, received_ms))  # type: ignore[no-any-return]
