"""What became of predictions: who used them, how late, and where the time went.

A prediction is followed back by its last input, the one that was captured last, from operator to operator to a source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeserve._extras import require
from edgeserve.replay._arrays import numbers
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._ids import IdIndex

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

# So many operators may stand one behind the other.
_LONGEST_CHAIN = 100

# Messages say in whole ms when they were sent, so what is told from that may be so much too early.
_PUBLISHED_WITHIN_MS = 1.0

_TIMES = ("timeliness_ms", "staleness_ms", "transfer_ms", "queueing_ms", "compute_ms")


def follow_up(made: pd.DataFrame, uses: pd.DataFrame, sent: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The predictions with what became of them, and the uses with how late they were.

    Args:
        made: What operators made, or did not send.
        uses: What sinks took.
        sent: What sources sent: `taken_ms`, `handed_ms`, and `clock_shift_ms`, which brings capture times to one clock.
    """
    predictions = made[made["output_id"].notna()].reset_index(drop=True)
    ways = _Ways(predictions, sent)
    late = ways.until_used(uses)
    uses = _with(uses.rename(columns={"last_input_id": "example_id"}), late)
    first = _first_uses(predictions, ways.made, uses)
    columns = {name: _taken(values, first) for name, values in late.items()}
    columns |= {
        "used_ms": _taken(numbers(uses["started_ms"]), first),
        "age_ms": ways.finished_ms - ways.captured_ms,
        "compute_ms": ways.compute_ms,
        "clock_shift_ms": ways.shifts_ms,
    }
    sinks = uses["operator"].reindex(first).reset_index(drop=True)
    return _with(predictions.assign(used_by=sinks), columns), uses


def capture_shifts(example_ids: pd.Series, sent: pd.DataFrame, predictions: pd.DataFrame) -> NDArray[np.float64]:
    """What is added to the capture times of examples to have them by one clock: 0 where that is not known."""
    np = require("numpy", "replay", PURPOSE)
    shifts = np.zeros(len(example_ids))
    for ids, of in ((predictions["output_id"], predictions), (sent["example_id"], sent)):
        known = numbers(of["clock_shift_ms"])
        if known.any():
            at = IdIndex(ids).find(example_ids)
            shifts = np.where(at >= 0, known[at], shifts)
    return shifts  # type: ignore[no-any-return] # of a module as Any


class _Ways:
    """What happened to the last input of each prediction before the prediction was finished.

    Attributes:
        made: Where the predictions are.
        finished_ms: When each was.
        captured_ms: When its last input was captured, by one clock.
        shifts_ms: What that differs by from what the source's clock said.
        compute_ms: How long tasks took, its own among them, until it was finished.
    """

    def __init__(self, predictions: pd.DataFrame, sent: pd.DataFrame) -> None:
        self._np = np = require("numpy", "replay", PURPOSE)
        self.made = IdIndex(predictions["output_id"])
        self._sent = sent
        self._sources = IdIndex(sent["example_id"])
        self._spreads_ms = numbers(predictions["spread_ms"])
        self.finished_ms = numbers(predictions["finished_ms"])
        parents = self.made.find(predictions["last_input_id"])
        sendings = self._sources.find(predictions["last_input_id"])
        self.shifts_ms = self._shifts(parents, sendings)
        self.captured_ms = numbers(predictions["capture_ms"]) + self.shifts_ms
        transfer_ms, queueing_ms = self._last_hop(predictions, parents, sendings, self.captured_ms)
        # A model's output has the capture time of its data, which may have waited for a later signal.
        waited_ms = np.where(parents >= 0, _taken(self.captured_ms, parents) - self.captured_ms, 0.0)
        compute_ms = self.finished_ms - numbers(predictions["started_ms"])
        self._spent = self._sums([transfer_ms, queueing_ms + waited_ms, compute_ms], parents)
        self.compute_ms = self._spent[-1]

    def _shifts(self, parents: NDArray[np.int64], sendings: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is added to the capture times: they are by the clock of the source's host."""
        np = self._np
        known = numbers(self._sent["clock_shift_ms"])
        if not known.any():
            return np.zeros(len(parents))  # type: ignore[no-any-return]
        shifts = np.nan_to_num(_taken(known, sendings))
        for _ in range(_LONGEST_CHAIN):
            inherited = np.where(parents >= 0, shifts[parents], shifts)
            if (inherited == shifts).all():
                break
            shifts = inherited
        return shifts  # type: ignore[no-any-return]

    def _last_hop(
        self,
        rows: pd.DataFrame,
        parents: NDArray[np.int64],
        sendings: NDArray[np.int64],
        captured_ms: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How long the last inputs of some rows were on their way from where they were made, and how long they waited.

        They waited here, until the task was started, and at a source before they were sent. `parents` are the
        predictions that they are, -1 for what no operator of the log made; `sendings` those of sources, likewise.
        """
        np = self._np
        taken_ms, handed_ms = (_taken(numbers(self._sent[name]), sendings) for name in ("taken_ms", "handed_ms"))
        is_unknown = np.isnan(handed_ms)
        taken_ms, handed_ms = np.where(is_unknown, captured_ms, (taken_ms, handed_ms))
        reached_ms = numbers(rows["reached_ms"])
        # What a source has handed over may arrive before the source notes the time.
        handed_ms = np.clip(reached_ms, taken_ms, handed_ms)
        left_ms = np.where(parents >= 0, _taken(self.finished_ms, parents), handed_ms)
        too_early = (reached_ms < left_ms) & (reached_ms >= left_ms - _PUBLISHED_WITHIN_MS)
        reached_ms = np.where(too_early, left_ms, reached_ms)
        before_ms = np.where(parents >= 0, 0.0, left_ms - captured_ms)
        queueing_ms = before_ms + numbers(rows["started_ms"]) - reached_ms
        return reached_ms - left_ms, queueing_ms

    def _sums(self, spent: list[NDArray[np.float64]], parents: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        """What was spent on the whole way: in the last operator, and in those before it."""
        np = self._np
        sums = [np.where(parents < 0, each, np.nan) for each in spent]
        for _ in range(_LONGEST_CHAIN):
            ready = np.isnan(sums[-1]) & (parents >= 0) & ~np.isnan(_taken(sums[-1], parents))
            if not ready.any():
                break
            for each, total in zip(spent, sums, strict=True):
                total[ready] = each[ready] + total[parents[ready]]
        return tuple(sums)

    def until_used(self, uses: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """How late each use was, from the capture of the last input of what was used, and where the time went."""
        np = self._np
        parents = self.made.find(uses["last_input_id"])
        sendings = self._sources.find(uses["last_input_id"])
        own_ms = numbers(uses["capture_ms"]) + np.nan_to_num(_taken(numbers(self._sent["clock_shift_ms"]), sendings))
        captured_ms = np.where(parents >= 0, _taken(self.captured_ms, parents), own_ms)
        transfer_ms, queueing_ms = self._last_hop(uses, parents, sendings, captured_ms)
        before = [np.where(parents >= 0, _taken(each, parents), 0.0) for each in self._spent]
        late_ms = numbers(uses["started_ms"]) - captured_ms
        spread_ms = np.where(parents >= 0, _taken(self._spreads_ms, parents), 0.0)
        times_ms = (late_ms, late_ms + spread_ms, before[0] + transfer_ms, before[1] + queueing_ms, before[2])
        return dict(zip(_TIMES, times_ms, strict=True))


def _first_uses(predictions: pd.DataFrame, made: IdIndex, uses: pd.DataFrame) -> NDArray[np.int64]:
    """Which use of each prediction was the first; -1 for none. `made` says where the predictions are.

    What was made again after a crash has the id that it had: then it is the last one that was finished before.
    """
    np = require("numpy", "replay", PURPOSE)
    order = np.argsort(numbers(uses["started_ms"]), kind="stable")
    first = IdIndex(uses["example_id"].iloc[order]).find(predictions["output_id"])
    first = np.where(first >= 0, order[first] if len(order) else -1, -1)
    several = made.is_repeated()
    if several.any():
        in_time = ~(numbers(predictions["finished_ms"]) > _taken(numbers(uses["started_ms"]), first))
        is_last = ~predictions["output_id"][in_time].duplicated(keep="last").to_numpy(dtype=bool)
        takes = np.zeros(len(first), dtype=bool)
        takes[np.flatnonzero(in_time)[is_last]] = True
        first = np.where(several & ~takes, -1, first)
    return first  # type: ignore[no-any-return]


def _taken(values: NDArray[np.float64], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """The values in these rows; NaN for -1."""
    numpy = require("numpy", "replay", PURPOSE)
    taken: NDArray[np.float64] = numpy.full(len(at), numpy.nan)
    taken[at >= 0] = values[at[at >= 0]]
    return taken


def _with(table: pd.DataFrame, columns: dict[str, NDArray[np.float64]]) -> pd.DataFrame:
    """A table with more columns; missing for NaN."""
    arrow = require("pyarrow", "replay", PURPOSE)
    arrays = require("pandas", "replay", PURPOSE).arrays
    return table.assign(
        **{name: arrays.ArrowExtensionArray(arrow.array(each, from_pandas=True)) for name, each in columns.items()}
    )
