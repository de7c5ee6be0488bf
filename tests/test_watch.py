"""What is known of the open operators of a process, and when their steps are measured."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from edgeserve import Compute, DataSource, Materialize, Stats, _watch
from edgeserve._core.histogram import Histogram
from edgeserve._core.ledger import FetchStats
from edgeserve._watch import Key
from edgeserve.testing import ManualClock, memory_broker

BATCH = 5
IDLE_MS = 200


@pytest.fixture
def watcher() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    _watch.turn_off(name)


def send(broker: str, count: int = BATCH) -> DataSource:
    source = DataSource([b"x"] * count, broker, "cam")
    for _ in source:
        pass
    return source


def serve(broker: str) -> Compute:
    compute = Compute(lambda cam: cam, broker, "double", idle_timeout_ms=IDLE_MS)
    for _ in compute:
        pass
    return compute


def test_steps_are_measured_while_somebody_watches_also_those_of_operators_that_are_open_already(watcher: str) -> None:
    broker = memory_broker()
    with send(broker), serve(broker) as compute:
        (key,) = [watched for watched in _watch.readings() if watched.key.operator == "double"]
        assert _watch.readings()[key].step.count == 0
        _watch.turn_on(watcher)
        send(broker, 2).close()
        assert next(compute) == next(compute) == b"x"
        assert _watch.readings()[key].step.count == 2
        assert _watch.readings()[key].end_to_end.count == 2
        _watch.turn_off(watcher)
        send(broker, 1).close()
        assert next(compute) == b"x"
        assert _watch.readings()[key].step.count == 2
        assert _watch.readings()[key].stats == compute.stats


def test_a_meter_and_a_replay_log_are_told_of_the_same_steps(watcher: str, tmp_path: os.PathLike[str]) -> None:
    broker = memory_broker()
    _watch.turn_on(watcher)
    with send(broker), Compute(lambda cam: cam, broker, "double", log_path=tmp_path) as compute:
        for _ in range(BATCH):
            next(compute)
        (found,) = [reading for watched, reading in _watch.readings().items() if watched.key.operator == "double"]
    assert found.step.count == BATCH


@pytest.mark.parametrize("packing", [True, False])
def test_what_has_arrived_and_was_not_taken_is_the_queue(packing: bool) -> None:
    broker = memory_broker()
    with DataSource([b"x"] * BATCH, broker, "cam", packing=packing) as source:
        for _ in source:
            pass
    with Materialize(len, broker, topic="src", idle_timeout_ms=IDLE_MS) as sink:
        (watched,) = [watched for watched in _watch.readings() if watched.key.operator == "my-sub"]
        assert next(sink) == 1
        assert 1 <= watched.queue_length() < BATCH
        for _ in sink:
            pass
        assert watched.queue_length() == 0


def test_totals_go_on_when_an_operator_is_closed_and_made_anew(watcher: str) -> None:
    broker = memory_broker()
    _watch.turn_on(watcher, keeps_totals=True)
    key = Key("double", "Compute", ("src",), ("dst",))
    for times in (1, 2):
        send(broker).close()
        with serve(broker):
            found = _watch.totals()[key]
            assert (found.stats.received, found.open) == (times * BATCH, 1)
            assert found.step.count == times * BATCH
        closed = _watch.totals()[key]
        assert (closed.stats.received, closed.open, closed.stats.held) == (times * BATCH, 0, 0)
        assert closed.stats.fates == found.stats.fates


def test_operators_with_one_key_are_counted_together(watcher: str) -> None:
    broker = memory_broker()
    _watch.turn_on(watcher, keeps_totals=True)
    with send(broker, 2), send(broker, 3):
        found = _watch.totals()[Key("cam", "DataSource", (), ("src",))]
        assert (found.stats.sent, found.open) == (5, 2)


def test_when_nobody_keeps_totals_nothing_is_kept_of_what_was_closed(watcher: str) -> None:
    _watch.turn_on(watcher)
    send(memory_broker()).close()
    assert Key("cam", "DataSource", (), ("src",)) not in _watch.totals()


def test_a_step_in_which_watching_ended_is_not_measured_together_with_one_in_which_it_begins(watcher: str) -> None:
    broker, clock = memory_broker(), ManualClock()
    in_the_step: list[Callable[[], None]] = []

    def task(cam: bytes) -> bytes:
        in_the_step.pop()()
        return cam

    with send(broker, 3), Compute(task, broker, "double", clock=clock) as compute:
        _watch.turn_on(watcher)
        in_the_step.append(lambda: _watch.turn_off(watcher))
        next(compute)
        clock.advance(3_600_000)
        in_the_step.append(lambda: _watch.turn_on(watcher))
        next(compute)
        (found,) = [reading for watched, reading in _watch.readings().items() if watched.key.operator == "double"]
        assert found.step.count == 0
        in_the_step.append(lambda: clock.advance(1000))
        next(compute)
        (found,) = [reading for watched, reading in _watch.readings().items() if watched.key.operator == "double"]
        assert (found.step.count, found.step.total_s) == (1, 1)


def test_what_closed_operators_had_counted_is_kept_of_so_many_that_were_closed_last(
    watcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_MOST_PAST", 2)
    broker = memory_broker()
    _watch.turn_on(watcher, keeps_totals=True)
    for name in ("one", "two", "one", "three"):
        DataSource([], broker, name).close()
    assert [key.operator for key in _watch.totals()] == ["one", "three"]


def test_what_a_closed_operator_has_not_moved_is_no_more_there() -> None:
    meter = Histogram()
    fetches = FetchStats(fetched=3, unmoved_bytes=7)
    stats = replace(Stats(), received=2, fetches=fetches)
    closed = _watch.Reading(stats, 1, meter, meter, meter).closed()
    assert closed.stats == replace(stats, fetches=replace(fetches, unmoved_bytes=0))


def test_a_class_of_the_users_own_is_known_by_what_it_is_made_of() -> None:
    class Mine(DataSource):
        pass

    with Mine([], memory_broker(), "cam"):
        assert [watched.key.kind for watched in _watch.readings()] == ["DataSource"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_fork_watches_none_of_its_parents_operators() -> None:
    with send(memory_broker()):
        child = os.fork()
        if child == 0:
            os._exit(len(_watch.readings()))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert len(_watch.readings()) == 1
