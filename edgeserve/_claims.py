"""What a name stands for within this process: one task. Two that share a name by mistake would share examples."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from edgeserve.errors import UsageError

Subscribed = tuple[str, str, str]
"""A broker's address, a topic, and the name of the subscription."""

_lock = threading.Lock()
_claims: dict[Subscribed, list[object]] = {}


def claim(subscribed: Sequence[Subscribed], work: object) -> None:
    """Note what the name of these subscriptions stands for.

    Raises:
        UsageError: An open operator of the same name reads the same topic for another task.
    """
    with _lock:
        for key in subscribed:
            if any(other != work for other in _claims.get(key, ())):
                _, topic, name = key
                raise UsageError(
                    f"two operators of this process are named {name!r} and read topic {topic!r} with different tasks, "
                    "so each would get a part of the examples: give them different names, or close the first"
                )
        for key in subscribed:
            _claims.setdefault(key, []).append(work)


def give_back(subscribed: Sequence[Subscribed], work: object) -> None:
    """The operator is closed."""
    with _lock:
        for key in subscribed:
            _claims[key].remove(work)
            if not _claims[key]:
                del _claims[key]


def _forget_in_child() -> None:
    # The parent's operators are not the child's.
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
