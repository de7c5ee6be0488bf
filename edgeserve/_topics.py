"""The names of topics, as users give them."""

from __future__ import annotations

from collections.abc import Sequence

from edgeserve.errors import UsageError


def topic_list(topic: str | Sequence[str]) -> Sequence[str]:
    """One topic or several, as a list without repetitions.

    What a name may consist of is for the broker to say.

    Raises:
        UsageError: There is none, or one is not a str.
    """
    topics = [topic] if isinstance(topic, str) else list(topic)
    for name in topics:
        if not isinstance(name, str) or not name:
            raise UsageError(f"{name!r} is no topic's name: expected a str of one character or more")
    if not topics:
        raise UsageError("there is no topic to read: give one or more")
    return list(dict.fromkeys(topics))
