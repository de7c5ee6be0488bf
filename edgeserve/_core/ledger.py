"""The ledger of an operator: what it received, what became of it, and what may be acknowledged now.

Fates and acknowledging are kept apart. An example has a fate when it is first used or given up; it may be
acknowledged when nothing holds it any more: not the join, which may use it again, and not a job whose output the
broker has not confirmed. Confirmations come on a thread of the broker's, so holding and releasing have a lock; nothing
but the ledger's own arithmetic runs under it. Fates are given by one thread at a time, and counted without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeserve._core.step import Decision, Example, Fate, Parcel


@dataclass(frozen=True)
class FetchStats:
    """What an operator's fetches did so far.

    Attributes:
        fetched: Payloads that came over a network.
        fetched_bytes: Their bytes; of what broke off, those that came.
        local: Payloads that were there already, on this machine.
        cache_hits: Uses of a payload that had been fetched before.
        failed: Payloads that could not be had.
        deletes_refused: Payloads that a store did not delete when it was asked to.
        unmoved_bytes: Bytes of payloads whose URLs arrived and which no task has used, as far as the URLs say it.
        median_ms: Half of the last 1000 fetches took no longer than this; 0 if there were none.
        p99_ms: 99 in 100 of them took no longer than this.
    """

    fetched: int = 0
    fetched_bytes: int = 0
    local: int = 0
    cache_hits: int = 0
    failed: int = 0
    deletes_refused: int = 0
    unmoved_bytes: int = 0
    median_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True)
class Stats:
    """What an operator did so far; `received` is always the sum of `fates` plus `held`.

    Attributes:
        received: Inputs taken in (for a source: items taken from its stream).
        held: Inputs without a fate yet: they wait in a join or to be sent, or their task raised.
        fates: How many inputs met each fate; those that none met are left out.
        sent: Examples handed over to be sent.
        unconfirmed: Those of them that the broker has not confirmed yet.
        dead_letters: Inputs that were given up and sent to the dead letters of their topic.
        received_bytes: Bytes that came through the broker.
        sent_bytes: Bytes of the examples that were handed over to be sent through it.
        fetches: What was fetched beside the broker.
        escalated: Those of the examples sent that ask the next model of a cascade.
        batches: How many batches had so many units, by their number.
    """

    received: int = 0
    held: int = 0
    fates: Mapping[Fate, int] = field(default_factory=dict)
    sent: int = 0
    unconfirmed: int = 0
    dead_letters: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    fetches: FetchStats = FetchStats()
    escalated: int = 0
    batches: Mapping[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        fates = "".join(f", {count} {fate.value}" for fate, count in self.fates.items())
        letters = f", {self.dead_letters} dead letters" if self.dead_letters else ""
        sent = f"{self.sent} sent ({self.unconfirmed} unconfirmed)"
        fetches = self.fetches
        fetched = f", {fetches.fetched + fetches.local} payloads" if fetches != FetchStats() else ""
        troubles = {"could not be had": fetches.failed, "not deleted": fetches.deletes_refused}
        fetched += "".join(f", {count} {what}" for what, count in troubles.items() if count)
        escalated = f", {self.escalated} escalated" if self.escalated else ""
        return f"{self.received} received{fates}, {self.held} held, {sent}{escalated}{letters}{fetched}"


class Ledger:
    """Counts fates and holds.

    Releasing is safe from any thread. Each fate is given by one thread at a time: the one that steps, or, for a source
    that counts what was confirmed, the broker's.

    Args:
        merges_copies: Whether another example with the id of one that is held is nothing but a copy of that.
    """

    def __init__(self, *, merges_copies: bool = True) -> None:
        self._merges_copies = merges_copies
        self._lock = threading.Lock()
        self._open: dict[bytes, Example] = {}
        self._fates = dict.fromkeys(Fate, 0)
        self._received = 0

    def receive(self, examples: Sequence[Example]) -> None:
        """Take in what came in one message; each example is held once.

        One whose id is held already gets its fate here: it is a duplicate. So does what is malformed.

        A copy is acknowledged together with the one that is held, never before it: where the broker sent the
        same message again, acknowledging the copy would acknowledge both.
        """
        self._received += len(examples)
        is_open = self._open
        with self._lock:
            for example in examples:
                if example.malformed is not None:
                    self._settle(example, Fate.MALFORMED)
                    continue
                original = is_open.setdefault(example.id, example)
                if original is example or not self._merges_copies:
                    example.holds = 1
                    continue
                self._settle(example, Fate.DUPLICATE)
                if example.parcel is not None:
                    original.twins = [*(original.twins or ()), example.parcel]

    def take_in(self) -> None:
        """Count an input that is held and known by nothing but its number."""
        self._received += 1

    def settle_some(self, count: int, fate: Fate) -> None:
        """Give so many of them a fate."""
        self._fates[fate] += count

    def carry_out(self, decision: Decision) -> Sequence[Parcel]:
        """Do what a step decided: hold what its job runs on, settle fates, release. What may be acknowledged now."""
        for example, fate in decision.fates:
            self._settle(example, fate)
        with self._lock:
            if decision.job is not None:
                for example in decision.job.examples:
                    example.holds += 1
            return self._release(decision.released)

    def settle(self, examples: Iterable[Example], fate: Fate) -> None:
        """Give examples a fate; those that have theirs already, from an earlier use, keep it."""
        for example in examples:
            if example.fate is None:
                example.fate = fate
                self._fates[fate] += 1

    def release(self, examples: Iterable[Example]) -> list[Parcel]:
        """Take one reason away not to acknowledge each of them, and return what may be acknowledged now."""
        with self._lock:
            return self._release(examples)

    def give_back(self, examples: Sequence[Example]) -> list[Parcel]:
        """Forget inputs that are to be delivered again, as if they had not come. The messages to give back."""
        parcels = []
        with self._lock:
            for example in examples:
                del self._open[example.id]
                parcels += [parcel for parcel in (example.parcel, *(example.twins or ())) if parcel is not None]
        self._received -= len(examples)
        return parcels

    def close(self, parcel: Parcel) -> list[Parcel]:
        """Note that something malformed in a message is done with."""
        done: list[Parcel] = []
        with self._lock:
            _close(parcel, done)
        return done

    def _settle(self, example: Example, fate: Fate) -> None:
        if example.fate is not None:
            raise RuntimeError(f"{example} was {example.fate.value} and can't be {fate.value} too")
        example.fate = fate
        self._fates[fate] += 1

    def _release(self, examples: Iterable[Example]) -> list[Parcel]:
        done: list[Parcel] = []
        is_open = self._open
        for example in examples:
            holds = example.holds = example.holds - 1
            if holds > 0:
                continue
            if holds < 0:
                raise RuntimeError(f"{example} is released more often than it was held")
            if is_open.get(example.id) is example:
                del is_open[example.id]
            if example.parcel is not None:
                _close(example.parcel, done)
            if example.twins is not None:
                for twin in example.twins:
                    _close(twin, done)
        return done

    def forget(self) -> None:
        """Hold nothing any more: others had the subscription meanwhile, and what was held went to them or comes again.

        What had no fate yet is superseded, by its own copy.
        """
        with self._lock:
            for example in self._open.values():
                if example.fate is None:
                    self._settle(example, Fate.SUPERSEDED)
            self._open.clear()

    def stats(self, **others: Any) -> Stats:
        """The counts of this moment, beside `others`, which the ledger does not keep."""
        # What is received is counted before its fate, and read after it: so nothing is ever held less than not at all.
        fates = {fate: count for fate, count in self._fates.items() if count}
        received = self._received
        return Stats(received, received - sum(fates.values()), fates, **others)


def _close(parcel: Parcel, done: list[Parcel]) -> None:
    parcel.open_examples -= 1
    if parcel.open_examples == 0:
        done.append(parcel)
