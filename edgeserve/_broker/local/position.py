"""How far a consumer has fetched what is assigned to it, and of which of its topics it takes nothing for now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from types import MappingProxyType


class Position:
    """How far a consumer is in the deliveries of all its topics, which have one order.

    One id says so, but for the topics that are paused, and those that were, until it has caught up with them.

    Attributes:
        after_id: It has fetched its deliveries up to this id, but for those of the topics that are `behind`.
        behind: Topics of which it has fetched its deliveries up to an earlier id, and that id.
        paused: Topics of which it takes nothing; all of them are `behind`.
    """

    def __init__(
        self,
        after_id: int = 0,
        behind: Mapping[int, int] = MappingProxyType({}),
        paused: frozenset[int] = frozenset(),
    ) -> None:
        self.after_id = after_id
        self.behind = behind
        self.paused = paused

    def pausing(self, topics: frozenset[int]) -> Position:
        """The same, with these topics paused and no others."""
        stopped = {topic: self.after_id for topic in topics if topic not in self.behind}
        return Position(self.after_id, {**self.behind, **stopped}, topics)

    def advanced(self, seen_id: int) -> Position:
        """After the deliveries up to this id were fetched, but for those of paused topics."""
        if not self.behind:
            return Position(seen_id)
        behind = {
            topic: id_ if topic in self.paused else max(id_, seen_id)
            for topic, id_ in self.behind.items()
            if topic in self.paused or seen_id < self.after_id
        }
        return Position(max(self.after_id, seen_id), behind, self.paused)

    def skipping(self, nothing_until: Mapping[int, int]) -> Position:
        """The same, where it is known that there are no deliveries of some topics that are behind up to these ids."""
        return Position(self.after_id, {**self.behind, **nothing_until}, self.paused)

    @cached_property
    def beyond(self) -> tuple[str, tuple[int, ...]]:
        """The SQL condition for the deliveries that come next, and its parameters."""
        if not self.behind:
            return "id > ?", (self.after_id,)
        terms, parameters = [_not_among(self.behind) + " AND id > ?"], [*self.behind, self.after_id]
        least_id = self.after_id
        catching_up = sorted((id_, topic) for topic, id_ in self.behind.items() if topic not in self.paused)
        for id_, topics in groupby(catching_up, key=lambda each: each[0]):
            together = [topic for _, topic in topics]
            terms.append(f"topic IN ({_marks(together)}) AND id > ?")
            parameters += [*together, id_]
            least_id = min(least_id, id_)
        return f"id > ? AND ({' OR '.join(terms)})", (least_id, *parameters)

    @cached_property
    def of_open_topics(self) -> tuple[str, tuple[int, ...]]:
        """The SQL condition for the deliveries of the topics that are not paused, and its parameters."""
        return _not_among(self.paused) if self.paused else "TRUE", tuple(self.paused)

    @property
    def behind_text(self) -> str:
        """`behind`, as it is stored."""
        return json.dumps(dict(self.behind)) if self.behind else "{}"


def behind_of(text: str) -> Mapping[int, int]:
    """`behind`, from what is stored."""
    return {int(topic): id_ for topic, id_ in json.loads(text).items()} if text != "{}" else {}


def _not_among(topics: Mapping[int, int] | frozenset[int]) -> str:
    return f"topic NOT IN ({_marks(topics)})"


def _marks(values: Mapping[int, int] | frozenset[int] | list[int]) -> str:
    return ", ".join("?" * len(values))
