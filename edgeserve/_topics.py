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
    topics = list(topic) if isinstance(topic, (list, tuple)) else [one_topic(topic)]
    if not topics:
        raise UsageError("there is no topic to read: give one or more")
    return list(dict.fromkeys(one_topic(name) for name in topics))


def one_topic(topic: object) -> str:
    """The name of one topic, without what Pulsar takes for granted: `persistent://public/default/`.

    Raises:
        UsageError: It is no str, or empty.
    """
    if not isinstance(topic, str) or not topic:
        raise UsageError(f"{topic!r} is no topic's name: expected a str of one character or more")
    return topic.removeprefix("persistent://public/default/") or topic
