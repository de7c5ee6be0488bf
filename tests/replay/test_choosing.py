"""Knobs as one has them while choosing, from arrays and tables; and what is told of a run that was made again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeserve import Model, replay
from edgeserve._log.reading import Block, LoggedRun
from edgeserve.replay._history import History
from edgeserve.testing import ManualClock, end_memory_broker, memory_broker
from tests.replay.recorded import START_MS, Captured, random_compute


def test_knobs_may_be_numbers_from_an_array_or_a_table_and_are_told_afterwards(tmp_path: Path) -> None:
    random_compute(tmp_path, 0, max_time_diff_ms=50)
    grid = replay.grid(tmp_path, {"max_time_diff_ms": list(np.arange(0, 60, 20)), "min_interval_ms": [0, 7.5]})
    best = grid.table.loc[grid.table["coverage"].idxmax()]
    knobs = {"max_time_diff_ms": grid.table["max_time_diff_ms"].max(), "min_interval_ms": best["min_interval_ms"]}
    assert isinstance(knobs["max_time_diff_ms"], np.int64)
    again = replay.run(tmp_path, **knobs)
    assert again.runs[0].knobs == {**replay.load(tmp_path).runs[0].knobs, **knobs}
    assert type(again.runs[0].knobs["max_time_diff_ms"]) is int
    same = replay.run(tmp_path, max_time_diff_ms=40, min_interval_ms=float(best["min_interval_ms"]))
    assert list(again.predictions["output_id"]) == list(same.predictions["output_id"])


def test_what_asks_the_next_model_of_a_cascade_is_no_prediction_in_the_figures(tmp_path: Path) -> None:
    broker, clock = memory_broker(), ManualClock(START_MS)
    source = Captured(broker, "data", "src", clock, flow_id=lambda item: item[0])

    def task(data: bytes) -> tuple[bool, bytes]:
        is_sure = int(data) % 4 == 0
        clock.advance(5 if is_sure else 200)
        return is_sure, data

    model = Model(
        task, broker, "data", "out", topic_out_signal="asks", model_id="cheap", log_path=tmp_path, log_verbose=True,
        clock=clock, idle_timeout_ms=30,
    )  # fmt: skip
    for number in range(12):
        clock.advance(1000)
        source.send(b"%d" % number, clock.now().wall_ms)
        next(model)
    assert (model.stats.sent, model.stats.escalated) == (12, 9)
    source.close()
    model.close()
    end_memory_broker(broker)
    log = replay.load(tmp_path)
    assert log.predictions["is_escalated"].tolist() == [number % 4 != 0 for number in range(12)]
    (row,) = log.summary().to_dict("records")
    assert (row["runs"], row["sent"], row["escalated"], row["age_p99_ms"]) == (12, 12, 9, 5)
    (figures,) = replay.grid(log, {"max_time_diff_ms": [50]}).table.to_dict("records")
    assert (figures["predictions"], figures["coverage"], figures["timeliness_p99_ms"]) == (3, 1, 5)
    assert figures["rate_per_s"] == pytest.approx(2 / (8 + 2 * 0.005 + 6 * 0.2), rel=0.02)
    scored: dict[str, Any] = {"task": lambda data: (int(data) % 4 == 0, data), "task_ms": 1}
    right = replay.grid(log, {"max_time_diff_ms": [50]}, is_right=lambda answer, data: int(answer) % 4 == 0, **scored)
    assert right.table["accuracy"].tolist() == [1]


@dataclass(frozen=True)
class Read(LoggedRun):
    """A log whose blocks were written when the clocks showed this, on the wall and steady."""

    clocks: tuple[tuple[int, float], ...] = ()

    def blocks(self) -> Iterator[Block]:
        for wall_ms, steady_ms in self.clocks:
            yield Block(wall_ms, steady_ms, [])


@pytest.mark.parametrize(
    ("clocks", "offset_ms"),
    [
        # The wall clock is read rounded down, and so the largest difference is the nearest to the truth.
        (((1000, 0.75), (1100, 100.25), (1200, 200.5)), 999.75),
        (((1000, 0.75), (9100, 100.25), (9200, 200.0)), 999.25),
    ],
    ids=["rounded", "set"],
)
def test_a_run_made_again_has_the_clock_of_the_recorded_one(
    tmp_path: Path, clocks: tuple[tuple[int, float], ...], offset_ms: float
) -> None:
    run = random_compute(tmp_path, 0, max_time_diff_ms=50)
    assert History.of(Read(**vars(run), clocks=clocks)).wall_offset_ms == offset_ms
