"""What happens to an example whose task or gate raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeserve._core.checks import check_count, check_ms
from edgeserve.errors import BrokerError, MissingExtra, UsageError

OnError = Literal["raise", "retry", "dead_letter", "skip"]


@dataclass(frozen=True)
class ErrorPolicy:
    """What happens to the examples of a step whose gate or task raised an `Exception`.

    Attributes:
        on_error: `'raise'`: the step raises, and they stay unacknowledged; `'retry'`: they are tried again, and then
            become dead letters; `'dead_letter'`: they do at once; `'skip'`: they are given up.
        max_retries: How often they are tried again.
        retry_interval_ms: How long to wait before each time.
    """

    on_error: OnError = "raise"
    max_retries: int = 3
    retry_interval_ms: float = 100

    def __post_init__(self) -> None:
        expected = ("raise", "retry", "dead_letter", "skip")
        if self.on_error not in expected:
            raise UsageError(f"on_error is {self.on_error!r}: expected one of {', '.join(map(repr, expected))}")
        check_count("max_retries", self.max_retries)
        check_ms("retry_interval_ms", self.retry_interval_ms)

    def covers(self, error: Exception) -> bool:
        """Whether the step goes on after this error: not if it is no fault of the example's."""
        return self.on_error != "raise" and not isinstance(error, (BrokerError, MissingExtra))
