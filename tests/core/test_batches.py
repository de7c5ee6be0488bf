"""When a batch leaves, and what is in it."""

from __future__ import annotations

from edgeserve._core.batches import Batcher, Batching, BatchJoin
from edgeserve._core.clock import Now
from edgeserve._core.step import Decision, Example


class Units:
    """Units of one example each, by number."""

    def __init__(self, **policy: float) -> None:
        self.batcher = Batcher(Batching(**policy))  # type: ignore[arg-type]
        self.wake_ms: float | None = None

    def put(self, number: int, steady_ms: float = 0, *, size: int = 1, capture_ms: int = 0, flow: bytes | None = None):  # type: ignore[no-untyped-def]
        example = Example(bytes([number] * 16), "only", None, capture_ms, data=bytes(size))
        self.batcher.put({"p": example}, Now(0, steady_ms), flow)
        return self.take(steady_ms)

    def take(self, steady_ms: float) -> list[int] | None:
        decision = Decision()
        self.batcher.take(Now(0, steady_ms), decision)
        self.wake_ms = decision.wake_steady_ms
        if decision.job is None:
            return None
        assert decision.released == decision.job.examples
        assert all(each.is_used for each in decision.job.examples)
        return [each.id[0] for each in decision.job.examples]


def test_a_batch_leaves_when_it_is_full_by_count() -> None:
    units = Units(max_count=3, timeout_ms=100)
    assert [units.put(number) for number in range(4)] == [None, None, [0, 1, 2], None]


def test_a_batch_leaves_before_its_bytes_are_too_many() -> None:
    units = Units(max_count=100, max_bytes=100, timeout_ms=100)
    assert units.put(0, size=60) is None
    assert units.put(1, size=60) == [0]
    assert units.put(2, size=40) == [1, 2], "full to the byte"
    assert units.put(3, size=1000) == [3], "what is larger is alone"


def test_a_batch_of_one_never_waits_longer_than_the_time() -> None:
    units = Units(max_count=100, timeout_ms=10)
    assert units.put(0, 5) is None
    assert units.wake_ms == 15
    assert units.put(1, 14) is None
    assert units.wake_ms == 15, "the first one's time counts"
    assert units.take(15) == [0, 1]
    assert units.wake_ms is None


def test_what_came_too_late_for_a_batch_has_a_time_of_its_own() -> None:
    units = Units(max_count=2, timeout_ms=10, min_interval_ms=1000)
    assert [units.put(number, number) for number in range(5)] == [None, [0, 1], None, None, None]
    assert units.wake_ms == 1001
    assert units.take(1001) == [2, 3]
    assert units.wake_ms == 2001
    assert units.take(2001) == [4]


def test_a_flow_is_in_a_batch_once() -> None:
    units = Units(max_count=10, timeout_ms=10)
    assert units.put(0, flow=b"a") is None
    assert units.put(1, flow=b"b") is None
    assert units.put(2, flow=b"a") == [0, 1]
    assert units.take(10) == [2]


def test_captures_in_a_batch_lie_no_further_apart_than_they_may() -> None:
    units = Units(max_count=10, timeout_ms=10, max_time_diff_ms=5)
    assert units.put(0, capture_ms=10) is None
    assert units.put(1, capture_ms=15) is None
    assert units.put(2, capture_ms=8) == [0, 1]


def test_without_a_time_each_is_served_as_it_comes() -> None:
    units = Units()
    assert [units.put(number) for number in range(3)] == [[0], [1], [2]]


def test_a_join_of_batches_takes_no_more_when_too_many_wait() -> None:
    join = BatchJoin("p", Batching(max_count=2, min_interval_ms=1000), max_waiting=3)

    def is_full_after_another() -> bool:
        join.decide(Example(bytes(16), "only", None, 0), Now(0, 0))
        return bool(join.full)

    assert [is_full_after_another() for _ in range(4)] == [False, False, False, True], "the first is served at once"
    job = join.decide(None, Now(0, 1000)).job
    assert job is not None
    assert len(job.units) == 2
    assert not join.full
