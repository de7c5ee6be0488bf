"""Flow ids, as users give them and as they travel: in an example's header, NUL padded."""

from __future__ import annotations

from numbers import Integral
from typing import TypeAlias

from edgeserve._core.asking import MAX_FLOW_ID_BYTES
from edgeserve._core.checks import check_count
from edgeserve.errors import UsageError
from edgeserve.message_format import whole_bytes

FlowId: TypeAlias = bytes | bytearray | memoryview | str | int
"""Bytes, text (as UTF-8), or a number (its decimal digits)."""

HEADER_SIZE = 32
"""How many bytes a flow id has at most, where nobody says otherwise."""


def checked_header_size(header_size: int | None, least: int = 1) -> int:
    """How many bytes a header has; None for `HEADER_SIZE`.

    Raises:
        UsageError: It is no number of `least` or more, or too large a one.
    """
    if header_size is None:
        return HEADER_SIZE
    check_count("header_size", header_size, least=least)
    if header_size > MAX_FLOW_ID_BYTES:
        raise UsageError(f"header_size is {header_size}: expected at most {MAX_FLOW_ID_BYTES}")
    return header_size


def check_fits(flow_id: bytes, header_size: int) -> None:
    """Check that a flow id is no longer than the header that carries it.

    Raises:
        UsageError: It is.
    """
    if len(flow_id) > header_size:
        raise UsageError(
            f"the flow id {flow_id!r:.80} is {len(flow_id)} bytes and the header {header_size}: give "
            f"header_size={len(flow_id)} or more"
        )


def id_of_flow(flow_id: FlowId) -> bytes:
    """The bytes of a flow id, without the NULs at its end, which padding can't be told from.

    Raises:
        UsageError: It is none.
    """
    if isinstance(flow_id, (bytes, bytearray, memoryview)):
        return whole_bytes(flow_id, "a flow id").rstrip(b"\0")
    if isinstance(flow_id, str):
        try:
            return flow_id.encode("utf-8").rstrip(b"\0")
        except UnicodeEncodeError as error:
            raise UsageError(f"the flow id {flow_id!r:.80} has no UTF-8 form: {error.reason}") from error
    # NumPy's integers are Integral, and also bytes-like: their bytes would be the machine's.
    if isinstance(flow_id, Integral) and not isinstance(flow_id, bool):
        return b"%d" % int(flow_id)
    raise UsageError(f"the flow id is a {type(flow_id).__name__}, {flow_id!r:.80}: expected bytes, str or int")
