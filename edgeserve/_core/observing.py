"""Who is told what an operator does: its replay log, a meter, traces.

An operator knows one observer, or none, and then telling costs nothing. Observers read what is there and leave it as it
is; they are called by the thread that steps, in the order in which things happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeserve._core.clock import Now
from edgeserve._core.ledger import Stats
from edgeserve._core.step import Decision, Example, Fate, Job, Outcome


class Observer:
    """What an observer can be told. It overrides what it wants to know."""

    # Of operators that receive.

    def received(self, examples: Sequence[Example]) -> None:
        """The examples of one message were opened."""

    def settled(self, example: Example, fate: Fate) -> None:
        """An arrival was settled before a join saw it."""

    def gate_raised(self, example: Example, error: BaseException) -> None:
        """The gate of an arrival has raised. Again and again, where it is tried again."""

    def decided(self, arrival: Example | None, now: Now, decision: Decision) -> None:
        """A join decided."""

    def starts(self, job: Job) -> None:
        """The task is about to run, and its payloads to be fetched. Again and again, where it is tried again."""

    def fetched(self, example: Example, payload: Any) -> None:
        """A payload was fetched for the task."""

    def ran(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """The task has returned, and its gates with it; nothing was sent yet.

        Of a batch that is run in parts, once for all of them.
        """

    def raised(self, job: Job, error: BaseException) -> None:
        """The task, its fetches or the gates of its outputs have raised."""

    def gave_up(self, examples: Sequence[Example], fate: Fate, reason: str, forgotten: Sequence[Example]) -> None:
        """Inputs were given up after an error, and the join uses some of them no more."""

    def began_anew(self) -> None:
        """Others had the subscription meanwhile."""

    def asked(self, asked: Sequence[bytes], now: Now, decision: Decision) -> None:
        """Other replicas have asked for what is held."""

    # Of sources.

    def sent(
        self, example_id: bytes, capture_ms: int, taken_ms: float, payload: bytes, flow_id: bytes, *, is_url: bool
    ) -> None:
        """An example was handed over to be sent."""

    def unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        """An item was dropped by the gate, or something raised: then `error`."""

    # Of both.

    def withdrawn(self, ids: Sequence[bytes], fate: Fate | None, error: BaseException | None = None) -> None:
        """Outputs that were told as made, or a source's examples as sent, were not stored after all.

        `fate` is that of the source's examples, and `error` why the broker does not have them; what outputs were made
        from has its own.
        """

    def close(self, stats: Stats) -> None:
        """The operator was closed."""


class _Several(Observer):
    """Tells several observers."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.observers = observers

    def received(self, examples: Sequence[Example]) -> None:
        for each in self.observers:
            each.received(examples)

    def settled(self, example: Example, fate: Fate) -> None:
        for each in self.observers:
            each.settled(example, fate)

    def gate_raised(self, example: Example, error: BaseException) -> None:
        for each in self.observers:
            each.gate_raised(example, error)

    def decided(self, arrival: Example | None, now: Now, decision: Decision) -> None:
        for each in self.observers:
            each.decided(arrival, now, decision)

    def starts(self, job: Job) -> None:
        for each in self.observers:
            each.starts(job)

    def fetched(self, example: Example, payload: Any) -> None:
        for each in self.observers:
            each.fetched(example, payload)

    def ran(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        for each in self.observers:
            each.ran(job, outcomes)

    def raised(self, job: Job, error: BaseException) -> None:
        for each in self.observers:
            each.raised(job, error)

    def gave_up(self, examples: Sequence[Example], fate: Fate, reason: str, forgotten: Sequence[Example]) -> None:
        for each in self.observers:
            each.gave_up(examples, fate, reason, forgotten)

    def began_anew(self) -> None:
        for each in self.observers:
            each.began_anew()

    def asked(self, asked: Sequence[bytes], now: Now, decision: Decision) -> None:
        for each in self.observers:
            each.asked(asked, now, decision)

    def withdrawn(self, ids: Sequence[bytes], fate: Fate | None, error: BaseException | None = None) -> None:
        for each in self.observers:
            each.withdrawn(ids, fate, error)

    def sent(
        self, example_id: bytes, capture_ms: int, taken_ms: float, payload: bytes, flow_id: bytes, *, is_url: bool
    ) -> None:
        for each in self.observers:
            each.sent(example_id, capture_ms, taken_ms, payload, flow_id, is_url=is_url)

    def unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        for each in self.observers:
            each.unsent(fate, error)

    def close(self, stats: Stats) -> None:
        for each in self.observers:
            each.close(stats)


def with_observer(present: Observer | None, added: Observer) -> Observer:
    """Whom to tell from now on."""
    return _told([*_all_of(present), added]) or added


def without_observer(present: Observer | None, gone: Observer) -> Observer | None:
    """Whom to tell from now on; None for nobody."""
    return _told([each for each in _all_of(present) if each is not gone])


def _all_of(present: Observer | None) -> Sequence[Observer]:
    if isinstance(present, _Several):
        return present.observers
    return () if present is None else (present,)


def _told(observers: Sequence[Observer]) -> Observer | None:
    if not observers:
        return None
    return observers[0] if len(observers) == 1 else _Several(tuple(observers))
