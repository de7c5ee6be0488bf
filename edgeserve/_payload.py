"""What gates return, as the bytes that leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeserve._interrupts import interruptibly
from edgeserve.errors import UsageError
from edgeserve.message_format import whole_bytes

Gate = Callable[[Any], Any]
"""Makes something of a value, or None to drop it."""


def gated_out(gate: Gate | None, value: Any, gate_name: str) -> bytes | None:
    """Pass a value through the gate before a send: bytes-like as it is, str as UTF-8, None for nothing.

    An array is refused though it is bytes-like: its bytes alone do not say what they are.

    Raises:
        UsageError: The gate returned something else, or there is none and the value is no bytes.
    """
    result = value if gate is None else interruptibly(gate, value)
    if result is None or type(result) is bytes:
        return result
    if isinstance(result, str):
        try:
            return result.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"{gate_name}: the text {result!r:.80} has no UTF-8 form: {error.reason}") from error
    if isinstance(result, (bytearray, memoryview)):
        return whole_bytes(result, "what leaves")
    what = f"{gate_name} returned" if gate is not None else f"without {gate_name}= there is"
    raise UsageError(
        f"{what} {type(result).__name__} {result!r:.80}: expected bytes, str or None; {gate_name}=str makes text of a "
        "number, and edgeserve.gates has array_out for arrays and msgpack_out for lists and dicts"
    )
