"""Which data is served for which signal, and what becomes of the rest."""

from __future__ import annotations

import random

import pytest

from edgeserve._core.batches import Batching
from edgeserve._core.clock import Now
from edgeserve._core.flows import message_key
from edgeserve._core.step import Fate
from tests.core.flows import Steps

FULL_OF_DATA = frozenset({"data"})
FULL_OF_SIGNALS = frozenset({"signal"})


def test_data_is_served_when_its_flow_is_asked_about() -> None:
    steps = Steps()
    steps.data("a")
    steps.data("b")
    steps.signal("b")
    assert steps.served == [["b"]]
    assert steps.fates == {}, "a may still be asked about"


def test_a_signal_may_come_before_its_data() -> None:
    steps = Steps()
    steps.signal("a")
    assert steps.served == []
    steps.data("b")
    steps.data("a")
    assert steps.served == [["a"]]


def test_without_signals_data_is_served_as_it_comes() -> None:
    steps = Steps(has_signal=False)
    steps.data("a")
    steps.data("a")
    assert steps.served == [["a"], ["a"]]


@pytest.mark.parametrize("order", ["data first", "signals first", "mixed"])
def test_of_several_of_one_flow_each_signal_has_the_data_that_was_captured_with_it(order: str) -> None:
    steps = Steps(max_time_diff_ms=100)
    moments = [10, 20, 30]
    arrivals = [(steps.data, at) for at in moments] + [(steps.signal, at) for at in moments]
    if order == "signals first":
        arrivals.reverse()
    elif order == "mixed":
        arrivals = [pair for at in moments for pair in ((steps.data, at), (steps.signal, at))]
    captured = []
    take = steps.join._match

    def match(data, signal, now):  # type: ignore[no-untyped-def]
        captured.append((data.capture_ms, signal.capture_ms))
        take(data, signal, now)

    steps.join._match = match  # type: ignore[method-assign]
    for arrive, at in arrivals:
        arrive("a", at)
    assert sorted(captured) == [(10, 10), (20, 20), (30, 30)]


def test_a_signal_waits_for_its_own_data_though_other_data_of_its_flow_is_here() -> None:
    steps = Steps(max_time_diff_ms=100)
    steps.data("a", 10)
    steps.signal("a", 20)
    assert steps.served == []
    served = steps.data("a", 20)
    assert steps.served == [["a"]]
    assert served.is_used


def test_a_signal_with_a_time_of_its_own_takes_the_data_there_is_when_no_other_has_come() -> None:
    steps = Steps(max_time_diff_ms=100)
    steps.data("a", 10)
    steps.signal("a", 20)
    steps.wait(399)
    assert steps.served == []
    steps.wait(400)
    assert steps.served == [["a"]]


def test_what_was_given_up_may_be_asked_again() -> None:
    steps = Steps()
    steps.data("a")
    signal = steps.signal("a")
    steps.join.give_up([signal])
    steps.data("a")
    steps.again(signal)
    assert steps.served == [["a"], ["a"]]


def test_data_is_answered_once() -> None:
    steps = Steps()
    steps.data("a")
    steps.signal("a")
    steps.signal("a")
    assert steps.served == [["a"]]


def test_the_same_signal_again_is_a_duplicate() -> None:
    steps = Steps()
    steps.data("a")
    signal = steps.signal("a")
    steps.again(signal)
    assert steps.served == [["a"]]
    assert steps.fates == {"signal a": Fate.DUPLICATE}


# What grows old


def test_data_that_the_signals_have_passed_was_not_asked_about() -> None:
    steps = Steps(max_time_diff_ms=10)
    for at_ms in (100, 101, 111):
        steps.data(str(at_ms), at_ms)
    steps.signal("111", 111)
    assert steps.fates == {"data 100 100": Fate.NOT_ASKED}
    steps.data("late", 100)
    assert steps.fates["data late 100"] is Fate.NOT_ASKED


def test_neither_newer_data_nor_the_clock_makes_data_too_old() -> None:
    steps = Steps(max_time_diff_ms=10)
    steps.data("a", 100)
    steps.data("b", 1_000_000)
    steps.steady_ms = 10_000_000
    steps.data("c", 2_000_000)
    steps.signal("a", 100)
    assert steps.served == [["a"]]


def test_late_data_whose_signal_waits_is_served_however_far_the_signals_are() -> None:
    steps = Steps(max_time_diff_ms=10)
    steps.signal("a", 100)
    steps.signal("b", 1000)
    steps.data("a", 100)
    assert steps.served == [["a"]]


def test_a_signal_expires_when_the_data_has_passed_it_and_it_has_waited_as_long() -> None:
    steps = Steps(max_time_diff_ms=10)
    steps.signal("gone", 100)
    steps.data("b", 110)
    steps.wait(50)
    assert steps.fates == {}, "its data may still come: captures 10 ms apart are not too far"
    steps.data("c", 111)
    assert steps.fates == {"signal gone 100": Fate.EXPIRED}
    steps.signal("gone too", 100)
    assert "signal gone too 100" not in steps.fates, "its data may be on its way from another replica"
    steps.wait(61)
    assert steps.fates["signal gone too 100"] is Fate.EXPIRED


def test_a_signal_is_not_matched_with_data_captured_too_long_before_or_after() -> None:
    steps = Steps(max_time_diff_ms=10)
    steps.signal("a", 100)
    steps.data("a", 111)
    assert steps.served == []
    steps.data("a", 110)
    assert steps.served == [["a"]]


# Bounds


def test_when_data_fills_its_bound_no_more_is_read_until_some_has_gone() -> None:
    steps = Steps(max_flows=3)
    for flow in "abc":
        steps.data(flow)
    assert steps.join.full == FULL_OF_DATA
    steps.signal("b")
    assert steps.served == [["b"]]
    assert steps.join.full == frozenset()
    assert steps.fates == {}


def test_bytes_are_bounded_too() -> None:
    steps = Steps(max_bytes=100)
    steps.data("a", payload=bytes(70))
    assert steps.join.full == FULL_OF_DATA


def test_the_oldest_unasked_data_makes_room_only_while_a_signal_waits_for_data_not_yet_read() -> None:
    steps = Steps(max_flows=3)
    for at_ms, flow in enumerate("abc", 100):
        steps.data(flow, at_ms)
    steps.signal("e", 104)
    assert steps.join.full == frozenset(), "e has to be read"
    steps.data("d", 103)
    assert steps.fates == {"data a 100": Fate.EVICTED}
    steps.data("e", 104)
    assert steps.served == [["e"]]
    assert steps.join.full == FULL_OF_DATA
    assert len(steps.fates) == 1


def test_a_signal_whose_data_was_passed_does_not_make_room() -> None:
    steps = Steps(max_flows=3, max_time_diff_ms=10)
    for at_ms in (100, 200, 300):
        steps.data(str(at_ms), at_ms)
    steps.signal("served by the one that was killed", 105)
    assert steps.join.full == FULL_OF_DATA


def test_what_others_wait_for_and_is_not_here_is_read_too() -> None:
    steps = Steps(max_flows=2, asks=True)
    steps.data("a", 100)
    steps.data("b", 101)
    steps.others_ask("c", at_ms=102, times=2)
    assert steps.join.full == FULL_OF_DATA, "it may be with another one"
    steps.others_ask("c", at_ms=102, times=3)
    assert steps.join.full == FULL_OF_DATA, "signals of a and b may be with another one, and ask"
    steps.steady_ms = 2000
    steps.others_ask("c", at_ms=102, times=4)
    assert steps.join.full == frozenset()
    steps.data("d", 102)
    assert steps.fates == {"data a 100": Fate.EVICTED}
    steps.steady_ms = 5000
    steps.signal("d", 102)
    steps.data("e", 103)
    assert steps.join.full == FULL_OF_DATA


def test_data_that_no_signal_has_got_past_never_makes_room() -> None:
    steps = Steps(max_flows=3, max_time_diff_ms=1000)
    steps.signal("lost", 100)
    for at_ms in (101, 102, 103):
        steps.data(str(at_ms), at_ms)
    assert steps.join.full == FULL_OF_DATA, "they may all be asked about"
    steps.signal("102", 102)
    assert steps.served == [["102"]]
    steps.wait(100)
    steps.data("104", 104)
    assert steps.join.full == frozenset(), "101 may go"
    steps.data("105", 105)
    assert steps.fates == {"data 101 101": Fate.EVICTED}


def test_both_topics_may_be_full() -> None:
    steps = Steps(max_flows=2, max_time_diff_ms=10)
    steps.signal("x", 1)
    steps.signal("y", 2)
    steps.data("a", 100)
    steps.data("b", 101)
    assert steps.join.full == FULL_OF_DATA | FULL_OF_SIGNALS


def test_signals_are_bounded_and_then_only_data_is_read() -> None:
    steps = Steps(max_flows=2)
    steps.signal("a")
    steps.signal("b")
    assert steps.join.full == FULL_OF_SIGNALS
    steps.data("a")
    assert steps.join.full == frozenset()


def test_an_interval_between_starts_delays_flows_and_loses_none() -> None:
    steps = Steps(batching=Batching(min_interval_ms=100))
    for flow in "abc":
        steps.data(flow)
    for flow in "abc":
        steps.signal(flow)
    assert steps.served == [["a"]]
    steps.wait(99)
    assert steps.served == [["a"]]
    steps.wait(100)
    assert steps.served == [["a"], ["b"]]
    steps.wait(200)
    assert steps.served == [["a"], ["b"], ["c"]]


def test_what_is_to_be_served_is_bounded_too() -> None:
    steps = Steps(batching=Batching(min_interval_ms=100), has_signal=False, max_flows=2)
    for flow in "abc":
        steps.data(flow)
    assert steps.join.full == frozenset({"data", "signal"})


# Replicas


def test_a_signal_without_its_data_asks_and_is_given_back_less_and_less_often() -> None:
    steps = Steps(asks=True, max_time_diff_ms=1000)
    signal = steps.signal("a")
    steps.wait(399)
    assert steps.asked == []
    steps.wait(400)
    assert (steps.asked, steps.given_back) == ([b"a"], ["signal a"])
    asked_at = []
    for _ in range(3):
        steps.again(signal)
        before_ms, asked = steps.steady_ms, len(steps.asked)
        while len(steps.asked) == asked:
            steps.wait(steps.steady_ms + 1)
        asked_at.append(steps.steady_ms - before_ms)
    assert asked_at == [800, 1000, 1000]


def test_data_that_signals_have_passed_makes_room_later_where_others_are_heard_of() -> None:
    for is_heard, is_pack, grace_ms in ((True, False, 2000), (False, False, 200), (True, True, 0)):
        steps = Steps(asks=True, max_flows=2, max_time_diff_ms=1000)
        if is_heard:
            steps.others_ask("nothing here")
        steps.data("a", 100, is_pack=is_pack)
        steps.data("b", 101, is_pack=is_pack)
        steps.signal("c", 102, is_pack=True)
        freed_ms = next(ms for ms in range(0, 4000, 100) if steps.wait(ms) or not steps.join.full)
        assert freed_ms == grace_ms


def test_a_signal_that_came_in_a_pack_asks_and_stays() -> None:
    steps = Steps(asks=True)
    steps.signal("a", is_pack=True)
    steps.wait(400)
    assert (steps.asked, steps.given_back) == ([b"a"], [])
    steps.data("a")
    assert steps.served == [["a"]]


def test_data_that_is_asked_for_is_given_back_and_no_other() -> None:
    steps = Steps(asks=True)
    steps.data("a")
    steps.data("a", 1)
    steps.data("b")
    steps.data("c", is_pack=True)
    steps.others_ask("a", "c", "unknown")
    assert steps.given_back == ["data a", "data a 1"]
    steps.signal("a")
    steps.signal("b")
    assert steps.served == [["b"]]


def test_with_what_is_asked_for_its_whole_slot_is_given_back() -> None:
    steps = Steps(asks=True)
    for flow in ("a1", "a2", "b1"):
        steps.data(flow)
    steps.others_ask("a3")
    assert steps.given_back == ["data a1", "data a2"]


def test_what_is_being_served_is_not_given_back() -> None:
    steps = Steps(asks=True, batching=Batching(max_count=10, timeout_ms=100))
    steps.data("a")
    steps.signal("a")
    steps.others_ask("a")
    assert steps.given_back == []
    steps.wait(100)
    assert steps.served == [["a"]]


def test_where_the_broker_keeps_flows_together_a_signal_asks_and_nothing_is_given_back() -> None:
    steps = Steps()
    steps.signal("a")
    steps.data("b")
    steps.wait(400)
    steps.others_ask("b")
    assert (steps.asked, steps.given_back) == ([b"a"], [])


def test_a_signal_that_comes_again_much_later_is_a_new_question() -> None:
    steps = Steps(asks=True, max_time_diff_ms=1000)
    steps.signal("a", 100)
    steps.wait(400)
    assert steps.given_back == ["signal a 100"]
    steps.steady_ms = 3_600_000
    steps.data("b", 3_600_000)
    steps.signal("a", 100)
    assert steps.fates == {}, "it has not waited yet"
    assert steps.wake_ms == 3_600_000 + 400


def test_while_data_comes_that_was_captured_before_it_a_signal_asks_and_stays() -> None:
    steps = Steps(asks=True)
    steps.signal("z", 1000)
    for number in range(20):
        steps.wait(number * 100)
        steps.data(f"{number}", number)
    assert (steps.asked, steps.given_back) == ([b"z", b"z"], [])
    steps.wait(2800)
    assert steps.given_back == ["signal z 1000"]


def test_what_is_no_ask_is_ignored() -> None:
    steps = Steps(asks=True)
    steps.data("a")
    decision = steps.join.give_back([b"", b"short"], Now(0, 0.0))
    assert list(decision.given_back) == []


# All of it


@pytest.mark.parametrize("seed", range(20))
def test_every_flow_that_is_asked_about_is_served_in_any_order_of_arrival(seed: int) -> None:
    dice = random.Random(seed)
    steps = Steps(max_time_diff_ms=50, max_flows=500)
    flows = [f"{number:03}" for number in range(300)]
    asked = {flow for flow in flows if dice.random() < 0.3}
    arrivals = [(at + dice.uniform(0, 40), "data", flow, at) for at, flow in enumerate(flows)]
    arrivals += [(at + dice.uniform(0, 40), "signal", flow, at) for at, flow in enumerate(flows) if flow in asked]
    for _, role, flow, at in sorted(arrivals):
        getattr(steps, role)(flow, 1000 + at)
    assert sorted(flow for (flow,) in steps.served) == sorted(asked)
    assert set(steps.fates.values()) <= {Fate.NOT_ASKED}
    assert len(steps.fates) + steps.join._data.count == len(flows) - len(asked)


@pytest.mark.parametrize(
    ("flow_id", "key"),
    [(b"flow-1", "flow-1"), ("é".encode(), "é"), (b"\xff\x00\x01", "ff0001"), (b"", None), (b"\x00a", "\x00a")],
)
def test_the_key_of_a_flow_is_its_id_as_text_or_in_hexadecimal(flow_id: bytes, key: str | None) -> None:
    assert message_key(flow_id) == key
