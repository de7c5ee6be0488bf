"""What an operator that receives says of its surroundings and its examples: never once a message."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edgeserve._core.reasons import reason_of
from edgeserve._core.step import Example
from edgeserve._logging import Seldom, logger

_log = logger("operator")

_MOST_UNKNOWN = 100
_MOST_NAMED = 20


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
        self._malformed = Seldom(_log)
        self._given_up = Seldom(_log)
        self._failed_batches = Seldom(_log, logging.ERROR)

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
            _log.warning(
                "operator %s stands by: another one of this name is active, or the connection is lost", self._name
            )
        elif is_active and self._stands_by:
            _log.info("operator %s has taken over", self._name)
        self._stands_by = not is_active

    def malformed(self, example: Example) -> None:
        """Say that a message's bytes are no example."""
        if example.parcel is not None:
            delivery = example.parcel.delivery
            self._malformed.say(
                "operator %s: message %s of topic %s is malformed: %s",
                self._name,
                delivery.message_id,
                delivery.topic,
                example.malformed,
            )

    def gives_up(self, examples: Sequence[Example], reason: str) -> None:
        """Say that examples failed for good."""
        self._given_up.say("operator %s gives up %s: %s", self._name, _listed(list(map(repr, examples))), reason)

    def failed_batch(self, names: Sequence[str], error: Exception) -> str:
        """Say which flows were in a batch that raised, and return that."""
        what = f"in a batch of {len(names)} of operator {self._name!r}: {_listed(names)}"
        self._failed_batches.say("%s: %s", what, reason_of(error))
        return what

    def close(self) -> None:
        """Say what was only counted."""
        for seldom in (self._malformed, self._given_up, self._failed_batches):
            seldom.close()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
