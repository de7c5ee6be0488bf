"""What leaves in one send: a message of its own, or the examples that wait, as one pack or as messages together."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar, cast

from edgeserve._broker.base import Confirmed, Message, Producer
from edgeserve._broker.marks import MARKED_PACK_FORM, PACK, PACK_FORM, URL
from edgeserve._core import packs
from edgeserve._core.packs import Entry

Token = TypeVar("Token")

# What an entry of a pack takes beside the example itself, at most.
_ENTRY_BYTES = 15
NO_MARKS: Mapping[str, str] = {}


def message_of(entry: Entry, marks: Mapping[str, str] = NO_MARKS) -> Message:
    """An example as a message of its own."""
    return Message(entry[0], entry[1], None, {**marks, URL: "1"} if len(entry) > packs.UNMARKED else marks)


class Leaving(Generic[Token]):
    """What leaves in one send: one message, or examples; the token of each; and their bytes."""

    __slots__ = ("size", "tokens", "what")

    def __init__(self, what: list[Entry | Message], tokens: list[Token], size: int) -> None:
        self.what = what
        self.tokens = tokens
        self.size = size


def take_what_leaves(waiting: deque[Entry | Message], tokens: deque[Token], max_bytes: int) -> Leaving[Token]:
    """Take out what waits first, and what after it fits into one pack of `max_bytes` with it, each with its token.

    The caller holds the lock that keeps the two in step.
    """
    first = waiting.popleft()
    what, size = [first], len(first[0])
    if not isinstance(first, Message):
        room = max_bytes - size - _ENTRY_BYTES
        while waiting and len(what) < packs.MAX_EXAMPLES and not isinstance(waiting[0], Message):
            next_size = len(waiting[0][0])
            room -= next_size + _ENTRY_BYTES
            if room < 0:
                break
            size += next_size
            what.append(waiting.popleft())
    return Leaving(what, [tokens.popleft() for _ in what], size)


class Shipper:
    """Hands to a producer what leaves together.

    Args:
        producer: Where it goes.
        marks: What every message is marked with that is made of examples here.
        packing: Whether several examples are one message; else they are messages that are sent together.
    """

    def __init__(self, producer: Producer, marks: Mapping[str, str], *, packing: bool) -> None:
        self._producer = producer
        self._marks = marks
        self._packing = packing
        self._pack_marks = {**marks, PACK: PACK_FORM}
        self._marked_pack_marks = {**marks, PACK: MARKED_PACK_FORM}

    def ship(self, what: Sequence[Entry | Message], confirmed: Confirmed) -> None:
        """Send a message of its own, or examples; `confirmed` is called once, with the first error if any was refused.

        Raises:
            PayloadTooLarge, UsageError, BrokerError: As `Producer.send`; nothing was sent.
        """
        first = what[0]
        if isinstance(first, Message):
            self._producer.send(first, confirmed)
            return
        entries = cast("Sequence[Entry]", what)  # a message of its own leaves alone
        if not self._packing:
            self._producer.send_together([message_of(entry, self._marks) for entry in entries], confirmed)
        elif len(entries) == 1:
            self._producer.send(message_of(first, self._marks), confirmed)
        else:
            marks = self._marked_pack_marks if max(map(len, entries)) > packs.UNMARKED else self._pack_marks
            newest_ms = max([entry[1] for entry in entries])
            self._producer.send(Message(packs.pack(entries), newest_ms, None, marks), confirmed)
