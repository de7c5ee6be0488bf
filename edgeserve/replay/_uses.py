"""From each prediction back to what it was made from, and on to where it was used: how late it was, and why.

A prediction's timeliness is the time from the capture of its last input to its use. On that way it is either moving
between nodes, or waiting on one of them, or being computed; the three add up to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve.replay._arrays import numbers
from edgeserve.replay._clocks import Clocks
from edgeserve.replay._columns import PURPOSE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

# So many operators may stand one behind the other.
_LONGEST_CHAIN = 100


def follow_up(made: pd.DataFrame, uses: pd.DataFrame, sent: pd.DataFrame, clocks: Clocks) -> pd.DataFrame:
    """What was sent, with what became of it.

    Args:
        made: What operators made, or did not send.
        uses: What sinks took.
        sent: What sources sent.
        clocks: How the times of captures are brought to one clock.
    """
    pandas = require("pandas", "replay", PURPOSE)
    predictions = made[made["output_id"].notna()].reset_index(drop=True)
    way = _Way(pandas, predictions, sent, clocks)
    first_uses = uses.sort_values("started_ms", kind="stable").drop_duplicates("last_input_id")
    used = first_uses.set_index("last_input_id")
    at = used.index.get_indexer(predictions["output_id"])
    known = at >= 0
    received_ms, started_ms = _taken(used["received_ms"], at, known), _taken(used["started_ms"], at, known)
    columns = {
        "used_ms": started_ms,
        "age_ms": way.finished_ms - way.capture_ms,
        "timeliness_ms": started_ms - way.capture_ms,
        "staleness_ms": started_ms - way.capture_ms + numbers(predictions["spread_ms"]),
        "transfer_ms": way.transfer_ms + received_ms - way.finished_ms,
        "queueing_ms": way.queueing_ms + started_ms - received_ms,
        "compute_ms": way.compute_ms,
    }
    arrow = pandas.ArrowDtype(require("pyarrow", "replay", PURPOSE).float64())
    numpy = require("numpy", "replay", PURPOSE)
    whole = {
        name: pandas.array(numpy.where(numpy.isnan(each), None, each), dtype=arrow) for name, each in columns.items()
    }
    sinks = used["operator"].reindex(predictions["output_id"]).reset_index(drop=True)
    return predictions.assign(used_by=sinks, **whole)


class _Way:
    """What happened to the last input of each prediction before the prediction was finished."""

    def __init__(self, pandas: Any, predictions: pd.DataFrame, sent: pd.DataFrame, clocks: Clocks) -> None:
        np = self._np = require("numpy", "replay", PURPOSE)
        self.finished_ms = numbers(predictions["finished_ms"])
        received_ms, started_ms = numbers(predictions["received_ms"]), numbers(predictions["started_ms"])
        first_of_id = ~predictions["output_id"].duplicated().to_numpy(dtype=bool)
        rows = np.flatnonzero(first_of_id)
        at = pandas.Index(predictions["output_id"][first_of_id]).get_indexer(predictions["last_input_id"])
        parents = np.where(at >= 0, rows[at], -1) if len(rows) else at
        self.capture_ms = numbers(predictions["capture_ms"]) + self._capture_shifts(
            pandas, predictions, sent, clocks, parents
        )
        from_source = parents < 0
        self.transfer_ms = np.where(from_source, received_ms - self.capture_ms, np.nan)
        self.queueing_ms = np.where(from_source, started_ms - received_ms, np.nan)
        self.compute_ms = np.where(from_source, self.finished_ms - started_ms, np.nan)
        for _ in range(_LONGEST_CHAIN):
            ready = np.isnan(self.compute_ms) & ~np.isnan(self.compute_ms[parents]) & ~from_source
            if not ready.any():
                break
            before = parents[ready]
            self.transfer_ms[ready] = self.transfer_ms[before] + received_ms[ready] - self.finished_ms[before]
            # A model's output has the capture time of its data, which may have waited for a later signal.
            waited_ms = self.capture_ms[before] - self.capture_ms[ready]
            self.queueing_ms[ready] = self.queueing_ms[before] + waited_ms + started_ms[ready] - received_ms[ready]
            self.compute_ms[ready] = self.compute_ms[before] + self.finished_ms[ready] - started_ms[ready]

    def _capture_shifts(
        self, pandas: Any, predictions: pd.DataFrame, sent: pd.DataFrame, clocks: Clocks, parents: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """What is added to the capture times: they are by the clock of the source's host."""
        np = self._np
        shifts = np.zeros(len(predictions))
        if not any(clocks.shifts_ms.values()) or not len(sent):
            return shifts  # type: ignore[no-any-return]
        sources = sent.drop_duplicates("example_id")
        at = pandas.Index(sources["example_id"]).get_indexer(predictions["last_input_id"])
        shifts = np.where(at >= 0, numbers(sources["clock_shift_ms"])[at], 0.0)
        for _ in range(_LONGEST_CHAIN):
            inherited = np.where(parents >= 0, shifts[parents], shifts)
            if (inherited == shifts).all():
                break
            shifts = inherited
        return shifts  # type: ignore[no-any-return]


def _taken(column: pd.Series, at: NDArray[np.int64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The values in these rows; NaN where there is none."""
    numpy = require("numpy", "replay", PURPOSE)
    values = numbers(column)
    taken: NDArray[np.float64] = numpy.full(len(at), numpy.nan)
    taken[known] = values[at[known]]
    return taken
