"""Flow ids, as users give them and as they travel: in an example's header, NUL padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from edgeserve._core.checks import check_count
from edgeserve.errors import UsageError
from edgeserve.message_format import whole_bytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

FlowId = Union["Buffer", str, int]
"""Bytes, text (as UTF-8), or a number (its decimal digits)."""

HEADER_SIZE = 32
"""How many bytes a flow id has at most, where nobody says otherwise."""


def checked_header_size(header_size: int | None, least: int = 1) -> int:
    """How many bytes a header has; None for `HEADER_SIZE`.

    Raises:
        UsageError: It is no number of `least` or more.
    """
    if header_size is None:
        return HEADER_SIZE
    check_count("header_size", header_size, least=least)
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
    if isinstance(flow_id, bool) or flow_id is None:
        raise UsageError(f"a flow id is bytes, str or int, not {flow_id!r}")
    if isinstance(flow_id, int):
        return b"%d" % flow_id
    if isinstance(flow_id, str):
        try:
            return flow_id.encode("utf-8").rstrip(b"\0")
        except UnicodeEncodeError as error:
            raise UsageError(f"the flow id {flow_id!r:.80} has no UTF-8 form: {error.reason}") from error
    return whole_bytes(flow_id, "a flow id").rstrip(b"\0")
