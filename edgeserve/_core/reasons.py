"""What is said of an error that users' code raised."""

from __future__ import annotations

from edgeserve.errors import MalformedMessage

MOST_CHARACTERS = 4096
"""How long a reason is in a log, at most: an error may quote the input that it is about."""


def reason_of(error: BaseException) -> str:
    """Its class and its text. The text of an error is made by users' code, too, and may raise one in its turn."""
    try:
        text = str(error)
    except Exception as another:  # noqa: BLE001 - it would take the place of what is to be told
        text = f"(its text can't be had: {type(another).__name__})"
    return f"{type(error).__name__}: {text}"


def malformed_reason(why: str) -> str:
    """The reason of an example that was malformed when it came."""
    return f"{MalformedMessage.__name__}: {why}"


def shortened(reason: str) -> str:
    """As much of a reason as a log keeps."""
    if len(reason) <= MOST_CHARACTERS:
        return reason
    return f"{reason[:MOST_CHARACTERS]}... ({len(reason)} characters)"
