"""Packs: several small examples in one message of the broker's, because a message costs more than its bytes.

A msgpack list of `[example, capture_ms]`, the example being its bytes as message_format lays them out; where a payload
is the URL of the payload itself, `[example, capture_ms, URL]`. The message that carries it is marked as a pack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import msgpack

from edgeserve.errors import MalformedMessage

MAX_EXAMPLES = 500
MAX_BYTES = 256 * 1024

URL = 1
"""The mark of an example whose payload is a URL."""

UNMARKED = 2
"""How long an entry without a mark is."""

Entry = tuple[bytes, int] | tuple[bytes, int, int]
"""An example's bytes, its capture time in ms since the epoch, and perhaps its mark."""


def pack(entries: Iterable[Entry]) -> bytes:
    """Put examples into one message."""
    packed: bytes = msgpack.packb(list(entries))
    return packed


def unpack(data: bytes, *, is_marked: bool = False) -> Sequence[Entry]:
    """Take the examples out again; what their bytes say is not looked at. `is_marked`: some may have a mark.

    Raises:
        MalformedMessage: The bytes are no list of one to `MAX_EXAMPLES` such entries.
    """
    try:
        entries = msgpack.unpackb(
            data, use_list=False, max_array_len=MAX_EXAMPLES, max_str_len=0, max_map_len=0, max_ext_len=0
        )
        # One call over all examples for each thing to be checked: a loop would cost more than the unpacking.
        pairs = entries
        if is_marked:
            pairs = [entry[:2] if len(entry) > UNMARKED and type(entry[2]) is int else entry for entry in entries]
            if any(entry[2:] not in ((), (URL,)) for entry in entries):
                raise ValueError("a mark is none that this version knows")
        examples, captures_ms = zip(*pairs, strict=True)
        if set(map(type, examples)) != {bytes} or set(map(type, captures_ms)) != {int}:
            raise ValueError("an entry is not the bytes of an example and its capture time")
        if not 0 < min(captures_ms) <= max(captures_ms) < 1 << 63:
            raise ValueError("a capture time is not ms since the epoch, more than 0")
    except (ValueError, TypeError) as error:
        raise MalformedMessage(f"a message of {len(data)} bytes that is marked as a pack is none: {error}") from error
    return cast("Sequence[Entry]", entries)
