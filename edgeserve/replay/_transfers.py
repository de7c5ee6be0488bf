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
    for sender, columns in zip(runs, sent, strict=True):
        is_one = ~numpy.isin(columns[0], repeated)
        ids, taken_ms, handed_ms = (each[is_one] for each in columns)
        for receiver in runs:
            hosts = (sender.head.host, receiver.head.host)
            if hosts[0] == hosts[1] or not len(ids) or not len(receiver.examples):
                continue
            received = numpy.frombuffer(receiver.examples.ids, dtype=f"S{ID_SIZE}")
            _, at, there = numpy.intersect1d(ids, received, return_indices=True)
            if len(at):
                # What waited after it was handed over left later, and so seems slower than it was: the bound holds.
                # What seems to have left before it was taken has a rounded time, or another clock's.
                left_ms = numpy.clip(receiver.publish_ms[there], taken_ms[at], handed_ms[at])
                took_ms = float((receiver.received_ms[there] - left_ms).min())
                fastest[hosts] = min(took_ms, fastest.get(hosts, took_ms))
    return fastest


def _sent_by(numpy: Any, run: Columns) -> tuple[NDArray[np.bytes_], NDArray[np.float64], NDArray[np.float64]]:
    """The ids of what an operator sent, when each was taken to be sent, and when it had been handed over.

    A source notes the latter afterwards, when it may have arrived already. An output can't leave before it is finished.
    """
    ids = numpy.frombuffer(bytes(run.sent.ids.bytes + run.predictions.ids.bytes), dtype=f"S{ID_SIZE}")
    known = numpy.array([*run.sent.ids.known, *run.predictions.ids.known], dtype=bool)
    made_ms = numpy.array(run.predictions.finish_ms)
    taken_ms = numpy.concatenate([numpy.array(run.sent.taken_ms), made_ms])
    handed_ms = numpy.concatenate([numpy.array(run.sent.handed_ms), made_ms])
    return ids[known], taken_ms[known], handed_ms[known]
