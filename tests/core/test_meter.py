from __future__ import annotations

from edgeserve._core.histogram import Histogram
from edgeserve._core.meter import Meter
from edgeserve._core.observing import Observer, with_observer, without_observer
from edgeserve._core.step import Example, Fate, Job
from edgeserve.testing import ManualClock

START_MS = 1_700_000_000_000


def durations_s(histogram: Histogram) -> tuple[int, float]:
    return histogram.count, round(histogram.total_s, 9)


def job_of(*captures_ms: int) -> Job:
    examples = [Example(bytes(16), f"s{number}", b"", ms) for number, ms in enumerate(captures_ms)]
    return Job([{example.source: example for example in examples}])


def test_a_step_is_measured_from_its_payloads_to_its_gates_and_the_fetch_before_it() -> None:
    clock = ManualClock(START_MS)
    meter, job = Meter(clock), job_of(START_MS - 100)
    meter.starts(job)
    clock.advance(30)
    meter.fetched(job.examples[0], b"payload")
    clock.advance(20)
    meter.ran(job, ())
    assert durations_s(meter.fetch) == (1, 0.03)
    assert durations_s(meter.step) == (1, 0.02)
    assert durations_s(meter.end_to_end) == (1, 0.15)


def test_without_a_fetch_there_is_none_also_after_a_step_that_had_one() -> None:
    clock = ManualClock(START_MS)
    meter, job = Meter(clock), job_of(START_MS)
    meter.starts(job)
    meter.fetched(job.examples[0], b"payload")
    meter.ran(job, ())
    meter.starts(job)
    clock.advance(5)
    meter.ran(job, ())
    assert meter.fetch.count == 1
    assert durations_s(meter.step) == (2, 0.005)


def test_an_example_that_a_join_uses_again_has_been_at_the_end_before() -> None:
    meter, job = Meter(ManualClock(START_MS)), job_of(START_MS - 10, START_MS - 20)
    job.examples[0].fate = Fate.USED
    meter.starts(job)
    meter.ran(job, ())
    assert durations_s(meter.end_to_end) == (1, 0.02)


def test_what_raised_is_not_measured_and_of_several_tries_the_last_is() -> None:
    clock = ManualClock(START_MS)
    meter, job = Meter(clock), job_of(START_MS)
    meter.starts(job)
    clock.advance(1000)
    meter.raised(job, ValueError())
    assert meter.step.count == 0
    meter.starts(job)
    clock.advance(1)
    meter.ran(job, ())
    assert durations_s(meter.step) == (1, 0.001)


def test_a_meter_that_is_turned_on_in_the_middle_of_a_step_misses_it() -> None:
    meter = Meter(ManualClock(START_MS))
    meter.ran(job_of(START_MS), ())
    assert (meter.step.count, meter.end_to_end.count) == (0, 0)


def test_a_source_is_measured_from_its_item_to_its_being_handed_over() -> None:
    clock = ManualClock(START_MS)
    meter, taken_ms = Meter(clock), clock.now().steady_ms
    clock.advance(7)
    meter.sent(bytes(16), START_MS, taken_ms, b"", b"", is_url=False)
    assert durations_s(meter.step) == (1, 0.007)


class Noted(Observer):
    def __init__(self) -> None:
        self.fates: list[Fate] = []

    def unsent(self, fate: Fate, error: BaseException | None = None) -> None:
        self.fates.append(fate)


def test_observers_come_and_go_and_each_is_told_while_it_is_there() -> None:
    first, second, third = Noted(), Noted(), Noted()
    told = with_observer(None, first)
    assert told is first, "one alone is told without a detour"
    told = with_observer(with_observer(told, second), third)
    told.unsent(Fate.GATED)
    fewer = without_observer(told, second)
    assert fewer is not None
    fewer.unsent(Fate.FAILED)
    assert (first.fates, second.fates) == ([Fate.GATED, Fate.FAILED], [Fate.GATED])
    assert third.fates == first.fates
    assert without_observer(without_observer(fewer, first), third) is None


def test_several_observers_are_told_everything_that_one_can_be_told() -> None:
    both = type(with_observer(Noted(), Noted()))
    told = {name for name in vars(Observer) if not name.startswith("_")}
    assert told <= vars(both).keys()
