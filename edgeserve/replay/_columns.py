"""One logged run as columns: NumPy arrays of its examples, its steps, and what came of them.

A log has millions of records, so what is frequent is taken in by whole messages, not by examples.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.step import Fate
from edgeserve._extras import require
from edgeserve._log.head import Head
from edgeserve._log.reading import Block
from edgeserve._log.records import (
    KINDS,
    Anew,
    Arrived,
    Asked,
    Decided,
    Ended,
    GateRaised,
    GivenUp,
    Lost,
    Output,
    Ran,
    Sent,
    SentMany,
    SentMore,
    Served,
    ServedMany,
    Settled,
    Unsent,
    Withdrawn,
)
from edgeserve.replay._reaching import reached_ms
from edgeserve.replay._rows import FAILED, PACED, RAN, WAITED, Examples, Ids, NotSent, Predictions, Sendings, Steps
from edgeserve.replay._wall import Wall

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

PURPOSE = "reading replay logs"

FATES = tuple(Fate)
HELD, GIVEN_BACK = -1, -2
"""The codes of what has no fate, and of what the broker was to deliver again; those of fates are places in `FATES`."""

_FATE_CODES = {fate.value: code for code, fate in enumerate(FATES)}
_USED, _SUPERSEDED = FATES.index(Fate.USED), FATES.index(Fate.SUPERSEDED)

WITH_ERROR = (Fate.FAILED, Fate.MALFORMED)
"""The fates of what something was raised about."""

_WITH_ERROR = tuple(map(FATES.index, WITH_ERROR))

# What a task ran on where the record of that is lost, or in a file that is gone: the number of no example.
_UNKNOWN = (-1,)


class Logged(Protocol):
    """A run, from files or made again."""

    @property
    def head(self) -> Head:
        """What it is the run of."""

    def blocks(self) -> Iterator[Block]:
        """Its records, in order."""


class Columns:
    """Reads a run.

    Args:
        run: The run.

    Attributes:
        head: What it is the run of.
        examples: What it received.
        publish_ms, received_ms, reached_ms, capture_ms: Of each of these.
        fate, fate_ms, uses: What became of each, when, and how often it was used.
        errors: Why an example was given up, or is malformed, by its row.
        steps: What was decided and run.
        predictions: What came of that.
        sent: What a source sent; what it says beyond that, by the item's number, is in `sent_more`.
        unsent: What a source did not send.
        lost: How many records are missing.
        ended: What the operator's `stats` said when it was closed; None if it was not.
    """

    def __init__(self, run: Logged) -> None:
        self._np = require("numpy", "replay", PURPOSE)
        self.head = run.head
        self.examples = Examples()
        self.steps = Steps()
        self.predictions = Predictions()
        self.sent = Sendings()
        self.sent_more: dict[int, SentMore] = {}
        self.unsent: list[NotSent] = []
        self.lost = 0
        self.ended: Ended | None = None
        self._job: Sequence[Sequence[int]] | None = None
        # Fates that were settled: the number of the example, the fate, and when.
        self._settled = (array("q"), array("b"), array("d"))
        self._given_back = array("q")
        # Why examples were given up, by number.
        self._reasons: dict[int, str] = {}
        # What did not leave after all, by its id: what became of it, when, and why.
        self._withdrawn: dict[bytes, tuple[str, float, str | None]] = {}
        # How many examples had come when the operator began anew, and when that was.
        self._anew: list[tuple[int, float]] = []
        wall = Wall()
        for block in run.blocks():
            offset_ms = wall.meet(block)
            for record in block.records:
                self._take(record, offset_ms)
        self.steps.end()
        self._close()

    # Taking records in.

    def _take(self, record: tuple[Any, ...], offset_ms: float) -> None:
        each = KINDS[record[0]](*record)
        handler = _HANDLERS.get(type(each))
        if handler is not None:
            handler(self, each, offset_ms)

    def _take_arrived(self, each: Arrived, offset_ms: float) -> None:
        count, into = len(each.captures_ms), self.examples
        into.add_flows(each.flow_ids, count)
        if each.urls:
            into.urls.extend([len(into) + place for place in each.urls])
        into.ids += each.ids
        into.capture_ms.extend(each.captures_ms)
        into.size.extend(each.sizes)
        if isinstance(each.sources, str):
            into.source.extend([into.sources.setdefault(each.sources, len(into.sources))] * count)
        else:
            into.source.extend([into.sources.setdefault(source, len(into.sources)) for source in each.sources])
        into.first.append(each.first)
        into.count.append(count)
        into.publish_ms.append(each.publish_ms)
        into.received_ms.append(each.received_steady_ms + offset_ms)
        into.topic.append(into.topics.setdefault(each.topic, len(into.topics)))

    def _take_served(self, each: ServedMany, offset_ms: float) -> None:
        np, width = self._np, len(Served._fields)
        numbers, starts, finishes, ids, sizes = (each.fields[place::width] for place in range(width))
        starts_ms = (1000 * np.array(starts, dtype=np.float64) + offset_ms).tobytes()
        finishes_ms = (1000 * np.array(finishes, dtype=np.float64) + offset_ms).tobytes()
        self.steps.served(numbers, starts_ms, finishes_ms, [bool(output_id) for output_id in ids])
        self.predictions.served(numbers, ids, sizes, starts_ms, finishes_ms)

    def _take_sent(self, each: SentMany, offset_ms: float) -> None:
        np, width, into = self._np, len(Sent._fields), self.sent
        numbers, ids, captures, taken, handed, sizes = (each.fields[place::width] for place in range(width))
        into.number.extend(numbers)
        into.ids.add(ids)
        into.capture_ms.extend(captures)
        into.taken_ms.frombytes((np.array(taken, dtype=np.float64) + offset_ms).tobytes())
        into.handed_ms.frombytes((1000 * np.array(handed, dtype=np.float64) + offset_ms).tobytes())
        into.size.extend(sizes)

    def _settle(self, number: int, fate: str, at_ms: float) -> None:
        self._settled[0].append(number)
        self._settled[1].append(_FATE_CODES[fate])
        self._settled[2].append(at_ms)

    def _take_settled(self, each: Settled, offset_ms: float) -> None:
        at_ms = each.steady_ms + offset_ms
        self._settle(each.number, each.fate, at_ms)
        if each.error is not None:
            self._reasons.setdefault(each.number, each.error)
        self.steps.add(each.number, at_ms, each.fate)

    def _take_gate_raised(self, each: GateRaised, offset_ms: float) -> None:
        self.steps.add(each.number, each.steady_ms + offset_ms, FAILED)
        self.steps.errors[len(self.steps) - 1] = each.error

    def _take_decided(self, each: Decided, offset_ms: float) -> None:
        at_ms = each.steady_ms + offset_ms
        # The nearest join says when it waits no longer for a match; it never puts one off.
        waits_for_match = each.wake_steady_ms is None or self.head.plan.get("join") == "nearest"
        outcome = WAITED if waits_for_match else PACED
        for number, fate in each.fates:
            self._settle(number, fate, at_ms)
            if number == each.arrival:
                outcome = fate
        self._given_back.extend(each.given_back)
        if each.job is not None:
            outcome = RAN
        self._job = each.job
        if each.arrival is not None or each.job is not None or each.fates:
            self.steps.add(each.arrival if each.arrival is not None else -1, at_ms, outcome)

    def _take_ran(self, each: Ran, offset_ms: float) -> None:
        start_ms, finish_ms = each.start_steady_ms + offset_ms, each.finish_steady_ms + offset_ms
        if each.arrival is not None:
            inputs: Sequence[int] = (each.arrival,)
            self.steps.add(each.arrival, start_ms, RAN)
        else:
            inputs = self._inputs_of(each)
        outputs = [Output(*fields) for fields in each.outputs]
        sent = sum(bool(output.id) for output in outputs)
        self.steps.ran(inputs, start_ms, each.fetch_ms, finish_ms, sent, each.error)
        for output in outputs:
            made_of = inputs if output.numbers is None else output.numbers
            self.predictions.add(
                made_of,
                output.id,
                output.size,
                start_ms,
                finish_ms,
                is_satisfied=output.is_satisfied,
                is_escalated=output.port != 0,
            )

    def _inputs_of(self, each: Ran) -> Sequence[int]:
        """What the task ran on: the last job, or the part of it of which something came."""
        if each.numbers is not None:
            return each.numbers
        parts = [Output(*fields).numbers for fields in each.outputs]
        known = [part for part in parts if part is not None]
        if parts and len(known) == len(parts):
            return [number for part in known for number in part]
        return _UNKNOWN if self._job is None else [number for unit in self._job for number in unit]

    def _take_anew(self, each: Anew, offset_ms: float) -> None:
        self._anew.append((len(self.examples), each.steady_ms + offset_ms))

    def _take_given_up(self, each: GivenUp, offset_ms: float) -> None:
        for number in each.numbers:
            self._settle(number, each.fate, each.steady_ms + offset_ms)
            self._reasons.setdefault(number, each.reason)

    def _take_asked(self, each: Asked, offset_ms: float) -> None:
        self._given_back.extend(each.given_back)

    def _take_sent_more(self, each: SentMore, offset_ms: float) -> None:
        if each.flow_id or each.is_url:  # else it has but a payload
            self.sent_more[each.number] = each._replace(payload=None)

    def _take_unsent(self, each: Unsent, offset_ms: float) -> None:
        self.unsent.append(NotSent(each.fate, each.steady_ms + offset_ms, each.error))

    def _take_withdrawn(self, each: Withdrawn, offset_ms: float) -> None:
        self._withdrawn.update(dict.fromkeys(each.ids, (each.fate, each.steady_ms + offset_ms, each.error)))

    def _take_lost(self, each: Lost, offset_ms: float) -> None:
        self.lost += each.records
        self._job = None  # the record of the next one may be among them

    def _take_ended(self, each: Ended, offset_ms: float) -> None:
        self.ended = each

    # Making columns of them.

    def _close(self) -> None:
        np, into = self._np, self.examples
        counts = np.array(into.count, dtype=np.int64)
        self._first = np.array(into.first, dtype=np.int64)
        self._row = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._message = np.repeat(np.arange(len(counts)), counts)
        self.publish_ms = self.of_message(into.publish_ms)
        self.received_ms = self.of_message(into.received_ms)
        self.reached_ms = self.of_message(self._reached_ms())
        self.capture_ms: NDArray[Any] = np.frombuffer(into.capture_ms, dtype=np.int64)
        self._close_sendings()
        self._close_fates(self._take_back(self.predictions.ids))

    def _reached_ms(self) -> NDArray[np.float64]:
        np, steps = self._np, self.steps
        finished_ms = np.array(steps.finish_ms)
        return reached_ms(
            np,
            np.array(self.examples.received_ms),
            np.array(self.examples.publish_ms),
            np.array(self.examples.source, dtype=np.int64)[self._row[:-1]],  # of the first of its examples
            np.concatenate([np.array(steps.at_ms), finished_ms[~np.isnan(finished_ms)]]),
            self.head.started_ms,
        )

    def of_message(self, values: array[float] | array[int] | NDArray[Any]) -> NDArray[Any]:
        """The value of its message for each example."""
        of_each: NDArray[Any] = self._np.array(values)[self._message]
        return of_each

    def _close_sendings(self) -> None:
        """Tell what a source handed over, and was not stored, from what it sent."""
        sent = self.sent
        for row in self._take_back(sent.ids).tolist():
            example_id = sent.ids.at(row)
            fate, at_ms, error = self._withdrawn[example_id]
            self.unsent.append(NotSent(fate, at_ms, error, example_id, sent.capture_ms[row]))

    def _take_back(self, ids: Ids) -> NDArray[np.int64]:
        """Note that nothing has these ids which did not leave after all; where they were."""
        np = self._np
        if not self._withdrawn:
            return np.zeros(0, dtype=np.int64)  # type: ignore[no-any-return] # of a module as Any
        withdrawn = np.frombuffer(b"".join(self._withdrawn), dtype=f"V{ID_SIZE}")
        rows = np.flatnonzero(np.isin(np.frombuffer(ids.bytes, dtype=f"V{ID_SIZE}"), withdrawn))
        for row in rows.tolist():
            ids.known[row] = 0
        return rows  # type: ignore[no-any-return] # of a module as Any

    def _close_fates(self, unsent: NDArray[np.int64]) -> None:
        """Give each example its fate: a use, the first one, before all others.

        What was made of it counts as one, unless it could not be sent: these predictions are `unsent`.
        """
        np, total = self._np, len(self.examples)
        self.fate = np.full(total, HELD, dtype=np.int8)
        self.fate_ms = np.full(total, np.nan)
        self.uses = np.zeros(total, dtype=np.int64)
        numbers, codes, at_ms = (np.array(each) for each in self._settled)
        # The first that was settled counts, and so is written last.
        rows = self.rows(numbers.astype(np.int64))
        known = rows >= 0
        self.fate[rows[known][::-1]] = codes[known][::-1]
        self.fate_ms[rows[known][::-1]] = at_ms[known][::-1]
        made = self.predictions
        rows = self.rows(np.array(made.inputs.items, dtype=np.int64))
        counts = np.array(made.inputs.counts, dtype=np.int64)
        used_ms = np.repeat(np.array(made.finish_ms), counts)
        if len(unsent):
            is_used = ~np.isin(np.repeat(np.arange(len(counts)), counts), unsent)
            rows, used_ms = rows[is_used], used_ms[is_used]
        known = rows >= 0
        np.add.at(self.uses, rows[known], 1)
        self.fate[rows[known]] = _USED
        self.fate_ms[rows[known][::-1]] = used_ms[known][::-1]
        rows = self.rows(np.array(self._given_back, dtype=np.int64))
        self.fate[rows[rows >= 0]] = GIVEN_BACK
        for count, ms in self._anew:
            forgotten = np.flatnonzero(self.fate[:count] == HELD)
            self.fate[forgotten], self.fate_ms[forgotten] = _SUPERSEDED, ms
        rows = self.rows(np.array(list(self._reasons), dtype=np.int64))
        reasons = zip(rows.tolist(), self._reasons.values(), strict=True)
        self.errors = {row: reason for row, reason in reasons if row >= 0 and self.fate[row] in _WITH_ERROR}

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the examples of these numbers are; -1 where they are not, as their record was lost."""
        np = self._np
        if not len(self._first):
            return np.full(len(numbers), -1, dtype=np.int64)  # type: ignore[no-any-return] # of a module as Any
        message = np.searchsorted(self._first, numbers, side="right") - 1
        rows = self._row[message] + numbers - self._first[message]
        return np.where((message >= 0) & (rows < self._row[message + 1]), rows, -1)  # type: ignore[no-any-return]

    def ids_at(self, rows: NDArray[np.int64]) -> bytes:
        """The ids of the examples in these rows, one after the other."""
        matrix = self._np.frombuffer(self.examples.ids, dtype=self._np.uint8).reshape(-1, ID_SIZE)
        ids: bytes = matrix[rows].tobytes()
        return ids


_HANDLERS: dict[type[Any], Any] = {
    Arrived: Columns._take_arrived,
    Settled: Columns._take_settled,
    GateRaised: Columns._take_gate_raised,
    Decided: Columns._take_decided,
    Ran: Columns._take_ran,
    ServedMany: Columns._take_served,
    GivenUp: Columns._take_given_up,
    Anew: Columns._take_anew,
    Asked: Columns._take_asked,
    SentMany: Columns._take_sent,
    SentMore: Columns._take_sent_more,
    Unsent: Columns._take_unsent,
    Withdrawn: Columns._take_withdrawn,
    Lost: Columns._take_lost,
    Ended: Columns._take_ended,
}
