"""When what arrived had reached its node, as far as can be told."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve import Compute, DataSource, Materialize, replay, run
from edgeserve._log.head import Head
from edgeserve._log.writer import pack_block, pack_head
from edgeserve.replay._reaching import reached_ms
from edgeserve.testing import end_memory_broker, memory_broker
from tests.replay.recorded import arrived, served

WALL_MS = 1_700_000_000_000


def reached(
    received_ms: Sequence[float],
    publish_ms: Sequence[float],
    at_work_ms: Sequence[float] = (),
    senders: Sequence[int] | None = None,
    opened_ms: float = -1e9,
) -> list[float]:
    places = [0] * len(received_ms) if senders is None else senders
    arrays = (np.array(each, dtype=float) for each in (received_ms, publish_ms))
    times = reached_ms(np, *arrays, np.array(places, dtype=int), np.array(at_work_ms, dtype=float), opened_ms)
    return [float(each) for each in times]


def test_what_came_while_the_operator_was_busy_took_as_long_as_the_fastest() -> None:
    # Sent every 10 ms, 2 ms on their way, each served for 30.
    received, sent = [2, 32, 62, 92], [0, 10, 20, 30]
    assert reached(received, sent, [32, 62, 92]) == [2, 12, 22, 32]


@given(st.floats(-1e9, 1e9))
def test_the_senders_clock_may_show_what_it_likes(ahead_ms: float) -> None:
    received, sent = [2, 32, 62, 92], [ahead_ms + each for each in (0, 10, 20, 30)]
    assert reached(received, sent, [32, 62, 92]) == pytest.approx([2, 12, 22, 32], abs=1e-3)


def test_what_came_while_the_operator_waited_came_when_it_was_received() -> None:
    assert reached([2, 502], [0, 100], [3]) == [2, 502], "it was 402 ms on its way"
    assert reached([2, 502], [0, 100], [3, 499]) == [2, 102], "here it may have been there"
    assert reached([2, 32, 60], [0, 20, 40], [3, 33]) == [2, 32, 60], "ways of 2, 12 and 20 ms"


def test_each_sender_has_a_clock_of_its_own() -> None:
    assert reached([2, 32, 62], [0, 7010, 7030], [32, 62], [0, 1, 1]) == [2, 32, 52]


def test_nothing_is_there_before_the_operator_is() -> None:
    assert reached([1000, 1001, 1500], [0, 1, 1499], [1000, 1001, 1499.5], opened_ms=990) == [990, 990, 1500]


def test_nothing_comes_of_nothing() -> None:
    assert reached([], []) == []


@pytest.fixture
def overloaded(tmp_path: Path) -> Path:
    """A hundred a second, which reach a task of 30 ms in 2 ms: the last one waits for 2 s."""
    head = Head("r", 1, "op", "Compute", ["in"], ["out"], "compute", {"parameters": {"cam": "cam"}}, "here", 1,
                WALL_MS, True)  # fmt: skip
    records: list[object] = []
    for number in range(100):
        sent_ms, start_ms = 10 * number, 2 + 30 * number
        example_id, captured_ms = b"%016d" % number, WALL_MS + sent_ms
        came = arrived(number, start_ms, example_id, captured_ms, source="cam", publish_ms=captured_ms, payload=b"x")
        records += [came, served(number, start_ms / 1000, (start_ms + 30) / 1000, b"o%015d" % number, 1)]
    (tmp_path / "op.compute").write_bytes(pack_head(head) + pack_block(WALL_MS, 0.0, records))
    return tmp_path


def test_the_log_of_an_operator_that_fell_behind_says_how_a_faster_one_would_have_done(overloaded: Path) -> None:
    assert replay.load(overloaded).predictions["age_ms"].max() == pytest.approx(2012)
    assert replay.run(overloaded, task_ms=5).predictions["age_ms"].tolist() == pytest.approx([7] * 100)
    assert replay.grid(overloaded, {"min_interval_ms": [0]}, task_ms=5).table["timeliness_p99_ms"][0] < 8
    assert replay.suggest(overloaded, task_ms=5, timeliness_ms=10).is_met


def test_waiting_for_a_busy_operator_is_not_the_way_to_it(overloaded: Path) -> None:
    examples = replay.load(overloaded).examples
    assert (examples["reached_ms"] - examples["publish_ms"]).tolist() == pytest.approx([2] * 100)
    assert (examples["received_ms"] - examples["reached_ms"]).max() == pytest.approx(20 * 99)


def test_a_slow_task_is_told_from_a_slow_way(tmp_path: Path) -> None:
    broker, never = memory_broker(), threading.Event()
    log_path = tmp_path / "logs"
    run(
        DataSource([b"x"] * 40, broker, "cam", topic="in", log_path=log_path, packing=False),
        Compute(lambda cam: never.wait(0.02) or cam, broker, "op", topic_in="in", topic_out="out", log_path=log_path,
                idle_timeout_ms=1000),
        Materialize(len, broker, sink_id="sink", topic="out", log_path=log_path, idle_timeout_ms=1500),
    )  # fmt: skip
    end_memory_broker(broker)
    last = replay.load(log_path).predictions.iloc[-1]
    assert last["compute_ms"] + last["queueing_ms"] > 0.9 * last["timeliness_ms"] > 700
