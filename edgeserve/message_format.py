"""The bytes of one example, the same on every broker.

    id, 16 bytes | name of the operator it is from, 16 bytes of NUL-padded UTF-8 | header | payload

The header of a cascade's messages is the flow id, NUL padded; messages of other operators have none. The
layout is the research prototype's. The codecs are for scripts and tools and check what they are given;
operators, which pack and split every example, use the functions below them.
"""

from __future__ import annotations

import re
import reprlib
import uuid
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from edgeserve._core.ids import ID_SIZE
from edgeserve.errors import MalformedMessage, UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BaseBytesCodec", "GraphCodec", "NetworkCodec"]

NAME_SIZE = 16


def name_field(op_from: str, size: int = NAME_SIZE) -> bytes:
    """The name of an operator as it travels: UTF-8, NUL padded to `size` bytes.

    Raises:
        UsageError: The name is over `size` bytes of UTF-8, contains NUL, or is no text.
    """
    if not isinstance(op_from, str):
        raise UsageError(f"the name of an operator is a str, not {type(op_from).__name__}: {reprlib.repr(op_from)}")
    try:
        name = op_from.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {op_from!r} has no UTF-8 form: {error}") from error
    if len(name) > size:
        raise UsageError(f"the name {op_from!r} is {len(name)} bytes of UTF-8; at most {size} fit")
    if b"\0" in name:
        raise UsageError(f"the name {op_from!r} contains NUL, which is what pads a name to {size} bytes")
    return name.ljust(size, b"\0")


def header_field(header: Buffer | None, header_size: int) -> bytes:
    """A header as it travels: NUL padded to `header_size` bytes; None is all NUL.

    Raises:
        UsageError: The header is over `header_size` bytes or not bytes-like.
    """
    if header is None:
        return bytes(header_size)
    content = whole_bytes(header, "a header")
    if len(content) > header_size:
        raise UsageError(f"the header is {len(content)} bytes; at most {header_size} fit")
    return content.ljust(header_size, b"\0")


def pack_example(id_field: bytes, op_field: bytes, header: bytes, payload: Buffer) -> bytes:
    """Join the parts of an example; the first three have their full sizes already, and are not checked.

    Raises:
        TypeError: A part is not bytes-like.
        BufferError: The payload's memory is not contiguous.
    """
    return b"".join((id_field, op_field, header, payload))


def split_example(
    data: bytes, header_size: int, id_size: int = ID_SIZE, name_size: int = NAME_SIZE
) -> tuple[bytes, str, bytes, bytes]:
    """Cut an example into its id, the name of its operator, header and payload, the padding taken off.

    A header keeps its inner and leading NULs.

    Raises:
        MalformedMessage: The bytes are fewer than the fields before the payload, or the name is not
            NUL-padded UTF-8.
    """
    header_at = id_size + name_size
    payload_at = header_at + header_size
    if len(data) < payload_at:
        raise MalformedMessage(
            f"a message of {len(data)} bytes is shorter than its fields: {id_size} of id + {name_size} of name "
            f"+ {header_size} of header = {payload_at}"
        )
    name = _name_of(data[id_size:header_at])
    if not header_size:
        return data[:id_size], name, b"", data[header_at:]
    return data[:id_size], name, data[header_at:payload_at].rstrip(b"\0"), data[payload_at:]


# A stream has a handful of names; the bound keeps a hostile one from filling the memory.
@lru_cache(maxsize=1024)
def _name_of(field: bytes) -> str:
    name = field.rstrip(b"\0")
    if b"\0" in name:
        raise MalformedMessage(
            f"the {len(field)} bytes of the operator's name have NUL inside it: {reprlib.repr(field)}"
        )
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage(
            f"the {len(field)} bytes of the operator's name are not UTF-8: {reprlib.repr(field)} ({error})"
        ) from error


class BaseBytesCodec:
    """Joins parts into one message. It keeps no sizes, so it cannot take a message apart again."""

    def encode(self, parts: Iterable[Buffer]) -> bytes:
        """Join bytes-like parts.

        Raises:
            UsageError: A part is not bytes-like.
        """
        return b"".join([whole_bytes(part, "a part") for part in parts])

    def decode(self, data: Buffer) -> list[Any]:
        """Take a message apart, which only codecs that know the sizes can do."""
        raise NotImplementedError(f"{type(self).__name__} keeps no sizes; use NetworkCodec or GraphCodec to decode")


class NetworkCodec(BaseBytesCodec):
    """Messages of a header of a fixed size and data.

    Args:
        header_size: Bytes of the header.
    """

    def __init__(self, header_size: int) -> None:
        self.header_size = _checked_size(header_size, "header_size")

    def encode(self, parts: Iterable[Buffer]) -> bytes:
        """Join `[header, data]`.

        Raises:
            UsageError: There are not two parts, the header is not exactly `header_size` bytes, or a part is
                not bytes-like.
        """
        given: Sequence[Buffer] = list(parts)
        if len(given) != 2:
            raise UsageError(f"a message is [header, data]; there are {len(given)} parts")
        header = whole_bytes(given[0], "a header")
        if len(header) != self.header_size:
            raise UsageError(f"the header is {len(header)} bytes and must be exactly {self.header_size}")
        return b"".join((header, whole_bytes(given[1], "data")))

    def decode(self, data: Buffer) -> list[bytes]:
        """Cut a message into `[header, data]`.

        Raises:
            MalformedMessage: The message is shorter than `header_size`.
        """
        message = whole_bytes(data, "a message")
        if len(message) < self.header_size:
            raise MalformedMessage(f"a message of {len(message)} bytes is shorter than its header, {self.header_size}")
        return [message[: self.header_size], message[self.header_size :]]


class GraphCodec:
    """Examples as operators send them: id, name of the operator, header, payload.

    Encoding what was decoded gives the same bytes. Mind the order, which is the prototype's: `decode` returns
    the header before the payload, `encode` takes it after the payload.

    Args:
        msg_uuid_size: Bytes of the id.
        op_from_size: Bytes of the operator's name.
        header_size: Bytes of the header; 0 where there is none.
    """

    def __init__(self, msg_uuid_size: int = ID_SIZE, op_from_size: int = NAME_SIZE, header_size: int = 0) -> None:
        self.msg_uuid_size = _checked_size(msg_uuid_size, "msg_uuid_size")
        self.op_from_size = _checked_size(op_from_size, "op_from_size")
        self.header_size = _checked_size(header_size, "header_size")

    def encode(
        self, msg_uuid: uuid.UUID | Buffer, op_from: str, payload: Buffer, header: Buffer | None = None
    ) -> bytes:
        """Join the parts of an example.

        Args:
            msg_uuid: A UUID, or `msg_uuid_size` bytes.
            op_from: The operator's name, at most `op_from_size` bytes of UTF-8, without NUL.
            payload: Anything bytes-like; an array's bytes leave in C order.
            header: At most `header_size` bytes, NUL padded. Trailing NULs of its own count as padding.

        Raises:
            UsageError: A part is not of its size or type; the message has both sizes.
        """
        msg_id = msg_uuid.bytes if isinstance(msg_uuid, uuid.UUID) else whole_bytes(msg_uuid, "an id")
        if len(msg_id) != self.msg_uuid_size:
            raise UsageError(f"the id is {len(msg_id)} bytes and must be exactly {self.msg_uuid_size}")
        return pack_example(
            msg_id,
            name_field(op_from, self.op_from_size),
            header_field(header, self.header_size),
            whole_bytes(payload, "a payload"),
        )

    def decode(self, data: Buffer) -> list[Any]:
        """Cut an example into `[id, name, header, payload]`.

        Returns:
            A UUID (bytes, where `msg_uuid_size` is not 16), str, bytes without the trailing NULs, bytes.

        Raises:
            MalformedMessage: The message is too short, or the name is not NUL-padded UTF-8.
        """
        message = whole_bytes(data, "a message")
        msg_id, name, header, payload = split_example(message, self.header_size, self.msg_uuid_size, self.op_from_size)
        return [uuid.UUID(bytes=msg_id) if len(msg_id) == ID_SIZE else msg_id, name, header, payload]


def whole_bytes(value: Buffer, what: str) -> bytes:
    """The bytes of anything bytes-like, an array's in C order; `what` it is, for the error.

    Raises:
        UsageError: It is not bytes-like.
    """
    if type(value) is bytes:
        return value
    try:
        # memoryview, because bytes(5) is five NULs and bytes([1]) a conversion that nobody asked for.
        view = memoryview(value)
        if "O" in re.sub(":[^:]*:", "", view.format):  # a record's field names stand between colons
            raise TypeError("an array of Python objects holds addresses, not data")
        return view.tobytes()
    except (TypeError, ValueError, BufferError) as error:
        raise UsageError(f"{what} is bytes-like, not {type(value).__name__}: {reprlib.repr(value)}") from error


def _checked_size(size: int, what: str) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise UsageError(f"{what} is a number of bytes, 0 or more, not {size!r}")
    return size
