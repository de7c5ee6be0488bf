"""Who was right: the truth stays here, and only a window's number comes back from a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeserve.cli.demo.recordings import Window


@dataclass(frozen=True)
class Tally:
    """What one model has been right about, as of one moment.

    Attributes:
        served: Windows that were predicted.
        right: Those whose exercise was told rightly.
        misjoined: Those that were predicted from windows of different moments.
        latency_p50_ms: Half of the windows took no longer than this from being complete to being scored; None
            before there is one.
        latency_p99_ms: The same for 99 of 100.
    """

    served: int
    right: int
    misjoined: int
    latency_p50_ms: float | None
    latency_p99_ms: float | None

    @property
    def accuracy(self) -> float | None:
        """The share of the served windows that it was right about; None before there is one."""
        return self.right / self.served if self.served else None


class Score:
    """Scores the predictions of one model.

    Args:
        windows: What is replayed, with the truth.
    """

    def __init__(self, windows: Iterable[Window]) -> None:
        self._truth: Mapping[int, str] = {window.number: window.exercise for window in windows}
        self._told: dict[int, str] = {}
        self._latencies_ms: list[float] = []
        self._right = 0
        self._misjoined = 0

    def add(self, numbers: Sequence[int], exercise: str, latency_ms: float) -> None:
        """Take a prediction.

        Args:
            numbers: The windows that it was made from, that of the first sensor first, which is the one that is
                scored; if it comes again it is not counted again.
            exercise: What the model said.
            latency_ms: How long ago the window was complete.
        """
        number = numbers[0]
        if number in self._told:
            return
        self._latencies_ms.append(latency_ms)
        self._right += exercise == self._truth[number]
        self._misjoined += any(other != number for other in numbers)
        self._told[number] = exercise

    @property
    def is_complete(self) -> bool:
        """Whether every window was predicted."""
        return len(self._told) == len(self._truth)

    def told(self, window: Window) -> str | None:
        """What the model said of a window; None if nothing yet."""
        return self._told.get(window.number)

    def tally(self) -> Tally:
        """How it stands now. Safe to call while another thread adds."""
        ordered = sorted(self._latencies_ms)
        return Tally(len(self._told), self._right, self._misjoined, percentile(ordered, 0.5), percentile(ordered, 0.99))


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of `ordered` that at least `share` of them do not exceed (nearest rank); None if it is empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
