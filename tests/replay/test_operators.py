"""Which operator is meant: those of one name are told apart, and so are the runs of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, DataSource, Materialize, UsageError, replay
from edgeserve.cli.replay_page import page
from edgeserve.cli.replay_report import Report
from edgeserve.replay import OperatorRun, ReplayLog
from edgeserve.replay._operators import operators_of
from edgeserve.testing import end_memory_broker, memory_broker

SECOND, FIRST = "worker1 (from mid to dst)", "worker1 (from src to mid)"


def record(broker: str, path: Path, count: int) -> None:
    """A chain of two Computes and a sink, which all have their default names."""
    with DataSource(range(count), broker, "cam", str, log_path=path) as source:
        assert len(list(source)) == count
    first = Compute(lambda cam: cam + b"!", broker, topic_out="mid", log_path=path, log_verbose=True)
    second = Compute(lambda worker1: None if b"0" in worker1 else worker1, broker, topic_in="mid", log_path=path)
    sink = Materialize(len, broker, log_path=path)
    with first, second, sink:
        for _ in range(count):
            next(first), next(second)
        for _ in range(count - 1):
            next(sink)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the chain, the second one a session later."""
    path = tmp_path_factory.mktemp("logs")
    broker = memory_broker()
    record(broker, path / "monday", 3)
    record(broker, path / "tuesday", 5)
    end_memory_broker(broker)
    return path


@pytest.fixture(scope="module")
def log(logs: Path) -> ReplayLog:
    return replay.load(logs)


def place_of(log: ReplayLog, topic_in: str, day: str) -> int:
    (place,) = [
        place for place, run in enumerate(log.runs) if topic_in in run.topics_in and run.files[0].parent.name == day
    ]
    return place


def test_operators_of_one_name_are_several_rows_and_runs_of_one_are_one(log: ReplayLog) -> None:
    summary = log.summary().set_index("operator")
    assert summary.index.tolist() == ["cam", FIRST, SECOND, "my-sub"]
    assert summary["received"].tolist() == [0, 8, 8, 6]
    assert summary["sent"].tolist() == [8, 8, 6, 0]
    assert summary["runs"].tolist() == [8, 8, 8, 6]


def test_a_name_says_no_more_than_tells_it_apart(log: ReplayLog) -> None:
    run = log.runs[place_of(log, "src", "monday")]
    others = [replace(run, operator="alone"), replace(run, topics_in=["a", "b"]), replace(run, topics_out=[])]
    assert [each.name for each in operators_of([run, run, *others])] == [
        FIRST, "alone", "worker1 (from a, b to mid)", "worker1 (from src)",
    ]  # fmt: skip
    names = [each.name for each in operators_of([run, replace(run, operator_class="BatchCompute")])]
    assert names == ["worker1 (Compute from src to mid)", "worker1 (BatchCompute from src to mid)"]


def test_a_run_has_its_files(log: ReplayLog, logs: Path) -> None:
    files = [file for run in log.runs for file in run.files]
    assert sorted(files) == sorted(file.resolve() for file in logs.rglob("*.*"))
    assert len({run.id for run in log.runs}) == len(log.runs) == 8
    for run in log.runs:
        (alone,) = replay.load(run.files).runs
        assert alone == run


@pytest.mark.parametrize(("day", "count"), [("monday", 3), ("tuesday", 5)])
def test_one_of_several_runs_is_run_again_and_drawn(log: ReplayLog, logs: Path, day: str, count: int) -> None:
    run = log.runs[place_of(log, "src", day)]
    assert len(replay.run(log, run, task=lambda cam: cam).predictions) == count
    assert replay.run(logs, run).predictions["output_id"].tolist() == [
        each for each, place in zip(log.predictions["output_id"], log.predictions["run"], strict=True)
        if log.runs[place] == run
    ]  # fmt: skip
    assert replay.grid(log, {"min_interval_ms": [0]}, run).table["predictions"].tolist() == [count]
    assert replay.suggest(log, run, timeliness_ms=1e9).is_met
    again = replay.run(log, run)
    assert again.runs[0].files == []
    assert again.logged(run) is again.logged()


def test_pictures_of_an_operator_are_of_all_its_runs_or_of_one(log: ReplayLog) -> None:
    figures = pytest.importorskip("matplotlib.figure")

    def title(draw: Callable[..., Any], which: str | OperatorRun | None) -> str:
        return str(draw(which, ax=figures.Figure().add_subplot()).get_title())

    one = log.runs[place_of(log, "mid", "tuesday")]
    assert "of 8 examples" in title(log.plot_drops, SECOND)
    assert title(log.plot_drops, one).startswith(f"{SECOND} (run of ")
    assert "of 5 examples" in title(log.plot_drops, one)
    assert title(log.plot_timeline, FIRST).startswith(f"{FIRST}: ")
    assert title(log.plot_timeline, one).startswith(f"{SECOND} (run of ")
    assert title(log.plot_latencies, None).startswith(f"{SECOND}: "), "what the first one made was used by no sink"
    assert title(log.plot_latencies, log.runs[place_of(log, "dst", "monday")]).startswith("my-sub (run of ")


def test_which_one_is_meant_has_to_be_said_and_how_is_told(log: ReplayLog) -> None:
    both = f"{SECOND}, {FIRST}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UsageError, match=f"runs of my-sub, {both}: give operator="):
        replay.run(log)
    with pytest.raises(UsageError, match=f"2 operators have the name 'worker1': give operator= one of {both}, or"):
        log.plot_drops("worker1")
    places = [place_of(log, "src", day) for day in ("monday", "tuesday")]
    said = ", ".join(rf"runs\[{place}\] \(20.*Z in {log.runs[place].files[0]}\)" for place in places)
    with pytest.raises(UsageError, match=f"2 runs of .*: give operator= one of those of the loaded log: {said}"):
        replay.run(log, FIRST)
    source = next(run for run in log.runs if not run.topics_in)
    with pytest.raises(UsageError, match=r"'cam' \(20.*Z in .*datasource\) is a source"):
        replay.run(log, source)
    elsewhere = replay.load(log.runs[0].files)
    with pytest.raises(UsageError, match=r"'worker1' .* of another log"):
        replay.run(elsewhere, log.runs[places[0]])


def test_the_report_tells_them_apart_and_takes_the_name_that_they_share(log: ReplayLog) -> None:
    assert [row[0] for row in Report(log, None).sections()[0].rows] == ["cam", FIRST, SECOND, "my-sub"]
    shared, one = Report(log, "worker1"), Report(log, SECOND)
    assert [row[0] for row in shared.sections()[0].rows] == [FIRST, SECOND]
    assert [row[0] for row in one.sections()[0].rows] == [SECOND]
    assert shared.heading().startswith("4 runs, ")
    assert [row["received"] for row in shared.as_json()["operators"]] == [8, 8]
    assert len(one.as_json()["runs"]) == 2
    written = page(shared)
    for name in (FIRST, SECOND):
        assert f'alt="Time line of {name}"' in written
