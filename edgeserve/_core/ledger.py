"""The ledger of an operator: what it received, what became of it, and what may be acknowledged now.

Fates and acknowledging are kept apart. An example has a fate when it is first used or given up; it may be
acknowledged when nothing holds it any more: not the join, which may use it again, and not a job whose output the
broker has not confirmed. Confirmations come on a thread of the broker's, so the ledger has a lock; nothing but its
own arithmetic runs under it.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeserve._core.step import Decision, Example, Fate, Parcel

# The namespace of derived ids: UUIDv5 of "edgeserve" in the nil namespace.
_NAMESPACE = bytes.fromhex("e9c70594405558cd8b96ebd81a961adb")


@dataclass(frozen=True)
class Stats:
    """What an operator did so far; `received` is always the sum of `fates` plus `held`.

    Attributes:
        received: Inputs taken in (for a source: items taken from its stream).
        held: Inputs without a fate yet: they wait in a join, or their task raised.
        fates: How many inputs met each fate; those that none met are left out.
        sent: Examples handed over to be sent.
        unconfirmed: Those of them that the broker has not confirmed yet.
        dead_letters: Inputs that were given up and sent to the dead letters of their topic.
    """

    received: int = 0
    held: int = 0
    fates: Mapping[Fate, int] = field(default_factory=dict)
    sent: int = 0
    unconfirmed: int = 0
    dead_letters: int = 0

    def __str__(self) -> str:
        fates = "".join(f", {count} {fate.value}" for fate, count in self.fates.items())
        letters = f", {self.dead_letters} dead letters" if self.dead_letters else ""
        sent = f"{self.sent} sent ({self.unconfirmed} unconfirmed)"
        return f"{self.received} received{fates}, {self.held} held, {sent}{letters}"


class Ledger:
    """Counts fates and holds. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[bytes, Example] = {}
        self._fates: Counter[Fate] = Counter()
        self._received = 0
        self._held = 0

    def receive(self, example: Example) -> bool:
        """Take in an example, held once. False if one with its id is held: it is settled as a duplicate.

        A copy is acknowledged together with the one that is held, never before it: where the broker sent the
        same message again, acknowledging the copy would acknowledge both.
        """
        with self._lock:
            self._received += 1
            original = self._open.get(example.id)
            if original is not None:
                example.fate = Fate.DUPLICATE
                self._fates[Fate.DUPLICATE] += 1
                if example.parcel is not None:
                    original.twins = [*(original.twins or ()), example.parcel]
                return False
            example.holds = 1
            self._held += 1
            self._open[example.id] = example
            return True

    def count(self, fate: Fate) -> None:
        """Count an input that is settled as it comes, and never held."""
        with self._lock:
            self._received += 1
            self._fates[fate] += 1

    def carry_out(self, decision: Decision) -> list[Parcel]:
        """Do what a step decided: hold what its job runs on, settle fates, release. What may be acknowledged now."""
        with self._lock:
            if decision.job is not None:
                for example in decision.job.examples:
                    example.holds += 1
            for example, fate in decision.fates:
                self._settle(example, fate)
            return self._release(decision.released)

    def settle(self, examples: Iterable[Example], fate: Fate) -> None:
        """Give examples a fate; those that have theirs already, from an earlier use, keep it."""
        with self._lock:
            for example in examples:
                if example.fate is None:
                    self._settle(example, fate)

    def release(self, examples: Iterable[Example]) -> list[Parcel]:
        """Take one reason away not to acknowledge each of them, and return what may be acknowledged now."""
        with self._lock:
            return self._release(examples)

    def close(self, parcel: Parcel) -> list[Parcel]:
        """Note that something in a message is done with that was never received as an example."""
        done: list[Parcel] = []
        with self._lock:
            _close(parcel, done)
        return done

    def _settle(self, example: Example, fate: Fate) -> None:
        if example.fate is not None:
            raise RuntimeError(f"{example} was {example.fate.value} and can't be {fate.value} too")
        example.fate = fate
        self._fates[fate] += 1
        self._held -= 1

    def _release(self, examples: Iterable[Example]) -> list[Parcel]:
        done: list[Parcel] = []
        for example in examples:
            example.holds -= 1
            if example.holds > 0:
                continue
            if example.holds < 0:
                raise RuntimeError(f"{example} is released more often than it was held")
            if self._open.get(example.id) is example:
                del self._open[example.id]
            _close(example.parcel, done)
            for twin in example.twins or ():
                _close(twin, done)
        return done

    def forget(self) -> None:
        """Hold nothing any more: others had the subscription meanwhile, and what was held went to them or comes again.

        What had no fate yet is superseded, by its own copy.
        """
        with self._lock:
            for example in self._open.values():
                if example.fate is None:
                    example.fate = Fate.SUPERSEDED
                    self._fates[Fate.SUPERSEDED] += 1
                    self._held -= 1
            self._open.clear()

    def stats(self, *, sent: int, unconfirmed: int, dead_letters: int = 0) -> Stats:
        """The counts of this moment."""
        with self._lock:
            fates = {fate: self._fates[fate] for fate in Fate if self._fates[fate]}
            return Stats(self._received, self._held, fates, sent, unconfirmed, dead_letters)


def _close(parcel: Parcel | None, done: list[Parcel]) -> None:
    if parcel is None:
        return
    parcel.open_examples -= 1
    if parcel.open_examples == 0:
        done.append(parcel)


def derive_id(operator: bytes, inputs: Iterable[bytes]) -> bytes:
    """The id of what `operator` (its name, in bytes) makes from examples with the ids `inputs`.

    The same inputs give the same id, so a run that is repeated after a crash can be recognised. 16 bytes, made as
    version 5 of RFC 9562 (SHA-1 of a namespace and a name), on bytes.
    """
    digest = bytearray(hashlib.sha1(b"".join((_NAMESPACE, operator, *inputs)), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return bytes(digest)
