"""The tables of a log: examples, steps, drops and predictions of all its operators, with ids to join them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.step import Fate, flow_name
from edgeserve._extras import require
from edgeserve.replay._clocks import Clocks
from edgeserve.replay._columns import FATES, GIVEN_BACK, HELD, PURPOSE, Columns
from edgeserve.replay._rows import OUTCOMES, Lists
from edgeserve.replay._uses import capture_shifts, follow_up

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Tables(NamedTuple):
    """DataFrames, backed by Arrow. Times are ms since the epoch, by the clock of the first host where that is known.

    Attributes:
        examples: A row for each example that an operator received.
        sent: A row for each example that a source sent.
        steps: A row for each step: what came, what was decided, and when the task ran.
        predictions: A row for each output, and what became of it.
        uses: A row for each time that a sink took something.
        drops: The examples that were received and not used, and the items that sources did not send.
    """

    examples: pd.DataFrame
    sent: pd.DataFrame
    steps: pd.DataFrame
    predictions: pd.DataFrame
    uses: pd.DataFrame
    drops: pd.DataFrame


def make_tables(runs: list[Columns], clocks: Clocks, known: pd.DataFrame | None = None) -> Tables:
    """Put the runs of operators together. They are taken out of the list, so that there is memory for their tables.

    `known` is what another log knows of the examples: `example_id`, `taken_ms`, `handed_ms` and `clock_shift_ms`.

    Raises:
        MissingExtra: pandas or pyarrow is not installed.
    """
    maker = _Maker(clocks, [run.head.run for run in runs])
    examples, sent, unsent, steps, made, uses = [], [], [], [], [], []
    while runs:
        run = runs.pop(0)
        if not run.head.plan_kind:
            sent.append(maker.sent(run))
            unsent.append(maker.unsent(run))
            continue
        examples.append(maker.examples(run))
        steps.append(maker.steps(run))
        if run.head.topics_out:
            made.append(maker.predictions(run))
        else:
            uses.append(maker.uses(run))
    received, sendings = maker.together(examples, _EXAMPLES), maker.together(sent, _SENT)
    origins = sendings if known is None else known
    predictions, used = follow_up(maker.together(made, _PREDICTIONS), maker.together(uses, _USES), origins)
    drops = maker.dropped(received, maker.together(unsent, _DROPS), origins, predictions)
    return Tables(received, sendings, maker.together(steps, _STEPS), predictions, used, drops)


BACK = "given back"
"""What stands for the fate of what was delivered again, to this operator or another one."""

_EXAMPLES = [
    "operator", "run", "example_id", "source", "flow_id", "topic", "capture_ms", "publish_ms", "reached_ms",
    "received_ms", "settled_ms", "fate", "error", "uses", "size_bytes", "is_url",
]  # fmt: skip
_SENT = [
    "operator", "run", "example_id", "flow_id", "topic", "capture_ms", "taken_ms", "handed_ms", "size_bytes", "is_url",
    "clock_shift_ms",
]  # fmt: skip
_STEPS = [
    "operator", "run", "at_ms", "trigger_id", "outcome", "input_ids", "started_ms", "fetch_ms", "compute_ms",
    "finished_ms", "outputs", "error",
]  # fmt: skip
_PREDICTIONS = [
    "operator", "run", "output_id", "input_ids", "flow_id", "is_satisfied", "is_escalated", "capture_ms",
    "oldest_capture_ms", "spread_ms", "reached_ms", "received_ms", "started_ms", "finished_ms", "size_bytes",
    "last_input_id",
]  # fmt: skip
_USES = [
    "operator", "run", "last_input_id", "capture_ms", "reached_ms", "received_ms", "started_ms", "finished_ms",
]  # fmt: skip
_DROPS = [
    "operator", "run", "example_id", "source", "flow_id", "fate", "error", "capture_ms", "reached_ms", "settled_ms",
]  # fmt: skip


class _Maker:
    """Makes the tables of single runs, as Arrow tables."""

    def __init__(self, clocks: Clocks, names: Sequence[str]) -> None:
        self._np = require("numpy", "replay", PURPOSE)
        self._pa = require("pyarrow", "replay", PURPOSE)
        self._pd = require("pandas", "replay", PURPOSE)
        self._clocks = clocks
        self._places = {name: place for place, name in enumerate(names)}

    def together(self, tables: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
        """The rows of all of them."""
        if not tables:
            return self._pd.DataFrame({name: [] for name in columns})
        table = self._pa.concat_tables(tables, promote_options="permissive")
        return table.to_pandas(types_mapper=self._pd.ArrowDtype)

    def examples(self, run: Columns) -> Any:
        np, each = self._np, run.examples
        shift_ms = self._clocks.shift_ms(run.head.host)
        words = [*[str(fate.value) for fate in FATES], BACK]
        codes = np.where(run.fate == GIVEN_BACK, len(words) - 1, run.fate)
        is_url = np.zeros(len(each), dtype=bool)
        is_url[np.array(each.urls, dtype=np.int64)] = True
        return self._table(
            run,
            len(each),
            example_id=self._ids(bytes(each.ids)),
            source=self._words(each.source, list(each.sources)),
            flow_id=self._flows(each.flow_ids, len(each)),
            topic=self._words(run.of_message(each.topic), list(each.topics)),
            capture_ms=run.capture_ms,
            publish_ms=run.publish_ms,
            reached_ms=run.reached_ms + shift_ms,
            received_ms=run.received_ms + shift_ms,
            settled_ms=self._known(run.fate_ms + shift_ms),
            fate=self._words(codes, words, mask=run.fate == HELD),
            error=self._errors(run.errors, len(each)),
            uses=run.uses,
            size_bytes=np.array(each.size, dtype=np.int64),
            is_url=is_url,
        )

    def sent(self, run: Columns) -> Any:
        np, each = self._np, run.sent
        shift_ms, count = self._clocks.shift_ms(run.head.host), len(each.number)
        more = [run.sent_more.get(number) for number in each.number] if run.sent_more else []
        flows = [one.flow_id if one is not None else b"" for one in more]
        is_url = np.array([one is not None and one.is_url for one in more] or np.zeros(count), dtype=bool)
        table = self._table(
            run,
            count,
            example_id=self._ids(bytes(each.ids.bytes)),
            flow_id=self._flows(flows, count),
            topic=self._words(np.zeros(count, dtype=np.int8), list(run.head.topics_out)),
            capture_ms=np.array(each.capture_ms, dtype=np.int64),
            taken_ms=np.array(each.taken_ms) + shift_ms,
            handed_ms=np.array(each.handed_ms) + shift_ms,
            size_bytes=np.array(each.size, dtype=np.int64),
            is_url=is_url,
            clock_shift_ms=np.full(count, shift_ms),
        )
        is_sent = np.array(each.ids.known, dtype=bool)
        return table if is_sent.all() else table.filter(self._pa.array(is_sent))

    def unsent(self, run: Columns) -> Any:
        """What a source did not send, as drops: most has no id yet, and no time but that of the drop."""
        pa, count = self._pa, len(run.unsent)
        shift_ms = self._clocks.shift_ms(run.head.host)
        return self._table(
            run,
            count,
            example_id=pa.array([each.id and each.id.hex() for each in run.unsent], pa.large_string()),
            source=pa.array([run.head.operator] * count, pa.string()),
            flow_id=pa.nulls(count, pa.string()),
            fate=pa.array([each.fate for each in run.unsent], pa.string()),
            error=pa.array([each.error for each in run.unsent], pa.string()),
            capture_ms=pa.array([each.capture_ms for each in run.unsent], pa.int64()),
            reached_ms=pa.nulls(count, pa.float64()),
            settled_ms=pa.array([each.at_ms + shift_ms for each in run.unsent], pa.float64()),
        )

    def dropped(
        self, examples: pd.DataFrame, unsent: pd.DataFrame, sent: pd.DataFrame, predictions: pd.DataFrame
    ) -> pd.DataFrame:
        """The examples that were not used, and the items that were not sent."""
        fates = examples["fate"]
        kept = examples[fates.notna() & ~fates.isin([str(Fate.USED.value), BACK])][_DROPS]
        both = [each for each in (kept, unsent) if len(each)] or [kept]
        drops = self._pd.concat(both, ignore_index=True).rename(columns={"settled_ms": "dropped_ms"})
        captured_ms = drops["capture_ms"] + capture_shifts(drops["example_id"], sent, predictions)
        waited_ms, age_ms = drops["dropped_ms"] - drops["reached_ms"], drops["dropped_ms"] - captured_ms
        return drops.assign(waited_ms=waited_ms, age_ms=age_ms)

    def steps(self, run: Columns) -> Any:
        np, steps = self._np, run.steps
        shift_ms = self._clocks.shift_ms(run.head.host)
        start_ms, finish_ms = np.array(steps.start_ms) + shift_ms, np.array(steps.finish_ms) + shift_ms
        fetch_ms = np.array(steps.fetch_ms)
        table = self._table(
            run,
            len(steps),
            at_ms=np.array(steps.at_ms) + shift_ms,
            trigger_id=self._ids_of(run, np.array(steps.trigger, dtype=np.int64)),
            outcome=self._words(steps.outcome, list(OUTCOMES)),
            input_ids=self._lists(run, steps.inputs),
            started_ms=self._known(start_ms),
            fetch_ms=fetch_ms,
            compute_ms=self._known(finish_ms - start_ms - fetch_ms),
            finished_ms=self._known(finish_ms),
            outputs=np.array(steps.outputs, dtype=np.int64),
            error=self._errors(steps.errors, len(steps)),
        )
        is_sorted = bool((np.diff(np.array(steps.at_ms)) >= 0).all())
        return table if is_sorted else table.sort_by("at_ms")

    def predictions(self, run: Columns) -> Any:
        np, made = self._np, run.predictions
        shift_ms, count = self._clocks.shift_ms(run.head.host), len(made.size)
        ends = _ends(np, made.inputs)
        rows = run.rows(np.array(made.inputs.items, dtype=np.int64))
        newest, oldest, last = _extremes(np, run, rows, ends)
        unknown = last < 0
        unsaid = None if run.head.plan_kind == "flows" else np.ones(count, dtype=bool)
        flow_ids = run.examples.flow_ids
        flows = [flow_ids[row] if row >= 0 else b"" for row in rows[ends[:-1]]] if flow_ids else []
        return self._table(
            run,
            count,
            output_id=self._ids(bytes(made.ids.bytes), np.array(made.ids.known) == 0),
            input_ids=self._lists(run, made.inputs),
            flow_id=self._flows(flows, count),
            is_satisfied=self._pa.array(np.array(made.is_satisfied, dtype=bool), self._pa.bool_(), mask=unsaid),
            is_escalated=np.array(made.is_escalated, dtype=bool),
            capture_ms=self._pa.array(newest, mask=unknown),
            oldest_capture_ms=self._pa.array(oldest, mask=unknown),
            spread_ms=self._pa.array(newest - oldest, mask=unknown),
            reached_ms=self._pa.array(_at(np, run.reached_ms, last) + shift_ms, mask=unknown),
            received_ms=self._pa.array(_at(np, run.received_ms, last) + shift_ms, mask=unknown),
            started_ms=np.array(made.start_ms) + shift_ms,
            finished_ms=np.array(made.finish_ms) + shift_ms,
            size_bytes=np.array(made.size, dtype=np.int64),
            last_input_id=self._ids_at(run, last),
        )

    def uses(self, run: Columns) -> Any:
        """What a sink took."""
        np, pa, shift_ms = self._np, self._pa, self._clocks.shift_ms(run.head.host)
        rows = run.rows(np.array(run.predictions.inputs.items, dtype=np.int64))
        unknown = rows < 0
        return self._table(
            run,
            len(rows),
            last_input_id=self._ids_at(run, rows),
            capture_ms=pa.array(_at(np, run.capture_ms, rows), mask=unknown),
            reached_ms=pa.array(_at(np, run.reached_ms, rows) + shift_ms, mask=unknown),
            received_ms=pa.array(_at(np, run.received_ms, rows) + shift_ms, mask=unknown),
            started_ms=np.array(run.predictions.start_ms) + shift_ms,
            finished_ms=np.array(run.predictions.finish_ms) + shift_ms,
        )

    # Columns.

    def _table(self, run: Columns, count: int, **columns: Any) -> Any:
        operator = self._words(self._np.zeros(count, dtype=self._np.int8), [run.head.operator])
        place = self._np.full(count, self._places[run.head.run], dtype=self._np.int16)
        return self._pa.table({"operator": operator, "run": place, **columns})

    def _known(self, values: NDArray[np.float64]) -> Any:
        return self._pa.array(values, mask=self._np.isnan(values))

    def _words(self, places: Any, words: Sequence[str], mask: NDArray[np.bool_] | None = None) -> Any:
        """Text, by places in a list of words."""
        codes = self._pa.array(self._np.asarray(places, dtype=self._np.int32), mask=mask)
        return self._pa.DictionaryArray.from_arrays(codes, self._pa.array(words, self._pa.string())).dictionary_decode()

    def _errors(self, errors: Mapping[int, str], count: int) -> Any:
        """What was raised, by row."""
        if not errors:
            return self._pa.nulls(count, self._pa.string())
        return self._pa.array([errors.get(row) for row in range(count)], self._pa.string())

    def _flows(self, flow_ids: Sequence[bytes], count: int) -> Any:
        if not flow_ids:
            return self._pa.nulls(count, self._pa.string())
        return self._pa.array([_flow(flow_id) for flow_id in flow_ids], self._pa.string())

    def _ids(self, ids: bytes, mask: NDArray[np.bool_] | None = None) -> Any:
        """Ids as hexadecimal text, without a loop over them; those of the mask are missing."""
        count, digits = len(ids) // ID_SIZE, 2 * ID_SIZE
        offsets = self._np.arange(0, digits * (count + 1), digits, dtype=self._np.int64)
        made = self._pa.LargeStringArray.from_buffers(
            count, self._pa.py_buffer(offsets), self._pa.py_buffer(ids.hex().encode("ascii"))
        )
        if mask is None or not mask.any():
            return made
        return self._pa.compute.if_else(self._pa.array(~mask), made, None)

    def _ids_of(self, run: Columns, numbers: NDArray[np.int64]) -> Any:
        """The ids of the examples of these numbers; missing for -1."""
        return self._ids_at(run, run.rows(numbers))

    def _ids_at(self, run: Columns, rows: NDArray[np.int64]) -> Any:
        """The ids of the examples in these rows; missing for -1."""
        if not len(run.examples):
            return self._pa.nulls(len(rows), self._pa.large_string())
        return self._ids(run.ids_at(self._np.maximum(rows, 0)), rows < 0)

    def _lists(self, run: Columns, lists: Lists) -> Any:
        rows = run.rows(self._np.array(lists.items, dtype=self._np.int64))
        ids = self._ids_at(run, rows)
        return self._pa.LargeListArray.from_arrays(self._pa.array(_ends(self._np, lists), self._pa.int64()), ids)


def _ends(np: Any, lists: Lists) -> NDArray[np.int64]:
    """Where each list begins in all their items; in the end, where the last one ends."""
    ends: NDArray[np.int64] = np.concatenate([[0], np.cumsum(np.array(lists.counts, dtype=np.int64))]).astype(np.int64)
    return ends


def _extremes(
    np: Any, run: Columns, rows: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The newest and the oldest capture of each list, and the row of its last input.

    That is the one captured last; of several, the one that was received last. It is -1 where nothing is known, as the
    record of an input is gone.
    """
    if len(ends) == 1:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    captures, starts = _at(np, run.capture_ms, rows), ends[:-1]
    newest, oldest = np.maximum.reduceat(captures, starts), np.minimum.reduceat(captures, starts)
    if len(rows) == len(starts):
        return newest, oldest, rows
    of_list = np.repeat(np.arange(len(starts)), np.diff(ends))
    received = np.where(captures == newest[of_list], _at(np, run.received_ms, rows), -np.inf)
    order = np.lexsort((received, of_list))
    is_known = np.minimum.reduceat(rows, starts) >= 0
    return newest, oldest, np.where(is_known, rows[order[ends[1:] - 1]], -1)


def _at(np: Any, column: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """The values in these rows; where there is none, anything."""
    values: NDArray[Any] = column[rows] if len(column) else np.zeros(len(rows), dtype=np.int64)
    return values


def _flow(flow_id: bytes) -> str | None:
    if not flow_id:
        return None
    try:
        return flow_id.decode("utf-8")
    except UnicodeDecodeError:
        return flow_name(flow_id)
