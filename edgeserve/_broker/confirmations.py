"""One confirmation for several messages."""

from __future__ import annotations

import itertools

from edgeserve._broker.base import Confirmed
from edgeserve.errors import BrokerError


class ConfirmedTogether:
    """Called for each of `count` messages, it calls `confirmed` when all are settled: with the first error, if any."""

    def __init__(self, count: int, confirmed: Confirmed) -> None:
        self._count = count
        self._confirmed = confirmed
        self._settled = itertools.count(1)
        self._errors: list[BrokerError] = []

    def __call__(self, error: BrokerError | None) -> None:
        # No lock, which would be taken for each message: appending and counting are each one step of the interpreter,
        # and whoever counts last finds what all others have appended before they counted.
        if error is not None:
            self._errors.append(error)
        if next(self._settled) == self._count:
            self._confirmed(self._errors[0] if self._errors else None)
