"""When an input is acknowledged, exactly: on a broker of the test's own, which confirms and refuses when told to."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, DataSource, DeliveryError, Fate, Materialize
from edgeserve._broker import connections
from edgeserve._broker.base import Confirmed, Message
from edgeserve.routing import Fetching, FolderStore
from edgeserve.testing import memory_broker
from tests.manual_broker import ManualBroker, example

REFUSED = DeliveryError("the disk is full", "test://")


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> ManualBroker:
    broker = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    return broker


def one(only: bytes) -> bytes:
    return only


def both(left: bytes, right: bytes) -> bytes:
    return left + right


def test_an_input_is_acknowledged_when_its_output_is_confirmed_and_not_before(manual: ManualBroker) -> None:
    with Compute(one, memory_broker()) as compute:
        manual.arrive("m1", "only")
        manual.arrive("m2", "only")
        next(compute)
        next(compute)
        assert (manual.acknowledged, compute.stats.unconfirmed) == ([], 2)
        manual.confirm()
        assert (manual.acknowledged, compute.stats.unconfirmed) == (["m1"], 1)
        manual.confirm()
        assert (manual.acknowledged, compute.stats.unconfirmed) == (["m1", "m2"], 0)


def test_an_input_whose_output_is_refused_stays_unacknowledged_and_a_later_step_says_so(manual: ManualBroker) -> None:
    with Compute(one, memory_broker(), idle_timeout_ms=10_000) as compute:
        manual.arrive("m1", "only")
        next(compute)
        manual.confirm(REFUSED)
        with pytest.raises(DeliveryError, match="disk is full"):
            next(compute)  # nothing arrives any more: it does not wait in silence
        assert manual.acknowledged == []
        manual.arrive("m2", "only")
        next(compute)
        manual.confirm()
        assert manual.acknowledged == ["m2"]


def test_an_input_whose_task_raised_is_never_acknowledged(manual: ManualBroker) -> None:
    def fail(only: bytes) -> bytes:
        raise ZeroDivisionError

    with Compute(fail, memory_broker()) as compute:
        manual.arrive("m1", "only")
        with pytest.raises(ZeroDivisionError):
            next(compute)
    assert manual.acknowledged == []
    assert compute.stats.held == 1


@pytest.mark.parametrize("last", [b"malformed", example("good", "only"), example("other", "stranger")])
def test_a_message_is_acknowledged_with_the_last_of_its_examples_whatever_becomes_of_that(
    manual: ManualBroker, last: bytes
) -> None:
    with Materialize(len, memory_broker()) as sink, Compute(one, memory_broker(), gate_in=lambda _: None) as compute:
        for operator in (sink, compute):
            manual.arrive_together("pack", example("good", "only"), last)
            next(operator)
            assert manual.acknowledged == []
            next(operator)
            while manual.unconfirmed:  # the dead letter
                manual.confirm()
            assert manual.acknowledged == ["pack"]
            manual.acknowledged.clear()


def test_what_was_served_of_a_message_keeps_no_payload_while_the_rest_waits(manual: ManualBroker) -> None:
    class Picture:
        pass

    pictures: list[weakref.ref[Picture]] = []

    def draw(payload: bytes) -> Picture:
        picture = Picture()
        pictures.append(weakref.ref(picture))
        return picture

    with Materialize(lambda picture: None, memory_broker(), decode=draw) as sink:
        manual.arrive_together("pack", *[example(str(number), "only") for number in range(3)])
        for _ in range(3):
            next(sink)
        assert [picture() for picture in pictures] == [None, None, None]


def test_a_join_holds_an_older_message_no_longer_than_it_uses_it(manual: ManualBroker) -> None:
    with Compute(lambda left, right: None, memory_broker(), no_overlap=True) as compute:
        manual.arrive("left", "left")
        manual.arrive_together("pack", example("right", "right"), example("rest", "right"))
        next(compute)
        next(compute)
        assert manual.acknowledged == ["left"], "though the rest of the pack waits"


@pytest.mark.parametrize(
    ("arrival", "fate"),
    [
        ({"source": "stranger"}, Fate.UNKNOWN_SOURCE),
        ({"source": "only", "payload": b"drop"}, Fate.GATED),
        ({"source": "only", "data": b"short"}, Fate.MALFORMED),
    ],
)
def test_what_is_not_served_is_acknowledged_at_once(manual: ManualBroker, arrival: dict[str, Any], fate: Fate) -> None:
    with Compute(one, memory_broker(), gate_in=lambda p: None if p == b"drop" else p) as compute:
        manual.arrive("m1", **arrival)
        assert next(compute) is None
        if fate is Fate.MALFORMED:
            assert manual.acknowledged == [], "it is a dead letter first"
            manual.confirm()
        assert manual.acknowledged == ["m1"]
        assert compute.stats.fates == {fate: 1}


def test_a_gate_does_not_run_for_a_source_that_is_not_known(manual: ManualBroker) -> None:
    seen: list[bytes] = []
    with Compute(one, memory_broker(), gate_in=seen.append) as compute:
        manual.arrive("m1", "stranger")
        next(compute)
    assert seen == []


def test_an_input_of_which_nothing_is_sent_is_acknowledged_at_once(manual: ManualBroker) -> None:
    with Compute(lambda only: None, memory_broker()) as compute:
        manual.arrive("m1", "only")
        next(compute)
        assert manual.acknowledged == ["m1"]
    with Materialize(lambda payload: payload, memory_broker()) as sink:
        manual.arrive("m2", "any")
        next(sink)
        assert manual.acknowledged == ["m1", "m2"]


def test_what_a_join_may_use_again_is_acknowledged_only_when_it_is_superseded_and_its_outputs_are_confirmed(
    manual: ManualBroker,
) -> None:
    with Compute(both, memory_broker()) as compute:
        manual.arrive("l1", "left", at_ms=1)
        manual.arrive("r1", "right", at_ms=2)
        next(compute)
        next(compute)
        manual.confirm()
        assert manual.acknowledged == []
        manual.arrive("l2", "left", at_ms=3)
        next(compute)  # l1 goes, but r1 is in an output that is not confirmed, and held besides
        assert manual.acknowledged == ["l1"]
        manual.arrive("r2", "right", at_ms=4)
        next(compute)
        assert manual.acknowledged == ["l1"], "r1's second output is not confirmed yet"
        manual.confirm()
        assert manual.acknowledged == ["l1", "r1"]
        manual.confirm()
        assert manual.acknowledged == ["l1", "r1"], "the newest of each source may be used again"


def test_a_join_that_lost_its_subscription_and_got_it_back_starts_with_nothing(manual: ManualBroker) -> None:
    with Compute(both, memory_broker(), no_overlap=True) as compute:
        manual.arrive("l1", "left", b"l", at_ms=1)
        assert next(compute) is None
        manual.tenure = 1  # somebody else may have served l1 by now
        manual.arrive("r2", "right", b"r", at_ms=3)
        assert next(compute) is None
        manual.arrive("l1", "left", b"l", at_ms=1)  # nobody has: it comes again, and is no duplicate
        assert next(compute) == b"lr"
        manual.confirm()
        assert sorted(manual.acknowledged) == ["l1", "r2"]
        assert compute.stats.fates == {Fate.SUPERSEDED: 1, Fate.USED: 2}
        assert compute.stats.held == 0


def test_what_was_fetched_before_a_subscription_was_lost_is_not_used(manual: ManualBroker) -> None:
    with Compute(both, memory_broker(), idle_timeout_ms=300) as compute:
        manual.arrive("l1", "left", b"l1", at_ms=1)
        manual.arrive("l9", "left", b"l9", at_ms=9)
        assert next(compute) is None
        manual.tenure = 1
        manual.arrive("l1", "left", b"l1", at_ms=1)  # both come again, and l9 after l1
        manual.arrive("r1", "right", b"r1", at_ms=2)
        assert [output for output in compute if output] == [b"l1r1"]
        manual.confirm()


def test_what_a_join_uses_again_keeps_its_value_though_the_confirmation_comes_at_once(
    manual: ManualBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "send", lambda message, confirmed: confirmed(None))
    with Compute(both, memory_broker()) as compute:
        manual.arrive("l1", "left", b"l1", at_ms=1)
        manual.arrive("r1", "right", b"r1", at_ms=2)
        manual.arrive("r2", "right", b"r2", at_ms=3)
        assert [next(compute) for _ in range(3)] == [None, b"l1r1", b"l1r2"]


def test_closing_says_what_was_not_confirmed(manual: ManualBroker) -> None:
    source = DataSource([b"1", b"2"], memory_broker(), "s")
    assert len(list(source)) == 2
    with pytest.raises(DeliveryError, match=r"not confirmed in time.*\(2 examples in all\)"):
        source.close()


def test_a_source_says_at_the_next_step_that_a_send_was_refused(manual: ManualBroker) -> None:
    source = DataSource([b"1", b"2"], memory_broker(), "s")
    next(source)
    manual.confirm(REFUSED)
    with pytest.raises(DeliveryError, match="disk is full"):
        next(source)
    assert next(source) == b"2"
    manual.confirm()
    source.close()


def test_a_payload_is_deleted_though_its_output_is_confirmed_before_the_send_returns(
    manual: ManualBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def confirm_at_once(message: Message, confirmed: Confirmed) -> None:
        confirmed(None)

    monkeypatch.setattr(manual, "send", confirm_at_once)
    store = FolderStore(tmp_path / "shared")
    manual.arrive("m1", "only", store.put(b"payload").encode(), edgeserve_url="1")
    fetching = Fetching(folders=[str(tmp_path / "shared")])
    with Compute(one, memory_broker(), ftp_delete=True, local_ftp_path=str(tmp_path), fetching=fetching) as compute:
        assert next(compute) == b"payload"
        assert manual.acknowledged == ["m1"]
    assert list((tmp_path / "shared").iterdir()) == []
