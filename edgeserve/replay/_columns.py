"""One logged run as columns: NumPy arrays of its examples, its steps, and what came of them.

A log has millions of records, so what is frequent is taken in by whole messages, not by examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.step import Fate
from edgeserve._extras import require
from edgeserve._log.reading import Block
from edgeserve._log.records import (
    ARRIVED,
    KINDS,
    SENT,
    SERVED,
    Anew,
    Arrived,
    Asked,
    Decided,
    Ended,
    GivenUp,
    Head,
    Lost,
    Output,
    Ran,
    Sent,
    SentMore,
    Served,
    Settled,
    Unsent,
)
from edgeserve.replay._rows import PACED, RAN, WAITED, Predictions, Steps, Wall

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
        ids: 16 bytes for each example.
        number, capture_ms, publish_ms, received_ms, opened_ms, size, is_url: Of each example.
        source, topic, flow_id: The same, as lists.
        fate, fate_ms, uses: What became of it, when, and how often it was used.
        steps: What was decided and run, but for what was served at once.
        predictions: What came of that.
        served_*: What was served at once: the number of the example, when, the id of the output and its size.
        sent_*: What a source sent.
        lost: How many records are missing.
        ended: What the operator's `stats` said when it was closed; None if it was not.
    """

    def __init__(self, run: Logged) -> None:
        self._np = require("numpy", "replay", PURPOSE)
        self.head = run.head
        self._wall = Wall()
        self._ids: list[bytes] = []
        self._examples: list[tuple[Any, ...]] = []
        self.source: list[str] = []
        self.topic: list[str] = []
        self.flow_id: list[bytes] = []
        self._fates: list[tuple[int, int, float]] = []
        self._given_up: set[int] = set()
        self._given_back: list[int] = []
        # How many messages had come when the operator began anew, and when that was.
        self._anew: list[tuple[int, float]] = []
        self._served: list[tuple[Sequence[Any], float]] = []
        self._sent: list[tuple[Sequence[Any], float]] = []
        self.sent_more: dict[int, SentMore] = {}
        self.unsent: list[tuple[int, str, float]] = []
        self.steps = Steps()
        self.predictions = Predictions()
        self.lost = 0
        self.ended: Ended | None = None
        self.span_ms: tuple[float, float] | None = None
        self._job: Sequence[Sequence[int]] | None = None
        for block in run.blocks():
            offset_ms = self._wall.meet(block)
            for record in block.records:
                self._take(record, offset_ms)
        self._close()

    # Taking records in.

    def _take(self, record: tuple[Any, ...], offset_ms: float) -> None:
        kind = record[0]
        if kind == ARRIVED:
            self._take_arrived(Arrived(*record), offset_ms)
        elif kind == SERVED:
            self._served.append((record[1], offset_ms))
        elif kind == SENT:
            self._sent.append((record[1], offset_ms))
        else:
            each = KINDS[kind](*record)
            handler = _HANDLERS.get(type(each))
            if handler is not None:
                handler(self, each, offset_ms)

    def _take_arrived(self, each: Arrived, offset_ms: float) -> None:
        count = len(each.captures_ms)
        self._ids.append(each.ids)
        self._examples.append(
            (each.first, count, each.publish_ms, each.received_steady_ms + offset_ms, each.steady_ms + offset_ms,
             each.captures_ms, each.sizes, each.urls or ())
        )  # fmt: skip
        self.source += [each.sources] * count if isinstance(each.sources, str) else each.sources
        self.topic += [each.topic] * count
        self.flow_id += each.flow_ids if each.flow_ids is not None else [b""] * count

    def _take_settled(self, each: Settled, offset_ms: float) -> None:
        at_ms = each.steady_ms + offset_ms
        self._fates.append((each.number, _FATE_CODES[each.fate], at_ms))
        self.steps.add(each.number, at_ms, each.fate)

    def _take_decided(self, each: Decided, offset_ms: float) -> None:
        at_ms = each.steady_ms + offset_ms
        outcome = WAITED if each.wake_steady_ms is None else PACED
        for number, fate in each.fates:
            self._fates.append((number, _FATE_CODES[fate], at_ms))
            if number == each.arrival:
                outcome = fate
        self._given_back += each.given_back
        if each.job is not None:
            outcome = RAN
        self._job = each.job
        if each.arrival is not None or each.job is not None or each.fates:
            self.steps.add(each.arrival if each.arrival is not None else -1, at_ms, outcome)

    def _take_ran(self, each: Ran, offset_ms: float) -> None:
        if each.arrival is not None:
            inputs: Sequence[int] = (each.arrival,)
            self.steps.add(each.arrival, each.start_steady_ms + offset_ms, RAN)
        else:
            inputs = self._inputs_of(each)
            if self._job is None:
                self.steps.add(-1, each.start_steady_ms + offset_ms, RAN)
        self.steps.ran(each, offset_ms, inputs)
        finish_ms = each.finish_steady_ms + offset_ms
        made = self.predictions
        for fields in each.outputs:
            output = Output(*fields)
            made.inputs.append(inputs if output.numbers is None else output.numbers)
            made.ids.append(output.id)
            made.is_satisfied.append(output.is_satisfied)
            made.size.append(output.size)
            made.start_ms.append(each.start_steady_ms + offset_ms)
            made.finish_ms.append(finish_ms)

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
        self._anew.append((len(self._examples), each.steady_ms + offset_ms))

    def _take_given_up(self, each: GivenUp, offset_ms: float) -> None:
        at_ms = each.steady_ms + offset_ms
        self._given_up.update(each.numbers)
        self._fates += [(number, _FATE_CODES[each.fate], at_ms) for number in each.numbers]

    def _take_asked(self, each: Asked, offset_ms: float) -> None:
        self._given_back += each.given_back

    def _take_sent_more(self, each: SentMore, offset_ms: float) -> None:
        self.sent_more[each.number] = each

    def _take_unsent(self, each: Unsent, offset_ms: float) -> None:
        self.unsent.append((each.number, each.fate, each.steady_ms + offset_ms))

    def _take_lost(self, each: Lost, offset_ms: float) -> None:
        self.lost += each.records
        self._job = None  # the record of the next one may be among them

    def _take_ended(self, each: Ended, offset_ms: float) -> None:
        self.ended = each

    # Making columns of them.

    def _close(self) -> None:
        np = self._np
        self.ids = b"".join(self._ids)
        firsts = [each[0] for each in self._examples]
        counts = np.array([each[1] for each in self._examples], dtype=np.int64)
        self._first = np.array(firsts, dtype=np.int64)
        self._row = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        total = int(self._row[-1])
        per_message = np.repeat(np.arange(len(firsts)), counts)
        self.number = self._first[per_message] + np.arange(total) - self._row[per_message]
        for place, name in ((2, "publish_ms"), (3, "received_ms"), (4, "opened_ms")):
            setattr(self, name, np.array([each[place] for each in self._examples], dtype=np.float64)[per_message])
        self.capture_ms = np.fromiter((ms for each in self._examples for ms in each[5]), np.int64, total)
        self.size = np.fromiter((size for each in self._examples for size in each[6]), np.int64, total)
        self.is_url = np.zeros(total, dtype=bool)
        for row, each in zip(self._row, self._examples, strict=False):
            if each[7]:
                self.is_url[row + np.array(each[7])] = True
        self._examples.clear()
        self._ids.clear()
        self._close_served()
        self._close_sent()
        if self._given_up:
            self._take_back_unsent()
        self._close_fates(total)

    publish_ms: NDArray[np.float64]
    received_ms: NDArray[np.float64]
    opened_ms: NDArray[np.float64]

    def _close_served(self) -> None:
        np = self._np
        numbers, starts, finishes, self.served_ids, sizes = _by_field(self._served, len(Served._fields))
        offsets = self._offsets(self._served, len(Served._fields))
        self.served_number = np.array(numbers, dtype=np.int64)
        self.served_start_ms = 1000 * np.array(starts, dtype=np.float64) + offsets
        self.served_finish_ms = 1000 * np.array(finishes, dtype=np.float64) + offsets
        self.served_size = np.array(sizes, dtype=np.int64)
        self._served.clear()

    def _close_sent(self) -> None:
        np = self._np
        numbers, self.sent_ids, captures, taken, handed, sizes = _by_field(self._sent, len(Sent._fields))
        offsets = self._offsets(self._sent, len(Sent._fields))
        self.sent_number = np.array(numbers, dtype=np.int64)
        self.sent_capture_ms = np.array(captures, dtype=np.int64)
        self.sent_taken_ms = np.array(taken, dtype=np.float64) + offsets
        self.sent_handed_ms = 1000 * np.array(handed, dtype=np.float64) + offsets
        self.sent_size = np.array(sizes, dtype=np.int64)
        self._sent.clear()

    def _offsets(self, parts: Sequence[tuple[Sequence[Any], float]], width: int) -> NDArray[np.float64]:
        """What is added to the steady times of each record in these parts."""
        np = self._np
        counts = np.array([len(fields) // width for fields, _ in parts], dtype=np.int64)
        return np.repeat(np.array([offset for _, offset in parts], dtype=np.float64), counts)  # type: ignore[no-any-return]

    def _close_fates(self, total: int) -> None:
        np = self._np
        self.fate = np.full(total, HELD, dtype=np.int8)
        self.fate_ms = np.full(total, np.nan)
        self.uses = np.zeros(total, dtype=np.int64)
        served = self.rows(self.served_number)
        made = zip(self.predictions.inputs, self.predictions.finish_ms, strict=True)
        used = [(number, at_ms) for numbers, at_ms in made for number in numbers]
        rows = np.concatenate([served, self.rows(np.array([number for number, _ in used], dtype=np.int64))])
        at_ms = np.concatenate([self.served_finish_ms, np.array([ms for _, ms in used], dtype=np.float64)])
        known = rows >= 0
        rows, at_ms = rows[known], at_ms[known]
        np.add.at(self.uses, rows, 1)
        self.fate[rows] = _USED
        self.fate_ms[rows[::-1]] = at_ms[::-1]  # of the first use
        settled = self.rows(np.array([number for number, _, _ in self._fates], dtype=np.int64))
        for row, (_, code, ms) in zip(settled, self._fates, strict=True):
            if row >= 0 and self.fate[row] == HELD:
                self.fate[row], self.fate_ms[row] = code, ms
        given_back = self.rows(np.array(self._given_back, dtype=np.int64))
        self.fate[given_back[given_back >= 0]] = GIVEN_BACK
        for messages, ms in self._anew:
            superseded = np.flatnonzero(self.fate[: self._row[messages]] == HELD)
            self.fate[superseded], self.fate_ms[superseded] = _SUPERSEDED, ms
        self._fates.clear()

    def _take_back_unsent(self) -> None:
        """Leave out what was made of inputs that were then given up: it was too large to be sent."""
        np, made = self._np, self.predictions
        kept = [place for place, inputs in enumerate(made.inputs) if self._given_up.isdisjoint(inputs)]
        self.predictions = Predictions(**{name: [rows[at] for at in kept] for name, rows in vars(made).items()})
        is_kept = ~np.isin(self.served_number, list(self._given_up))
        self.served_ids = [each for each, is_sent in zip(self.served_ids, is_kept, strict=True) if is_sent]
        for name in ("served_number", "served_start_ms", "served_finish_ms", "served_size"):
            setattr(self, name, getattr(self, name)[is_kept])

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
        matrix = self._np.frombuffer(self.ids, dtype=self._np.uint8).reshape(-1, ID_SIZE)
        ids: bytes = matrix[rows].tobytes()
        return ids


def _by_field(parts: Sequence[tuple[Sequence[Any], float]], width: int) -> list[list[Any]]:
    """The fields of records that were written one after the other, each by itself."""
    return [[value for fields, _ in parts for value in fields[place::width]] for place in range(width)]


_HANDLERS: dict[type[Any], Any] = {
    Settled: Columns._take_settled,
    Anew: Columns._take_anew,
    Decided: Columns._take_decided,
    Ran: Columns._take_ran,
    GivenUp: Columns._take_given_up,
    Asked: Columns._take_asked,
    SentMore: Columns._take_sent_more,
    Unsent: Columns._take_unsent,
    Lost: Columns._take_lost,
    Ended: Columns._take_ended,
}
