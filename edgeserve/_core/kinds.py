"""Which of the package's classes an operator is of."""

from __future__ import annotations

from typing import Any


def kinds_of(operator: Any) -> list[str]:
    """The names of the package's classes that it is made of, its own first; not of those of the user's."""
    return [each.__name__ for each in type(operator).__mro__ if each.__module__.startswith("edgeserve.")]
