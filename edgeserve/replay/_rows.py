"""The rows of what an operator decided and made, as its log is read, and the clock by which they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeserve._log.reading import Block
from edgeserve._log.records import Ran

# Clocks are read in whole ms: below this, two blocks differ by nothing but that.
_SAME_CLOCK_MS = 2.0

RAN, FAILED, WAITED, PACED = "ran", "failed", "waits for a match", "waits for its time"


@dataclass
class Wall:
    """Tells steady times in ms since the epoch.

    Attributes:
        offset_ms: What is added to them.
    """

    offset_ms: float | None = None

    def meet(self, block: Block) -> float:
        """The offset at a block: the largest there was, as clocks are read rounded down, unless the clock was set."""
        offset_ms = block.wall_ms - block.steady_ms
        known = self.offset_ms
        if known is None or abs(offset_ms - known) > _SAME_CLOCK_MS or offset_ms > known:
            self.offset_ms = known = offset_ms
        return known


@dataclass
class Steps:
    """What an operator decided and ran, row by row.

    Attributes:
        trigger: The number of the arrival; -1 for a moment.
        at_ms: When it was decided.
        outcome: `RAN`, `FAILED`, `WAITED`, `PACED`, or the fate of the arrival.
        start_ms: When the task started; NaN where it did not run.
        fetch_ms: How long fetching took.
        finish_ms: When it had returned.
        error: What it raised; None if nothing.
        inputs: The numbers of the examples it ran on.
        outputs: How many outputs were sent.
    """

    trigger: list[int] = field(default_factory=list)
    at_ms: list[float] = field(default_factory=list)
    outcome: list[str] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    fetch_ms: list[float] = field(default_factory=list)
    finish_ms: list[float] = field(default_factory=list)
    error: list[str | None] = field(default_factory=list)
    inputs: list[Sequence[int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def add(self, trigger: int, at_ms: float, outcome: str) -> None:
        """A step that did not run the task, or has not yet."""
        self.trigger.append(trigger)
        self.at_ms.append(at_ms)
        self.outcome.append(outcome)
        self.start_ms.append(float("nan"))
        self.fetch_ms.append(0.0)
        self.finish_ms.append(float("nan"))
        self.error.append(None)
        self.inputs.append(())
        self.outputs.append(0)

    def ran(self, ran: Ran, offset_ms: float, inputs: Sequence[int]) -> None:
        """The task ran in the last step, which is there."""
        self.outcome[-1] = RAN if ran.error is None else FAILED
        self.start_ms[-1] = ran.start_steady_ms + offset_ms
        self.fetch_ms[-1] = ran.fetch_ms
        self.finish_ms[-1] = ran.finish_steady_ms + offset_ms
        self.error[-1] = ran.error
        self.inputs[-1] = inputs
        self.outputs[-1] = sum(bool(output[0]) for output in ran.outputs)


@dataclass
class Predictions:
    """What was made, or handed to a sink, row by row: of what, its id, b"" if it was not sent, and its size."""

    inputs: list[Sequence[int]] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    is_satisfied: list[bool] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    start_ms: list[float] = field(default_factory=list)
    finish_ms: list[float] = field(default_factory=list)
