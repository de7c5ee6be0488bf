"""The messages between hosts, of which clocks are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeserve._core.ids import ID_SIZE
from edgeserve._extras import require
from edgeserve.replay._columns import PURPOSE, Columns

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def fastest_between(runs: Sequence[Columns]) -> dict[tuple[str, str], float]:
    """What the fastest message from each host to each other one seems to have taken, in ms, by their own clocks."""
    numpy = require("numpy", "replay", PURPOSE)
    fastest: dict[tuple[str, str], float] = {}
    sent = [_sent_by(numpy, sender) for sender in runs]
    # What was made again after a crash has the id that it had, and which of them arrived is not known.
    all_ids, counts = numpy.unique(numpy.concatenate([ids for ids, _, _ in sent]), return_counts=True)
    repeated = all_ids[counts > 1]
    for sender, (sent_ids, earliest_ms, latest_ms) in zip(runs, sent, strict=True):
        is_one = ~numpy.isin(sent_ids, repeated)
        ids = sent_ids[is_one]
        for receiver in runs:
            hosts = (sender.head.host, receiver.head.host)
            if hosts[0] == hosts[1] or not len(ids) or not len(receiver.examples):
                continue
            received = numpy.frombuffer(receiver.examples.ids, dtype=f"S{ID_SIZE}")
            _, at, there = numpy.intersect1d(ids, received, return_indices=True)
            if len(at):
                publish_ms = receiver.of_message(receiver.examples.publish_ms)[there]
                left_ms = numpy.clip(publish_ms, earliest_ms[is_one][at], latest_ms[is_one][at])
                took_ms = float((receiver.received_ms[there] - left_ms).min())
                fastest[hosts] = min(took_ms, fastest.get(hosts, took_ms))
    return fastest


def _sent_by(numpy: Any, run: Columns) -> tuple[NDArray[np.bytes_], NDArray[np.float64], NDArray[np.float64]]:
    """The ids of what an operator sent, and between which moments each has left.

    What a source has handed over may have arrived before the source notes the time. When it was published lies between,
    but for what was published again from elsewhere, by another clock.
    """
    ids = numpy.frombuffer(bytes(run.sent.ids.bytes + run.predictions.ids.bytes), dtype=f"S{ID_SIZE}")
    known = numpy.array([*run.sent.ids.known, *run.predictions.ids.known], dtype=bool)
    made_ms = numpy.array(run.predictions.finish_ms)
    earliest_ms = numpy.concatenate([numpy.array(run.sent.taken_ms), made_ms])
    latest_ms = numpy.concatenate([numpy.array(run.sent.handed_ms), made_ms])
    return ids[known], earliest_ms[known], latest_ms[known]
