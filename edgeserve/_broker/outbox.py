"""Examples on their way out: sent without waiting, within bounds, and reported when the broker has stored them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from edgeserve._broker.base import Message, Producer
from edgeserve._core.step import Output
from edgeserve._interrupts import raise_noted
from edgeserve.errors import BrokerError, DeliveryError
from edgeserve.message_format import pack_example

# Waits are cut into slices so that closing is seen in time.
_SLICE_S = 0.2


@dataclass(frozen=True)
class InFlight:
    """How much may be sent and not yet confirmed; beyond that a send waits.

    Attributes:
        max_messages: How many messages.
        max_bytes: How many bytes of payload; one message may be larger than that when it is alone.
    """

    max_messages: int = 1000
    max_bytes: int = 64 * 1024 * 1024


class Outbox:
    """Sends to one topic. Confirmations come on a thread of the broker's; no lock is held while they are passed on."""

    def __init__(self, producer: Producer, address: str, op_from: bytes, limits: InFlight | None = None) -> None:
        self._producer = producer
        self._address = address
        self._op_from = op_from
        self._limits = limits if limits is not None else InFlight()
        self._changed = threading.Condition()
        self._messages = 0
        self._bytes = 0
        self._sent = 0
        self._failures: list[BrokerError] = []
        self._is_stopped = False

    @property
    def sent(self) -> int:
        """How many messages were handed to the broker."""
        return self._sent

    @property
    def unconfirmed(self) -> int:
        """How many of them the broker has neither stored nor refused yet."""
        return self._messages

    def raise_failure(self) -> None:
        """Raise what earlier sends failed with, once.

        Raises:
            DeliveryError: The first failure since the last call; its message counts the others.
        """
        if not self._failures:
            return
        with self._changed:
            failures, self._failures = self._failures, []
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise DeliveryError(f"{first}{more}", first.address) from first

    def send(self, output: Output, on_confirmed: Callable[[], None]) -> None:
        """Hand one example to the broker; wait first while too much is in flight.

        `on_confirmed` is called when it is stored, and never if it can't be.

        Raises:
            PayloadTooLarge: The broker does not take messages of this size; nothing was sent.
            DeliveryError: It was closed while the send waited.
        """
        message = Message(pack_example(output.id, self._op_from, b"", output.payload), output.capture_ms)
        size = len(message.payload)
        with self._changed:
            while self._is_full(size) and not self._is_stopped:
                self._changed.wait(_SLICE_S)
                raise_noted()
            if self._is_stopped:
                raise DeliveryError("closed before the broker had room for another message", self._address)
            self._messages += 1
            self._bytes += size

        def confirmed(error: BrokerError | None) -> None:
            with self._changed:
                self._messages -= 1
                self._bytes -= size
                if error is not None:
                    self._failures.append(error)
                self._changed.notify()
            if error is None:
                on_confirmed()

        try:
            self._producer.send(message, confirmed)
        except Exception:  # refused before it left: it is not confirmed either
            with self._changed:
                self._messages -= 1
                self._bytes -= size
            raise
        self._sent += 1

    def _is_full(self, size: int) -> bool:
        limits = self._limits
        return self._messages >= limits.max_messages or (self._messages > 0 and self._bytes + size > limits.max_bytes)

    def stop(self) -> None:
        """Make a send that waits for room give up."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def close(self, timeout_ms: int) -> None:
        """Wait for confirmations, at most `timeout_ms`.

        Raises:
            DeliveryError: Something could not be confirmed; its inputs stay unacknowledged.
        """
        self.stop()
        self._producer.close(timeout_ms)
        self.raise_failure()
