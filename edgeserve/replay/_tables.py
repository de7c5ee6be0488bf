"""The tables of a log: examples, steps, drops and predictions of all its operators, with ids to join them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._core.step import Fate, flow_name
from edgeserve._extras import require
from edgeserve.replay._clocks import Clocks
from edgeserve.replay._columns import FATES, GIVEN_BACK, HELD, PURPOSE, Columns
from edgeserve.replay._rows import RAN
from edgeserve.replay._uses import follow_up

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
        drops: The examples that were received and not used.
    """

    examples: pd.DataFrame
    sent: pd.DataFrame
    steps: pd.DataFrame
    predictions: pd.DataFrame
    drops: pd.DataFrame


def make_tables(runs: Sequence[Columns], clocks: Clocks) -> Tables:
    """Put the runs of operators together.

    Raises:
        MissingExtra: pandas or pyarrow is not installed.
    """
    maker = _Maker(clocks)
    steppers = [run for run in runs if run.head.plan_kind]
    examples = maker.together([maker.examples(run) for run in steppers], _EXAMPLES)
    sent = maker.together([maker.sent(run) for run in runs if not run.head.plan_kind], _SENT)
    steps = maker.together([maker.steps(run) for run in steppers], _STEPS)
    made = maker.together([maker.predictions(run) for run in steppers if run.head.topics_out], _PREDICTIONS)
    uses = maker.together([maker.predictions(run) for run in steppers if not run.head.topics_out], _PREDICTIONS)
    return Tables(examples, sent, steps, follow_up(made, uses, sent, clocks), _drops(examples))


def _drops(examples: pd.DataFrame) -> pd.DataFrame:
    fates = examples["fate"]
    kept = fates.notna() & ~fates.isin([str(Fate.USED.value), BACK])
    drops = examples[kept][_DROPS].rename(columns={"settled_ms": "dropped_ms"})
    waited_ms, age_ms = drops["dropped_ms"] - drops["received_ms"], drops["dropped_ms"] - drops["capture_ms"]
    return drops.assign(waited_ms=waited_ms, age_ms=age_ms).reset_index(drop=True)


BACK = "given back"
"""What stands for the fate of what was delivered again, to this operator or another one."""

_EXAMPLES = [
    "operator", "example_id", "source", "flow_id", "topic", "capture_ms", "publish_ms", "received_ms", "settled_ms",
    "fate", "uses", "size_bytes", "is_url",
]  # fmt: skip
_SENT = [
    "operator", "example_id", "flow_id", "topic", "capture_ms", "taken_ms", "handed_ms", "size_bytes", "is_url",
    "clock_shift_ms",
]  # fmt: skip
_STEPS = [
    "operator", "at_ms", "trigger_id", "outcome", "input_ids", "started_ms", "fetch_ms", "compute_ms", "finished_ms",
    "outputs", "error",
]  # fmt: skip
_PREDICTIONS = [
    "operator", "output_id", "input_ids", "flow_id", "is_satisfied", "capture_ms", "oldest_capture_ms", "spread_ms",
    "received_ms", "started_ms", "finished_ms", "size_bytes", "last_input_id",
]  # fmt: skip
_DROPS = ["operator", "example_id", "source", "flow_id", "fate", "capture_ms", "received_ms", "settled_ms"]


class _Maker:
    """Makes the tables of single runs, as Arrow tables."""

    def __init__(self, clocks: Clocks) -> None:
        self._np = require("numpy", "replay", PURPOSE)
        self._pa = require("pyarrow", "replay", PURPOSE)
        self._pd = require("pandas", "replay", PURPOSE)
        self._clocks = clocks

    def together(self, tables: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
        """The rows of all of them."""
        if not tables:
            return self._pd.DataFrame({name: [] for name in columns})
        table = self._pa.concat_tables(tables, promote_options="permissive")
        return table.to_pandas(types_mapper=self._pd.ArrowDtype)

    def examples(self, run: Columns) -> Any:
        shift_ms = self._clocks.shift_ms(run.head.host)
        names: list[str | None] = [str(fate.value) for fate in FATES]
        words = self._pa.array([*names, BACK], self._pa.string())
        codes = self._np.where(run.fate == GIVEN_BACK, len(names), run.fate)
        fate = self._pa.DictionaryArray.from_arrays(
            self._pa.array(codes, self._pa.int8(), mask=run.fate == HELD), words
        ).dictionary_decode()
        return self._table(
            run,
            len(run.number),
            example_id=self._ids(run.ids),
            source=self._words(run.source),
            flow_id=self._flows(run.flow_id),
            topic=self._words(run.topic),
            capture_ms=run.capture_ms,
            publish_ms=run.publish_ms,
            received_ms=run.received_ms + shift_ms,
            settled_ms=self._known(run.fate_ms + shift_ms),
            fate=fate,
            uses=run.uses,
            size_bytes=run.size,
            is_url=run.is_url,
        )

    def sent(self, run: Columns) -> Any:
        shift_ms = self._clocks.shift_ms(run.head.host)
        more = [run.sent_more.get(int(number)) for number in run.sent_number] if run.sent_more else None
        count = len(run.sent_number)
        flows = [each.flow_id if each is not None else b"" for each in more] if more is not None else [b""] * count
        urls = [each is not None and each.is_url for each in more] if more is not None else [False] * count
        return self._table(
            run,
            count,
            example_id=self._ids(b"".join(run.sent_ids)),
            flow_id=self._flows(flows),
            topic=self._words(list(run.head.topics_out[:1]) * count),
            capture_ms=run.sent_capture_ms,
            taken_ms=run.sent_taken_ms + shift_ms,
            handed_ms=run.sent_handed_ms + shift_ms,
            size_bytes=run.sent_size,
            is_url=self._pa.array(urls, self._pa.bool_()),
            clock_shift_ms=self._np.full(count, shift_ms),
        )

    def steps(self, run: Columns) -> Any:
        np, steps, served = self._np, run.steps, run.served_number
        shift_ms = self._clocks.shift_ms(run.head.host)
        count = len(steps.trigger) + len(served)
        start_ms = np.concatenate([np.array(steps.start_ms, dtype=np.float64), run.served_start_ms]) + shift_ms
        finish_ms = np.concatenate([np.array(steps.finish_ms, dtype=np.float64), run.served_finish_ms]) + shift_ms
        fetch_ms = np.concatenate([np.array(steps.fetch_ms, dtype=np.float64), np.zeros(len(served))])
        at_ms = np.concatenate([np.array(steps.at_ms, dtype=np.float64) + shift_ms, run.served_start_ms + shift_ms])
        triggers = np.concatenate([np.array(steps.trigger, dtype=np.int64), served])
        sent = np.array([bool(each) for each in run.served_ids], dtype=np.int64)
        table = self._table(
            run,
            count,
            at_ms=at_ms,
            trigger_id=self._ids_of(run, triggers),
            outcome=self._words([*steps.outcome, *[RAN] * len(served)]),
            input_ids=self._lists(run, [*steps.inputs], served),
            started_ms=self._known(start_ms),
            fetch_ms=fetch_ms,
            compute_ms=self._known(finish_ms - start_ms - fetch_ms),
            finished_ms=self._known(finish_ms),
            outputs=np.concatenate([np.array(steps.outputs, dtype=np.int64), sent]),
            error=self._pa.array([*steps.error, *[None] * len(served)], self._pa.string()),
        )
        return table.sort_by("at_ms")

    def predictions(self, run: Columns) -> Any:
        np, made = self._np, run.predictions
        shift_ms = self._clocks.shift_ms(run.head.host)
        inputs, numbers = _offsets(np, made.inputs, run.served_number)
        rows = run.rows(numbers)
        starts = inputs[:-1]
        newest, oldest, last, unknown = _extremes(np, rows, run, starts, inputs)
        ids = [*made.ids, *run.served_ids]
        unsaid = None if run.head.plan_kind == "flows" else np.ones(len(ids), dtype=bool)
        satisfied = np.concatenate([np.array(made.is_satisfied, dtype=bool), np.ones(len(run.served_ids), dtype=bool)])
        first_rows = rows[starts] if len(starts) else rows
        return self._table(
            run,
            len(ids),
            output_id=self._ids_or_none(ids),
            input_ids=self._list_array(run, inputs, rows),
            flow_id=self._flows([run.flow_id[row] if row >= 0 else b"" for row in first_rows]),
            is_satisfied=self._pa.array(satisfied, self._pa.bool_(), mask=unsaid),
            capture_ms=self._pa.array(newest, mask=unknown),
            oldest_capture_ms=self._pa.array(oldest, mask=unknown),
            spread_ms=self._pa.array(newest - oldest, mask=unknown),
            received_ms=self._pa.array(_at(np, run.received_ms, last) + shift_ms, mask=unknown),
            started_ms=np.concatenate([np.array(made.start_ms, dtype=np.float64), run.served_start_ms]) + shift_ms,
            finished_ms=np.concatenate([np.array(made.finish_ms, dtype=np.float64), run.served_finish_ms]) + shift_ms,
            size_bytes=np.concatenate([np.array(made.size, dtype=np.int64), run.served_size]),
            last_input_id=self._ids_at(run, np.where(unknown, -1, last)),
        )

    # Columns.

    def _table(self, run: Columns, count: int, **columns: Any) -> Any:
        operator = self._pa.DictionaryArray.from_arrays(
            self._pa.array(self._np.zeros(count, dtype=self._np.int8)), self._pa.array([run.head.operator])
        ).dictionary_decode()
        return self._pa.table({"operator": operator, **columns})

    def _known(self, values: NDArray[np.float64]) -> Any:
        return self._pa.array(values, mask=self._np.isnan(values))

    def _words(self, words: Sequence[str]) -> Any:
        return self._pa.array(words, self._pa.string())

    def _flows(self, flow_ids: Sequence[bytes]) -> Any:
        if not any(flow_ids):
            return self._pa.nulls(len(flow_ids), self._pa.string())
        return self._pa.array([_flow(flow_id) for flow_id in flow_ids], self._pa.string())

    def _ids(self, ids: bytes) -> Any:
        """Ids as hexadecimal text, without a loop over them."""
        count, digits = len(ids) // 16, 32
        offsets = self._np.arange(0, digits * (count + 1), digits, dtype=self._np.int32)
        return self._pa.StringArray.from_buffers(
            count, self._pa.py_buffer(offsets), self._pa.py_buffer(ids.hex().encode("ascii"))
        )

    def _ids_or_none(self, ids: Sequence[bytes]) -> Any:
        if all(ids):
            return self._ids(b"".join(ids))
        return self._pa.array([each.hex() or None for each in ids], self._pa.string())

    def _ids_of(self, run: Columns, numbers: NDArray[np.int64]) -> Any:
        """The ids of the examples of these numbers; null for -1."""
        return self._ids_at(run, run.rows(numbers))

    def _ids_at(self, run: Columns, rows: NDArray[np.int64]) -> Any:
        """The ids of the examples in these rows; null for -1."""
        if not len(run.number):
            return self._pa.nulls(len(rows), self._pa.string())
        made = self._ids(run.ids_at(self._np.maximum(rows, 0)))
        return made if (rows >= 0).all() else self._pa.compute.if_else(self._pa.array(rows >= 0), made, None)

    def _lists(self, run: Columns, lists: Sequence[Sequence[int]], singles: NDArray[np.int64]) -> Any:
        offsets, numbers = _offsets(self._np, lists, singles)
        return self._list_array(run, offsets, run.rows(numbers))

    def _list_array(self, run: Columns, offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> Any:
        return self._pa.ListArray.from_arrays(self._pa.array(offsets, self._pa.int32()), self._ids_at(run, rows))


def _offsets(
    np: Any, lists: Sequence[Sequence[int]], singles: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each list begins and ends in all their items, and these; `singles` are lists of one."""
    counts = np.concatenate([np.array([len(each) for each in lists], dtype=np.int64), np.ones(len(singles), np.int64)])
    flat = np.array([number for each in lists for number in each], dtype=np.int64)
    return np.concatenate([[0], np.cumsum(counts)]), np.concatenate([flat, singles])


def _extremes(
    np: Any, rows: NDArray[np.int64], run: Columns, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The newest and the oldest capture of each list, the row of its last input, and where that is not known.

    That is the one captured last; of several, the one that was received last. Of a list with inputs whose record is
    gone, nothing is known.
    """
    if not len(starts):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing, nothing.astype(bool)
    captures = _at(np, run.capture_ms, rows)
    newest = np.maximum.reduceat(captures, starts)
    oldest = np.minimum.reduceat(captures, starts)
    of_list = np.repeat(np.arange(len(starts)), np.diff(ends))
    received = np.where(captures == newest[of_list], _at(np, run.received_ms, rows), -np.inf)
    order = np.lexsort((received, of_list))
    last = rows[order[ends[1:] - 1]]
    return newest, oldest, last, np.minimum.reduceat(rows, starts) < 0


def _at(np: Any, column: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """The values in these rows; where there is none, anything."""
    return column[rows] if len(column) else np.zeros(len(rows), dtype=column.dtype)


def _flow(flow_id: bytes) -> str | None:
    if not flow_id:
        return None
    try:
        return flow_id.decode("utf-8")
    except UnicodeDecodeError:
        return flow_name(flow_id)
