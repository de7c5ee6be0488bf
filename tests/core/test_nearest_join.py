"""`NearestJoin` by hand: literal times, both sides of every edge. All times count from 0, on both clocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from edgeserve._core.clock import Now
from edgeserve._core.join import JoinPolicy
from edgeserve._core.nearest_join import NearestJoin
from edgeserve._core.step import Decision, Example, Fate

_ids = itertools.count()


def nearest(
    *sources: str,
    max_time_diff_ms: int = 10,
    no_overlap: bool = False,
    min_interval_ms: float = 0,
    drop_if_older_than_ms: int | None = None,
    max_wait_ms: float = 100,
    max_waiting: int = 1000,
) -> NearestJoin:
    policy = JoinPolicy(
        {source: source for source in sources or ("left", "right")},
        max_time_diff_ms=max_time_diff_ms,
        no_overlap=no_overlap,
        min_interval_ms=min_interval_ms,
        drop_if_older_than_ms=drop_if_older_than_ms,
    )
    return NearestJoin(policy, max_wait_ms=max_wait_ms, max_waiting=max_waiting)


def captured(source: str, capture_ms: int) -> Example:
    return Example(next(_ids).to_bytes(16, "big"), source, b"", capture_ms)


def left(capture_ms: int) -> Example:
    return captured("left", capture_ms)


def right(capture_ms: int) -> Example:
    return captured("right", capture_ms)


def arrive(join: NearestJoin, example: Example, *, steady_ms: float = 0, wall_ms: int = 0) -> Decision:
    example.arrived_steady_ms = steady_ms
    return join.decide(example, Now(wall_ms, steady_ms))


def arrive_all(join: NearestJoin, *examples: Example) -> Decision:
    """All of them at 0 ms, none of which may start anything but the last; what that decides."""
    for example in examples[:-1]:
        assert arrive(join, example).job is None
    return arrive(join, examples[-1])


def moment(join: NearestJoin, *, steady_ms: float = 0, wall_ms: int = 0) -> Decision:
    return join.decide(None, Now(wall_ms, steady_ms))


def job(decision: Decision) -> tuple[Example, ...] | None:
    return None if decision.job is None else tuple(decision.job.examples)


def does_nothing(decision: Decision) -> bool:
    return decision.job is None and decision.fates == [] and decision.released == []


# What is near enough, and when it is known to be the nearest.


@pytest.mark.parametrize(("right_ms", "is_near"), [(89, False), (90, True), (110, True), (111, False)])
def test_what_is_as_far_as_the_reach_matches_and_what_is_further_does_not(right_ms: int, is_near: bool) -> None:
    join, head, match = nearest(), left(100), right(right_ms)
    decisions = [arrive(join, match), arrive(join, head), moment(join, steady_ms=100)]
    jobs = [job(decision) for decision in decisions if decision.job is not None]
    fates = [fate for decision in decisions for fate in decision.fates]
    assert jobs == ([(head, match)] if is_near else [])
    assert ((head, Fate.EXPIRED) in fates) is not is_near


def test_the_first_is_given_up_as_soon_as_another_source_is_past_its_reach_and_not_before() -> None:
    join, head, match, again = nearest(no_overlap=True), left(100), right(110), left(100)
    assert job(arrive_all(join, match, head)) == (head, match)
    assert does_nothing(arrive(join, again))  # another one may come that was captured at 110
    decision = arrive(join, right(111))
    assert decision.job is None
    assert decision.fates == [(again, Fate.EXPIRED)]
    assert decision.wake_steady_ms is None


@pytest.mark.parametrize(("next_ms", "is_nearer"), [(100, True), (101, True), (102, True), (103, False), (104, False)])
def test_a_match_is_final_when_nothing_nearer_can_come_and_a_tie_goes_to_the_earlier(
    next_ms: int, is_nearer: bool
) -> None:
    join, head, before, after = nearest(), left(100), right(97), right(next_ms)
    assert does_nothing(arrive_all(join, before, head))
    assert does_nothing(moment(join, steady_ms=1))
    assert job(arrive(join, after)) == (head, after if is_nearer else before)


@pytest.mark.parametrize("next_ms", [98, 99])
def test_a_match_is_not_final_while_something_nearer_can_come(next_ms: int) -> None:
    join, head, match = nearest(), left(100), right(next_ms)
    assert arrive_all(join, right(97), head, match).job is None
    last = right(200 - next_ms)
    assert job(arrive(join, last)) == (head, match)


def test_the_earlier_of_two_equal_captures_matches_and_the_other_is_kept() -> None:
    join, head, one, two = nearest(), left(100), right(95), right(95)
    assert does_nothing(arrive_all(join, head, one, two))
    decision = moment(join, steady_ms=100)
    assert job(decision) == (head, one)
    assert decision.released == [head]


def test_examples_of_the_first_source_with_one_capture_time_are_served_in_the_order_of_arrival() -> None:
    join, one, two, match = nearest(), left(100), left(100), right(100)
    assert job(arrive_all(join, one, two, match)) == (one, match)
    assert job(moment(join)) == (two, match)


def test_every_other_source_must_have_something_near() -> None:
    join = nearest("left", "right", "up")
    head, beside, above = left(100), right(100), captured("up", 99)
    assert arrive_all(join, head, beside, above).job is None  # something may come from above at 100
    assert job(arrive(join, captured("up", 101))) == (head, beside, above)


def test_a_source_from_which_nothing_came_holds_the_others_until_the_wait_is_over() -> None:
    join, head = nearest("left", "right", "up"), left(100)
    assert does_nothing(arrive_all(join, head, right(100), right(200)))
    decision = moment(join, steady_ms=100)
    assert decision.job is None
    assert decision.fates[0] == (head, Fate.EXPIRED)


def test_a_job_names_its_examples_by_the_parameters_that_take_their_sources() -> None:
    join = NearestJoin(JoinPolicy({"frame": "cam-1", "sound": "mic-1"}))
    frame, sound = captured("cam-1", 100), captured("mic-1", 100)
    assert arrive(join, frame).job is None
    decision = arrive(join, sound)
    assert decision.job is not None
    assert decision.job.units[0] == {"frame": frame, "sound": sound}


# How long it waits.


def test_the_wait_counts_from_the_arrival() -> None:
    join, match, head = nearest(), right(97), left(100)
    arrive(join, match, steady_ms=20)
    assert arrive(join, head, steady_ms=30).wake_steady_ms == 130
    early = moment(join, steady_ms=129.5)
    assert does_nothing(early)
    assert early.wake_steady_ms == 130
    decision = moment(join, steady_ms=130)
    assert job(decision) == (head, match)
    assert decision.wake_steady_ms is None


def test_what_waits_behind_another_does_not_wait_longer_for_that() -> None:
    join, match, head, second = nearest(), right(97), left(100), left(101)
    arrive(join, match)
    arrive(join, head, steady_ms=30)
    assert arrive(join, second, steady_ms=40).wake_steady_ms == 130
    first_job = moment(join, steady_ms=135)
    assert job(first_job) == (head, match)
    assert first_job.wake_steady_ms == 140
    assert job(moment(join, steady_ms=140)) == (second, match)


def test_without_a_match_the_wait_ends_with_expiry() -> None:
    join, head = nearest(), left(100)
    arrive(join, head, steady_ms=30)
    assert does_nothing(moment(join, steady_ms=129.5))
    decision = moment(join, steady_ms=130)
    assert (decision.job, decision.fates, decision.released) == (None, [(head, Fate.EXPIRED)], [head])
    assert decision.wake_steady_ms is None


def test_an_arrival_goes_before_a_deadline_that_has_come_for_something_nearer_may_be_next() -> None:
    join, before, head, nearer = nearest(), right(97), left(100), right(101)
    arrive_all(join, before, head)
    late = arrive(join, left(105), steady_ms=500)
    assert does_nothing(late)
    assert late.wake_steady_ms == 100
    assert job(arrive(join, nearer, steady_ms=500)) == (head, nearer)


def test_a_deadline_that_has_come_is_served_on_the_moment_after_the_arrivals() -> None:
    join, before, head = nearest(), right(97), left(100)
    arrive_all(join, before, head)
    assert arrive(join, left(105), steady_ms=500).job is None
    assert job(moment(join, steady_ms=500)) == (head, before)


def test_nothing_is_due_when_nothing_waits() -> None:
    join = nearest()
    assert arrive(join, right(100)).wake_steady_ms is None
    assert moment(join).wake_steady_ms is None
    decision = arrive(join, left(100))
    assert decision.job is not None
    assert decision.wake_steady_ms is None


def test_a_step_starts_one_job_and_the_next_is_due_at_once() -> None:
    join, one, two, three, match = nearest(), left(99), left(100), left(101), right(105)
    arrive_all(join, one, two, three)
    first = arrive(join, match, steady_ms=7)
    assert (job(first), first.wake_steady_ms) == ((one, match), 7)
    second = moment(join, steady_ms=7)
    assert (job(second), second.wake_steady_ms) == ((two, match), 7)
    third = moment(join, steady_ms=8)
    assert (job(third), third.wake_steady_ms) == ((three, match), None)


def test_a_step_that_starts_a_job_also_gives_up_what_follows_it_and_can_not_match() -> None:
    join, one, two, match, past = nearest(no_overlap=True), left(100), left(100), right(98), right(111)
    arrive_all(join, match, one, two)
    decision = arrive(join, past)
    assert job(decision) == (one, match)
    assert decision.fates == [(two, Fate.EXPIRED)]
    assert decision.wake_steady_ms is None


# Pace.


@pytest.mark.parametrize("no_overlap", [False, True])
def test_what_comes_too_soon_after_a_start_is_passed_over_and_its_match_stays(no_overlap: bool) -> None:
    join = nearest(min_interval_ms=50, no_overlap=no_overlap)
    assert arrive_all(join, left(100), right(100)).job is not None
    soon, match, due = left(110), right(110), left(111)
    arrive(join, soon, steady_ms=49.5)
    passed_over = arrive(join, match, steady_ms=49.5)
    assert passed_over.job is None
    assert passed_over.fates == [(soon, Fate.SUPERSEDED)]
    assert passed_over.wake_steady_ms is None
    assert match not in passed_over.released
    arrive(join, due, steady_ms=50)
    assert job(arrive(join, right(112), steady_ms=50)) == (due, match)


def test_what_is_passed_over_begins_no_interval() -> None:
    join = nearest(min_interval_ms=50)
    arrive_all(join, left(100), right(100))
    arrive(join, left(110), steady_ms=30)
    assert arrive(join, right(110), steady_ms=30).job is None
    arrive(join, left(120), steady_ms=50)
    assert arrive(join, right(120), steady_ms=50).job is not None


def test_with_an_interval_what_is_final_in_the_same_step_is_passed_over() -> None:
    join, one, two, match = nearest(min_interval_ms=1), left(99), left(100), right(105)
    decision = arrive_all(join, one, two, match)
    assert job(decision) == (one, match)
    assert decision.fates == [(two, Fate.SUPERSEDED)]
    assert decision.wake_steady_ms is None


# Age.


@pytest.mark.parametrize("make", [left, right])
def test_what_is_too_old_on_arrival_is_dropped(make: Callable[[int], Example]) -> None:
    join = nearest(drop_if_older_than_ms=30)
    in_time, too_old = make(100), make(99)
    dropped = arrive(join, too_old, wall_ms=130)
    assert (dropped.fates, dropped.released) == ([(too_old, Fate.TOO_OLD)], [too_old])
    assert does_nothing(arrive(join, in_time, wall_ms=130))


@pytest.mark.parametrize("make", [left, right])
def test_what_is_both_too_old_and_out_of_order_is_too_old(make: Callable[[int], Example]) -> None:
    join, too_old = nearest(drop_if_older_than_ms=30), make(99)
    arrive(join, make(100), wall_ms=100)
    assert (too_old, Fate.TOO_OLD) in arrive(join, too_old, wall_ms=130).fates


@pytest.mark.parametrize("make", [left, right])
def test_what_was_too_old_on_arrival_makes_nothing_out_of_order_when_the_wall_clock_is_set_back(
    make: Callable[[int], Example],
) -> None:
    join = nearest(drop_if_older_than_ms=30)
    assert arrive(join, make(99), wall_ms=130).job is None
    assert does_nothing(arrive(join, make(98), wall_ms=110))


@pytest.mark.parametrize(("wall_ms", "is_served"), [(130, True), (131, False)])
def test_what_waits_is_served_unless_it_has_grown_too_old_when_its_turn_comes(wall_ms: int, is_served: bool) -> None:
    join, head, match = nearest(drop_if_older_than_ms=30), left(100), right(101)
    arrive(join, head, wall_ms=100)
    decision = arrive(join, match, wall_ms=wall_ms)
    if is_served:
        assert job(decision) == (head, match)
    else:
        assert decision.job is None
        assert (decision.fates, decision.released) == ([(head, Fate.TOO_OLD)], [head])
        assert decision.wake_steady_ms is None


@pytest.mark.parametrize(("wall_ms", "is_served"), [(127, True), (128, False)])
def test_a_match_that_was_never_used_and_has_grown_too_old_is_dropped(wall_ms: int, is_served: bool) -> None:
    join, match, head = nearest(drop_if_older_than_ms=30), right(97), left(100)
    arrive(join, match, wall_ms=100)
    arrive(join, head, wall_ms=100)
    decision = moment(join, steady_ms=100, wall_ms=wall_ms)
    if is_served:
        assert job(decision) == (head, match)
    else:
        assert decision.job is None
        assert decision.fates == [(match, Fate.TOO_OLD), (head, Fate.EXPIRED)]
        assert decision.released == [match, head]


def test_a_match_that_was_used_stays_usable_however_old_it_is() -> None:
    join, match, later = nearest(drop_if_older_than_ms=30), right(100), left(109)
    arrive(join, left(100), wall_ms=100)
    assert arrive(join, match, wall_ms=100).job is not None
    arrive(join, later, wall_ms=139)
    decision = arrive(join, right(118), wall_ms=139)
    assert job(decision) == (later, match)
    assert decision.fates == []


def test_of_old_matches_only_those_are_dropped_that_were_never_used() -> None:
    join, used, unused, later = nearest(drop_if_older_than_ms=30), right(100), right(103), left(104)
    arrive(join, left(100), wall_ms=100)
    assert arrive(join, used, wall_ms=100).job is not None
    assert does_nothing(arrive(join, unused, wall_ms=133))
    arrive(join, later, wall_ms=134)
    decision = arrive(join, right(110), wall_ms=134)
    assert decision.job is not None
    assert job(decision) == (later, used)


def test_candidates_grow_too_old_while_the_first_source_is_silent() -> None:
    join, one, two = nearest(drop_if_older_than_ms=30), right(100), right(101)
    arrive(join, one, wall_ms=101)
    arrive(join, two, wall_ms=101)
    assert does_nothing(arrive(join, right(130), wall_ms=130))
    decision = arrive(join, right(131), wall_ms=131)
    assert (decision.fates, decision.released) == ([(one, Fate.TOO_OLD)], [one])


# Room.


def test_the_oldest_of_the_first_source_makes_room_for_the_newcomer() -> None:
    join, one, two, three, match = nearest(max_waiting=2), left(100), left(101), left(102), right(105)
    assert does_nothing(arrive_all(join, one, two))
    decision = arrive(join, three)
    assert (decision.fates, decision.released) == ([(one, Fate.EVICTED)], [one])
    assert [job(arrive(join, match)), job(moment(join))] == [(two, match), (three, match)]


def test_the_oldest_candidate_makes_room_for_the_newcomer() -> None:
    join, one, two, three = nearest(max_waiting=2, no_overlap=True), right(100), right(101), right(102)
    assert does_nothing(arrive_all(join, one, two))
    decision = arrive(join, three)
    assert (decision.fates, decision.released) == ([(one, Fate.EVICTED)], [one])
    head, second = left(102), left(102)
    assert job(arrive(join, head)) == (head, three)
    assert arrive(join, second).job is None
    assert job(arrive(join, right(103))) == (second, two)


def test_each_source_has_room_of_its_own() -> None:
    join = nearest("left", "right", "up", max_waiting=1)
    assert does_nothing(arrive_all(join, left(100), right(99), captured("up", 99)))


def test_a_candidate_that_was_used_makes_room_without_a_second_fate() -> None:
    join, match = nearest(max_waiting=1), right(100)
    assert arrive_all(join, left(100), match).job is not None
    decision = arrive(join, right(101))
    assert (decision.fates, decision.released) == ([], [match])


# Letting go.


def test_a_candidate_goes_when_a_nearer_one_to_all_that_is_to_come_exists() -> None:
    join, far, near = nearest(), right(95), right(96)
    assert does_nothing(arrive_all(join, left(100), far))
    decision = arrive(join, near)
    assert (decision.fates, decision.released) == ([(far, Fate.SUPERSEDED)], [far])


def test_a_candidate_that_was_used_goes_without_a_second_fate() -> None:
    join, match = nearest(), right(100)
    assert arrive_all(join, left(100), match).job is not None
    assert does_nothing(arrive(join, right(101)))
    head = left(101)
    decision = arrive(join, head)
    assert (decision.fates, decision.released) == ([], [head, match])


def test_candidates_stay_while_the_first_source_is_silent() -> None:
    join = nearest()
    for capture_ms in (0, 100, 1000):
        assert does_nothing(arrive(join, right(capture_ms)))


def test_candidates_ahead_of_the_first_source_stay() -> None:
    join, near, far = nearest(), right(104), right(106)
    arrive_all(join, right(101), left(100))
    assert does_nothing(arrive(join, near))
    assert does_nothing(arrive(join, far))


def test_a_candidate_goes_when_it_is_out_of_reach_of_all_that_is_to_come() -> None:
    join, beyond, within = nearest(), right(89), right(90)
    arrive_all(join, beyond, within)
    decision = arrive(join, left(100))
    assert (decision.fates, decision.released) == ([(beyond, Fate.EXPIRED)], [beyond])


def test_what_was_served_last_still_says_what_is_out_of_reach() -> None:
    join, beyond, within = nearest(max_wait_ms=0), right(89), right(90)
    arrive(join, left(100))
    assert [fate for _, fate in moment(join).fates] == [Fate.EXPIRED]
    assert arrive(join, beyond).fates == [(beyond, Fate.EXPIRED)]
    assert does_nothing(arrive(join, within))


def test_a_candidate_stays_for_what_waits_though_the_first_source_is_further_on() -> None:
    join, match, head = nearest(), right(95), left(100)
    assert does_nothing(arrive_all(join, match, head, left(120)))
    between = right(106)
    decision = arrive(join, between)
    assert job(decision) == (head, match)
    assert decision.fates == [(between, Fate.EXPIRED)]
    assert decision.released == [head, match, between]


def test_without_overlap_what_was_matched_is_let_go_and_matched_never_again() -> None:
    join, head, again, match = nearest(no_overlap=True), left(100), left(100), right(100)
    decision = arrive_all(join, head, match)
    assert job(decision) == (head, match)
    assert (decision.fates, decision.released) == ([], [head, match])
    assert arrive(join, again).job is None
    assert moment(join, steady_ms=100).fates == [(again, Fate.EXPIRED)]


def test_with_overlap_what_was_matched_is_kept_and_matched_again() -> None:
    join, head, again, match = nearest(), left(100), left(100), right(100)
    decision = arrive_all(join, head, match)
    assert (decision.fates, decision.released) == ([], [head])
    assert job(arrive(join, again)) == (again, match)


def test_without_overlap_earlier_candidates_stay_for_when_the_nearest_is_taken() -> None:
    join, far, near, one, two = nearest(no_overlap=True), right(95), right(96), left(100), left(100)
    assert does_nothing(arrive_all(join, one, two, far, near))
    assert job(moment(join, steady_ms=100)) == (one, near)
    assert job(moment(join, steady_ms=100)) == (two, far)


def test_without_overlap_candidates_go_when_they_are_out_of_reach() -> None:
    join, beyond = nearest(no_overlap=True), right(89)
    arrive_all(join, beyond, right(90))
    assert arrive(join, left(100)).fates == [(beyond, Fate.EXPIRED)]


# Order.


@pytest.mark.parametrize("make", [left, right])
def test_what_was_captured_before_the_newest_of_its_source_is_out_of_order(make: Callable[[int], Example]) -> None:
    join = nearest()
    arrive(join, make(100))
    late, equal = make(99), make(100)
    decision = arrive(join, late)
    assert (decision.fates, decision.released) == ([(late, Fate.OUT_OF_ORDER)], [late])
    assert does_nothing(arrive(join, equal))


def test_the_order_is_remembered_of_what_was_served_long_ago() -> None:
    join, late = nearest(no_overlap=True), right(99)
    assert arrive_all(join, left(100), right(100)).job is not None
    assert arrive(join, late).fates == [(late, Fate.OUT_OF_ORDER)]


def test_sources_may_be_late_with_respect_to_each_other() -> None:
    join, head, match = nearest(), left(100), right(105)
    assert job(arrive_all(join, match, right(500), head)) == (head, match)
