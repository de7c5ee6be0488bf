"""Rows that are added one by one and read as columns, in little more memory than their values."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

from edgeserve._core.ids import ID_SIZE
from edgeserve._core.step import Fate

RAN, FAILED, WAITED, PACED = "ran", "failed", "waits for a match", "waits for its time"
OUTCOMES: Sequence[str] = (RAN, FAILED, WAITED, PACED, *(fate.value for fate in Fate))
"""What a step can come to; columns have their places."""

_CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_NOT_A_TIME = float("nan")
_NO_ID = bytes(ID_SIZE)


class Lists:
    """Lists of numbers, one after the other.

    Attributes:
        counts: How long each is.
        items: What is in them.
    """

    def __init__(self) -> None:
        self.counts = array("q")
        self.items = array("q")

    def add(self, numbers: Sequence[int]) -> None:
        """One more."""
        self.counts.append(len(numbers))
        self.items.extend(numbers)

    def add_singles(self, numbers: Sequence[int]) -> None:
        """Lists of one each."""
        self.counts.extend([1] * len(numbers))
        self.items.extend(numbers)


class Ids:
    """Ids, some of which may be missing.

    Attributes:
        bytes: 16 for each; NULs for those that are missing.
        known: Whether each is there.
    """

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.known = array("b")

    def add(self, ids: Sequence[bytes]) -> None:
        """More of them; b"" is missing."""
        if all(ids):
            self.bytes += b"".join(ids)
            self.known.extend([1] * len(ids))
        else:
            self.bytes += b"".join([each or _NO_ID for each in ids])
            self.known.extend([bool(each) for each in ids])

    def at(self, row: int) -> bytes:
        """That of a row."""
        return bytes(self.bytes[row * ID_SIZE : (row + 1) * ID_SIZE])


class NotSent(NamedTuple):
    """What a source did not send: the fate of an item, when that was settled, and what was raised.

    What was handed over before that has an id, and was captured at a time.
    """

    fate: str
    at_ms: float
    error: str | None = None
    id: bytes | None = None
    capture_ms: int | None = None


class Steps:
    """What an operator decided and ran.

    Attributes:
        trigger: The number of the arrival; -1 for a moment.
        at_ms: When it was decided.
        outcome: What it came to, as places in `OUTCOMES`.
        start_ms: When the task started; NaN where it did not run.
        fetch_ms: How long fetching took.
        finish_ms: When it had returned.
        errors: What it raised, by row.
        inputs: The numbers of the examples it ran on.
        outputs: How many outputs were sent.
    """

    def __init__(self) -> None:
        self.trigger = array("q")
        self.at_ms = array("d")
        self.outcome = array("b")
        self.start_ms = array("d")
        self.fetch_ms = array("d")
        self.finish_ms = array("d")
        self.errors: dict[int, str] = {}
        self.inputs = Lists()
        self.outputs = array("q")
        self._is_open = False

    def __len__(self) -> int:
        return len(self.trigger)

    def add(self, trigger: int, at_ms: float, outcome: str) -> None:
        """A step; if the task is to run in it, `ran` follows."""
        self._close()
        self._is_open = outcome == RAN
        self.trigger.append(trigger)
        self.at_ms.append(at_ms)
        self.outcome.append(_CODES[outcome])
        if not self._is_open:
            self._did_not_run()

    def _close(self) -> None:
        """Note that the task of the last step has not run, if that is so: the log ends there, or a part is missing."""
        if self._is_open:
            self._did_not_run()
            self._is_open = False

    def _did_not_run(self) -> None:
        self.start_ms.append(_NOT_A_TIME)
        self.fetch_ms.append(0.0)
        self.finish_ms.append(_NOT_A_TIME)
        self.inputs.add(())
        self.outputs.append(0)

    def ran(
        self, inputs: Sequence[int], start_ms: float, fetch_ms: float, finish_ms: float, outputs: int, error: str | None
    ) -> None:
        """The task ran in the last step, or, where it has before, again."""
        if not self._is_open:
            self.add(-1, start_ms, RAN)
        self._is_open = False
        if error is not None:
            self.outcome[-1] = _CODES[FAILED]
            self.errors[len(self) - 1] = error
        self.start_ms.append(start_ms)
        self.fetch_ms.append(fetch_ms)
        self.finish_ms.append(finish_ms)
        self.inputs.add(inputs)
        self.outputs.append(outputs)

    def served(self, numbers: Sequence[int], starts_ms: bytes, finishes_ms: bytes, outputs: Sequence[int]) -> None:
        """Steps that asked no join. Times are arrays of doubles."""
        self._close()
        count = len(numbers)
        self.trigger.extend(numbers)
        self.at_ms.frombytes(starts_ms)
        self.outcome.extend([_CODES[RAN]] * count)
        self.start_ms.frombytes(starts_ms)
        self.fetch_ms.extend([0.0] * count)
        self.finish_ms.frombytes(finishes_ms)
        self.inputs.add_singles(numbers)
        self.outputs.extend(outputs)

    def end(self) -> None:
        """There are no more."""
        self._close()


class Predictions:
    """What was made: of what, its id, whether the task was satisfied, or asks the next model, its bytes, and when."""

    def __init__(self) -> None:
        self.inputs = Lists()
        self.ids = Ids()
        self.is_satisfied = array("b")
        self.is_escalated = array("b")
        self.size = array("q")
        self.start_ms = array("d")
        self.finish_ms = array("d")

    def add(
        self,
        inputs: Sequence[int],
        output_id: bytes,
        size: int,
        start_ms: float,
        finish_ms: float,
        *,
        is_satisfied: bool,
        is_escalated: bool,
    ) -> None:
        """One more."""
        self.inputs.add(inputs)
        self.ids.add((output_id,))
        self.is_satisfied.append(is_satisfied)
        self.is_escalated.append(is_escalated)
        self.size.append(size)
        self.start_ms.append(start_ms)
        self.finish_ms.append(finish_ms)

    def served(
        self,
        numbers: Sequence[int],
        ids: Sequence[bytes],
        sizes: Sequence[int],
        starts_ms: bytes,
        finishes_ms: bytes,
    ) -> None:
        """Those of steps that asked no join. Times are arrays of doubles."""
        self.inputs.add_singles(numbers)
        self.ids.add(ids)
        self.is_satisfied.extend([1] * len(numbers))
        self.is_escalated.extend([0] * len(numbers))
        self.size.extend(sizes)
        self.start_ms.frombytes(starts_ms)
        self.finish_ms.frombytes(finishes_ms)


class Sendings:
    """What a source sent."""

    def __init__(self) -> None:
        self.number = array("q")
        self.ids = Ids()
        self.capture_ms = array("q")
        self.taken_ms = array("d")
        self.handed_ms = array("d")
        self.size = array("q")


class Examples:
    """What an operator received, message by message.

    Attributes:
        ids: 16 bytes for each example.
        capture_ms, size: Of each example.
        source: Of each example, as places in `sources`.
        urls: The rows of those whose payload is a URL.
        flow_ids: Of each example; empty as long as none has one.
        first, count, publish_ms, received_ms, topic: Of each message: the number of its first example, how
            many it has, its times, and its topic as a place in `topics`.
    """

    def __init__(self) -> None:
        self.ids = bytearray()
        self.capture_ms = array("q")
        self.size = array("q")
        self.source = array("i")
        self.urls = array("q")
        self.flow_ids: list[bytes] = []
        self.first = array("q")
        self.count = array("q")
        self.publish_ms = array("d")
        self.received_ms = array("d")
        self.topic = array("i")
        self.sources: dict[str, int] = {}
        self.topics: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.capture_ms)

    def add_flows(self, flow_ids: Sequence[bytes] | None, count: int) -> None:
        """Note the flow ids of the examples of a message, before its captures are."""
        if flow_ids is not None:
            self.flow_ids += [b""] * (len(self) - len(self.flow_ids))
            self.flow_ids += flow_ids
        elif self.flow_ids:
            self.flow_ids += [b""] * count
