"""What is on its way to the broker: how much may be, and what failed of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edgeserve._core.checks import check_count
from edgeserve.errors import DeliveryError

MAX_UNCONFIRMED = 4000


@dataclass(frozen=True)
class InFlight:
    """How much may be on its way to the broker.

    Attributes:
        max_sends: How many packs may be unconfirmed; of those that are not full, only a few may.
        max_examples: How many examples may be waiting or unconfirmed; beyond that a send waits.
        max_bytes: How many bytes of them; one example may be larger than that when it is alone.
    """

    max_sends: int = 16
    max_examples: int = MAX_UNCONFIRMED
    max_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        check_count("max_sends", self.max_sends)
        check_count("max_unconfirmed", self.max_examples)
        check_count("max_bytes", self.max_bytes)


class Failures:
    """What sends failed with, until somebody asks.

    Args:
        address: The broker's, for the error.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._found: list[tuple[Exception, int]] = []
        self.are_any = False
        """Whether `raise_them` would raise."""

    def note(self, error: Exception, examples: int) -> None:
        """Have an error raised later that so many examples failed with."""
        with self._lock:
            self._found.append((error, examples))
            self.are_any = True

    def raise_them(self) -> None:
        """Raise them, once.

        Raises:
            DeliveryError: The first since the last call; its message counts the examples of all.
        """
        if not self.are_any:  # nearly always
            return
        with self._lock:
            found, self._found = self._found, []
            self.are_any = False
        first, examples = found[0][0], sum(count for _, count in found)
        in_all = f" ({examples} examples in all)" if examples > 1 else ""
        raise DeliveryError(f"{first}{in_all}", self._address) from first
