from __future__ import annotations

import pytest

from edgeserve._core.ledger import Ledger
from edgeserve._core.step import Decision, Example, Fate, Job, Parcel


def example(name: bytes, parcel: Parcel | None = None) -> Example:
    return Example(name.ljust(16, b"\0"), "s", b"", 1, parcel=parcel)


def test_a_message_may_be_acknowledged_when_all_of_its_examples_are_done_with() -> None:
    ledger, parcel = Ledger(), Parcel("message", open_examples=2)
    first, second = example(b"1", parcel), example(b"2", parcel)
    ledger.receive([first, second])
    assert ledger.release([first]) == []
    assert ledger.release([second]) == [parcel]


def test_an_example_is_held_until_the_join_and_every_job_have_let_go() -> None:
    ledger, parcel = Ledger(), Parcel("message")
    held = example(b"1", parcel)
    ledger.receive([held])
    for _ in range(2):
        decision = Decision()
        decision.job = Job([{"p": held}])
        ledger.carry_out(decision)
    assert [ledger.release([held]), ledger.release([held]), ledger.release([held])] == [[], [], [parcel]]


def test_a_copy_is_a_duplicate_and_is_acknowledged_with_the_one_that_is_held_never_before() -> None:
    ledger, first, again = Ledger(), Parcel("message"), Parcel("message, sent again")
    held = example(b"1", first)
    copy, later = example(b"1", again), example(b"1")
    ledger.receive([held])
    ledger.receive([copy])
    assert (held.fate, copy.fate) == (None, Fate.DUPLICATE)
    assert ledger.release([held]) == [first, again]
    ledger.receive([later])
    assert later.fate is None, "what is not held any more is no duplicate"


def test_received_is_the_sum_of_the_fates_and_what_is_held() -> None:
    ledger = Ledger()
    one, two = example(b"1"), example(b"2")
    ledger.receive([one])
    ledger.receive([two])
    ledger.take_in()
    ledger.settle_some(1, Fate.MALFORMED)
    ledger.settle([one], Fate.USED)
    stats = ledger.stats(sent=1, unconfirmed=0)
    assert (stats.received, stats.held, stats.fates) == (3, 1, {Fate.USED: 1, Fate.MALFORMED: 1})


def test_nothing_meets_two_fates() -> None:
    ledger, one = Ledger(), example(b"1")
    ledger.receive([one])
    ledger.settle([one], Fate.USED)
    ledger.settle([one], Fate.FAILED)  # a later use does not change what the first one was
    assert ledger.stats(sent=0, unconfirmed=0).fates == {Fate.USED: 1}
    decision = Decision()
    decision.fates.append((one, Fate.EXPIRED))
    with pytest.raises(RuntimeError, match="was used"):
        ledger.carry_out(decision)


def test_what_is_no_example_is_done_with_on_its_own() -> None:
    ledger, parcel = Ledger(), Parcel("a pack", open_examples=2)
    good, bad = example(b"1", parcel), example(b"", parcel)
    bad.malformed = "too short"
    ledger.receive([good, bad])
    assert ledger.stats(sent=0, unconfirmed=0).fates == {Fate.MALFORMED: 1}
    assert ledger.close(parcel) == []
    assert ledger.release([good]) == [parcel]
