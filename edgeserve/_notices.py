"""What an operator that receives says of its surroundings: once for each change, never once a message."""

from __future__ import annotations

import logging

_log = logging.getLogger("edgeserve.operator")

_MOST_UNKNOWN = 100


class Notices:
    """What was said already.

    Args:
        name: The operator's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._stands_by = False
        self._unknown: set[str] = set()
        self._has_evicted = False

    def unknown(self, source: str, wanted: frozenset[str]) -> None:
        """Say once for each name that it is not expected; a stranger's names are not collected without bound."""
        if source not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add(source)
            _log.warning(
                "operator %s: examples of source %r are not used: the task takes %s (inputs= gives its parameters "
                "other sources)",
                self._name,
                source,
                ", ".join(sorted(wanted)),
            )

    def evicting(self) -> None:
        """Say once that what waits is given up for want of room."""
        if not self._has_evicted:
            self._has_evicted = True
            _log.warning(
                "operator %s gives up examples that waited, as more wait than it may keep (max_waiting_flows, "
                "max_waiting_bytes or max_waiting); stats.fates counts them as evicted",
                self._name,
            )

    def standing_by(self, *, is_active: bool) -> None:
        """Say when another operator of the name becomes the active one, and when this one does."""
        if not is_active and not self._stands_by:
            _log.warning("operator %s stands by: another one of this name is active", self._name)
        elif is_active and self._stands_by:
            _log.info("operator %s has taken over", self._name)
        self._stands_by = not is_active
