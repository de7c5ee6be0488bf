"""Checks of numbers that users give."""

from __future__ import annotations

import math

from edgeserve.errors import UsageError


def check_ms(name: str, value: object) -> None:
    """Check a duration in ms.

    Raises:
        UsageError: It is no number, or less than 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
        raise UsageError(f"{name} is {value!r}: expected 0 ms or more")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Check how many of something there may be.

    Raises:
        UsageError: It is no whole number, or less than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}: expected a whole number, {least} or more")


def checked_capture_ms(capture_ms: float) -> int:
    """A capture time in whole ms.

    Raises:
        UsageError: It is no number, or 0 or less, which the wire cannot carry.
    """
    try:
        whole_ms = int(capture_ms)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"event_time returned {capture_ms!r}: expected ms since the epoch") from error
    if not 0 < whole_ms < 1 << 63:
        raise UsageError(
            f"event_time returned {capture_ms!r}: expected ms since the epoch, more than 0; give a recording that "
            "starts at 0 an offset"
        )
    return whole_ms
