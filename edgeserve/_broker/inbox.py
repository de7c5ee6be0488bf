"""Examples as they arrive: received, unpacked, decoded, and acknowledged when all of a message is done with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from edgeserve._broker.base import Consumer, Delivery
from edgeserve._broker.marks import HEADER_SIZE, MARKED_PACK_FORM, PACK, PACK_FORM, UNREADABLE, URL
from edgeserve._core import packs
from edgeserve._core.step import Example, Parcel, said_bytes
from edgeserve._logging import logger
from edgeserve.errors import MalformedMessage
from edgeserve.message_format import split_example

_log = logger("inbox")


class Inbox:
    """What has arrived for one operator and was not taken yet.

    Args:
        consumer: Where it comes from.
        roles: What stands for the source of an example, by topic; None: the name of the operator it is from.
        header_size: The bytes of header in messages whose sender has not said it.
    """

    def __init__(self, consumer: Consumer, roles: Mapping[str, str] | None = None, header_size: int = 0) -> None:
        self._consumer = consumer
        self._roles = roles
        self.steady_ms: Callable[[], float] | None = None
        """What messages are marked with the time of, as they come; None: they are not."""
        self._header_size = header_size
        # A flow id that its outputs can't carry is of no use to an operator of flows.
        self._longest = header_size if roles is not None and header_size else None
        self._has_warned = False
        self._deliveries: deque[Delivery] = deque()
        # What had been received of topics when they were paused.
        self._kept_back: deque[Delivery] = deque()
        self._paused: frozenset[str] = frozenset()
        self.received_bytes = 0
        """Bytes of the messages that were opened."""
        self.announced_bytes = 0
        """Bytes of the payloads whose URLs were in them."""

    @property
    def is_active(self) -> bool:
        """False while another consumer has the subscription and this one stands by."""
        return self._consumer.is_active

    @property
    def tenure(self) -> int:
        """Grows when others had the subscription meanwhile."""
        return self._consumer.tenure

    @property
    def max_unacknowledged(self) -> int | None:
        """How many messages of a topic may be held unacknowledged before no others come; None for any number."""
        return self._consumer.max_unacknowledged

    @property
    def must_ask(self) -> bool:
        """Whether messages of one key can be with several replicas, which then ask each other for them."""
        return self._consumer.must_ask

    def fill(self, timeout_ms: int) -> bool:
        """Wait until a message is here, at most `timeout_ms`. Whether there is one to open."""
        deliveries = self._deliveries
        if not deliveries:
            deliveries.extend(self._consumer.receive(timeout_ms))
            if self.steady_ms is not None and deliveries:
                received_ms = self.steady_ms()
                for delivery in deliveries:
                    delivery.received_steady_ms = received_ms
        tenure = self._consumer.tenure
        while deliveries and deliveries[0].tenure != tenure:
            deliveries.popleft()  # it has gone to another consumer since, or comes again
        if self._paused:
            while deliveries and deliveries[0].topic in self._paused:
                self._kept_back.append(deliveries.popleft())
        return bool(deliveries)

    @property
    def has_more(self) -> bool:
        """Whether another message is here that may be opened."""
        deliveries = self._deliveries
        return bool(deliveries) and deliveries[0].tenure == self._consumer.tenure and not self._paused

    @property
    def unopened(self) -> int:
        """How many messages are here that were not opened."""
        return len(self._deliveries) + len(self._kept_back)

    def open_next(self) -> list[Example]:
        """What is in the message that came first: one example or more. Only after `fill` said that there is one."""
        delivery = self._deliveries.popleft()
        self.received_bytes += len(delivery.payload)
        has_urls = URL in delivery.properties or delivery.properties.get(PACK) == MARKED_PACK_FORM
        if self._header_size and not self._has_warned and HEADER_SIZE not in delivery.properties:
            self._warn_of_unmarked(delivery)
        opened = _open(delivery, self._header_size, longest=self._longest)
        if self._roles is not None:
            role = self._roles[delivery.topic]
            for example in opened:
                example.source = role
        if has_urls:
            self.announced_bytes += sum([said_bytes(example.data) for example in opened if example.is_url])
        return opened

    def _warn_of_unmarked(self, delivery: Delivery) -> None:
        self._has_warned = True
        _log.warning(
            "topic %s: messages are not marked with the size of a flow id, as those of a source without flow_id= are "
            "not: their first %d bytes are taken for it (header_size=)",
            delivery.topic,
            self._header_size,
        )

    def acknowledge(self, parcels: Sequence[Parcel]) -> None:
        """Mark messages as done."""
        if parcels:
            self._consumer.acknowledge([parcel.delivery for parcel in parcels])

    def give_back(self, parcels: Sequence[Parcel]) -> None:
        """Have messages delivered again, to whoever their keys belong to now."""
        if parcels:
            self._consumer.give_back([parcel.delivery for parcel in parcels])

    def pause(self, topics: Collection[str]) -> None:
        """Have nothing of these topics to open from now on, and of all others."""
        self._paused = frozenset(topics)
        self._deliveries.extendleft(reversed(self._kept_back))
        self._kept_back.clear()
        self._consumer.pause(topics)

    def slot(self, key: str | None) -> int:
        """What of the broker's is with one replica at a time, with all other keys of the same slot."""
        return self._consumer.slot(key)

    def ask(self, keys: Sequence[bytes]) -> None:
        """Tell the other replicas that messages of these keys are wanted here; it can be lost, so it is repeated."""
        self._consumer.ask(keys)

    def asked(self) -> Sequence[bytes]:
        """The keys that other replicas have asked for since the last call."""
        return self._consumer.asked()

    def close(self) -> None:
        """Leave the subscription; what was not acknowledged goes to the next consumer."""
        self._deliveries.clear()
        self._kept_back.clear()
        self._consumer.close()


def _open(delivery: Delivery, header_size: int = 0, *, longest: int | None = None) -> list[Example]:
    """What is in a message: one example, or those of a pack."""
    payload, properties = delivery.payload, delivery.properties
    capture_ms = delivery.event_ms if delivery.event_ms is not None else delivery.publish_ms
    entries: Sequence[packs.Entry] = ((payload, capture_ms),)
    delivery.payload = b""  # a message may be unacknowledged long after its examples were used
    parcel = Parcel(delivery)
    if properties:
        try:
            header_size = _header_size(properties, header_size)
            if PACK in properties:
                entries = _unpacked(payload, properties[PACK])
            elif URL in properties:
                entries = ((payload, capture_ms, packs.URL),)
        except MalformedMessage as error:
            return [_malformed(parcel, payload, capture_ms, error)]
        if PACK in properties:
            delivery.properties = {name: value for name, value in properties.items() if name != PACK}
            parcel.open_examples = len(entries)
            parcel.is_pack = True
    opened = []
    for entry in entries:
        data, captured_ms = entry[0], entry[1]
        try:
            example_id, source, header, value = split_example(data, header_size)
            if longest is not None and len(header) > longest:
                raise MalformedMessage(f"its flow id is {len(header)} bytes, and header_size= here {longest}")
            opened.append(Example(example_id, source, value, captured_ms, header, parcel, data))
        except MalformedMessage as error:
            opened.append(_malformed(parcel, data, captured_ms, error))
        if len(entry) > packs.UNMARKED:
            opened[-1].is_url = True
    return opened


def _malformed(parcel: Parcel, data: bytes, capture_ms: int, error: MalformedMessage) -> Example:
    malformed = Example(b"", "", data, capture_ms, parcel=parcel, data=data)
    malformed.malformed = str(error)
    return malformed


def _header_size(properties: Mapping[str, str], unmarked: int) -> int:
    if UNREADABLE in properties:
        raise MalformedMessage(f"its key or marks are not UTF-8 text: {properties[UNREADABLE]}")
    mark = properties.get(HEADER_SIZE)
    if mark is None:
        return unmarked
    if not (mark.isascii() and mark.isdigit() and len(mark) <= 9):
        raise MalformedMessage(f"its mark {HEADER_SIZE}={mark!r} is no size in bytes")
    return int(mark)


def _unpacked(payload: bytes, form: str) -> Sequence[packs.Entry]:
    if form not in (PACK_FORM, MARKED_PACK_FORM):
        known = f"{PACK_FORM} or {MARKED_PACK_FORM}"
        raise MalformedMessage(f"its mark {PACK}={form!r} is none that this version knows: expected {known}")
    return packs.unpack(payload, is_marked=form == MARKED_PACK_FORM)
