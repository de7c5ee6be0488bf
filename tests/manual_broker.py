"""A broker of the test's own, which delivers, confirms and refuses when it is told to."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence

from edgeserve._broker.base import Confirmed, Delivery, Message
from edgeserve._broker.confirmations import ConfirmedTogether
from edgeserve._core.packs import pack
from edgeserve.errors import BrokerError, DeliveryError
from edgeserve.message_format import GraphCodec

CAPTURE_MS = 1_700_000_000_000


def example(name: str, source: str, payload: bytes = b"x") -> bytes:
    """An example whose id comes from its name."""
    return GraphCodec().encode(uuid.uuid5(uuid.NAMESPACE_OID, name), source, payload)


class ManualBroker:
    """Delivers what `arrive` puts in, and confirms nothing by itself."""

    def __init__(self) -> None:
        self.arrived: list[Delivery] = []
        self.acknowledged: list[str] = []
        self.given_back: list[str] = []
        self.paused: frozenset[str] = frozenset()
        self.asks: list[bytes] = []
        self.unconfirmed: list[tuple[Message, Confirmed]] = []
        self.is_active = True
        self.tenure = 0

    def arrive(
        self,
        name: str,
        source: str,
        payload: bytes = b"x",
        at_ms: int = 0,
        *,
        data: bytes | None = None,
        **marks: str,
    ) -> None:
        whole = example(name, source, payload) if data is None else data
        properties = {mark.replace("_", "-"): value for mark, value in marks.items()}
        self.arrived.append(
            Delivery(name, "src", name, whole, CAPTURE_MS + at_ms, CAPTURE_MS, None, properties, self.tenure)
        )

    def arrive_together(self, name: str, *entries: bytes) -> None:
        """One message that is a pack."""
        self.arrive(name, "", data=pack([(entry, CAPTURE_MS) for entry in entries]), edgeserve_pack="1")

    def confirm(self, error: BrokerError | None = None) -> None:
        """Confirm, or refuse, the oldest send."""
        self.unconfirmed.pop(0)[1](error)

    # What a connection, a producer and a consumer do.

    topic = "manual"

    def producer(self, topic: str, *, together: bool = False) -> ManualBroker:
        return self

    def consumer(self, *_: object, **__: object) -> ManualBroker:
        return self

    def send(self, message: Message, confirmed: Confirmed) -> None:
        self.unconfirmed.append((message, confirmed))

    def send_together(self, messages: Sequence[Message], confirmed: Confirmed) -> None:
        together = ConfirmedTogether(len(messages), confirmed)
        for message in messages:
            self.send(message, together)

    def receive(self, timeout_ms: int) -> Sequence[Delivery]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        self.acknowledged += [delivery.handle for delivery in deliveries]

    max_unacknowledged: int | None = None
    must_ask = False

    def slot(self, key: str | None) -> int:
        return 0

    def pause(self, topics: Collection[str]) -> None:
        self.paused = frozenset(topics)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self.given_back += [delivery.handle for delivery in deliveries]

    def ask(self, keys: Sequence[bytes]) -> None:
        self.asks += keys

    def asked(self) -> Sequence[bytes]:
        return ()

    def close(self, timeout_ms: int = 0) -> None:
        for _, confirmed in self.unconfirmed:
            confirmed(DeliveryError("not confirmed in time", "test://"))
        self.unconfirmed.clear()
