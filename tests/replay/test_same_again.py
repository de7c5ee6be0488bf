"""A log that is run again with the same knobs gives the same decisions, record for record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeserve import BatchModel, Model
from edgeserve._log.reading import LoggedRun
from edgeserve._log.records import Asked, Decided, GivenUp, Ran, Record, Settled
from edgeserve.replay._history import History
from edgeserve.replay._moments import replay_moments
from tests.replay.recorded import random_batches, random_compute, random_flows

SEEDS = range(3)


def decisions(records: Sequence[Record]) -> list[Record]:
    return [each for each in records if isinstance(each, (Settled, Decided, Asked, GivenUp))]


def made(records: Sequence[Record]) -> list[Any]:
    """What was made of what, and when, to a nanosecond."""
    return [
        (each.arrival, round(each.start_steady_ms, 6), round(each.finish_steady_ms, 6), each.error, each.outputs[0][:1])
        for each in records
        if isinstance(each, Ran) and each.error is None
    ]


def assert_the_same_again(run: LoggedRun) -> None:
    history = History.of(run)
    again = replay_moments(history, history.plan, None)
    assert decisions(again) == decisions(history.records)
    assert made(again) == made(history.records)
    assert sum(isinstance(each, Decided) and each.job is not None for each in again) > 3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "options",
    [
        {"max_time_diff_ms": 50},
        {"max_time_diff_ms": 100, "no_overlap": True, "min_interval_ms": 9},
        {"max_time_diff_ms": 90, "drop_if_older_than_ms": 60, "on_error": "skip"},
        {"max_time_diff_ms": 60, "join": "nearest", "max_wait_ms": 25},
        {"max_time_diff_ms": 60, "join": "nearest", "no_overlap": True, "max_waiting": 8, "max_wait_ms": 90},
    ],
    ids=["latest", "latest, rate-limited", "latest, aged, errors skipped", "nearest", "nearest, bounded"],
)
def test_a_compute_decides_the_same_again(tmp_path: Path, seed: int, options: dict[str, Any]) -> None:
    assert_the_same_again(random_compute(tmp_path, seed, **options))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Model, {}),
        (Model, {"min_interval_ms": 8, "max_waiting_flows": 10}),
        (BatchModel, {"batch_max_num_msg": 5, "batch_timeout_ms": 12}),
    ],
    ids=["model", "model, bounded", "batches"],
)
def test_a_model_decides_the_same_again(tmp_path: Path, seed: int, make: Any, options: dict[str, Any]) -> None:
    assert_the_same_again(random_flows(tmp_path, seed, make, **options))


@pytest.mark.parametrize("seed", SEEDS)
def test_batches_are_the_same_again(tmp_path: Path, seed: int) -> None:
    options = {"batch_max_num_msg": 7, "batch_timeout_ms": 20, "max_time_diff_ms": 100}
    assert_the_same_again(random_batches(tmp_path, seed, **options))
