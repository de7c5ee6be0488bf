"""When what arrived had reached its node: sooner than it was received, where the operator was busy.

The broker's client does not say it: it is asked for the next message when the operator has done with the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What is there already is handed over sooner than that after the operator asks for it.
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

    What can have been there only after the operator had begun to wait was received when it came. What may have been
    there before took as long as the fastest of its sender's: one that met an operator that waited, or came close to it.
    So the senders' clocks may show what they like. Nothing was there before the operator was.

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
    fastest_ms = np.full(int(senders.max()) + 1, np.inf)
    np.minimum.at(fastest_ms, senders, received_ms - publish_ms)
    soonest_ms = publish_ms + fastest_ms[senders]
    asked_ms = np.maximum(_last(np, at_work_ms, received_ms, "right"), opened_ms)
    asked_ms = np.maximum(_last(np, received_ms, received_ms, "left"), asked_ms)
    came_later = (soonest_ms >= asked_ms) | (received_ms - asked_ms > _HANDED_OVER_MS)
    soonest_ms = np.minimum(np.maximum(soonest_ms, opened_ms), received_ms)
    return np.where(came_later, received_ms, soonest_ms)  # type: ignore[no-any-return] # of a module as Any


def _last(np: Any, moments_ms: NDArray[np.float64], times_ms: NDArray[np.float64], side: str) -> NDArray[np.float64]:
    """The last of the moments before each time, or, with `side` "right", at it; -inf where there is none."""
    # They are nearly in order, which this way of sorting makes use of.
    in_order = np.concatenate([[-np.inf], np.sort(moments_ms, kind="stable")])
    return in_order[np.searchsorted(in_order, times_ms, side=side) - 1]  # type: ignore[no-any-return]
