from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from edgeserve import replay
from edgeserve.errors import MissingExtra, UsageError
from edgeserve.replay import ClockPair, Grid, ReplayLog
from tests.replay.recorded import random_batches
from tests.replay.streams import log_pipeline

COUNT = 12


@pytest.fixture
def pyplot() -> Iterator[Any]:
    """Draws into memory, whatever the machine has."""
    mpl.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> ReplayLog:
    path = tmp_path_factory.mktemp("logs")
    log_pipeline(path, COUNT)
    return replay.load(path)


def marks(ax: Any) -> dict[str, int]:
    """How many marks there are, by what the legend calls them."""
    return {line.get_label(): len(line.get_xdata()) for line in ax.get_lines()}


def said(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


# The time line.


def test_the_timeline_has_a_lane_a_source_and_a_line_from_each_prediction_to_each_input(
    pyplot: Any, log: ReplayLog
) -> None:
    ax = log.plot_timeline()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["right", "left", "predictions"]
    assert marks(ax) == {"used": 2 * COUNT, "expired": 1, "prediction": COUNT}
    (links,) = ax.collections
    segments = links.get_segments()
    assert len(segments) == 2 * COUNT
    finished_s = ax.get_lines()[-1].get_xdata()
    assert {(x, y) for (x, y), _ in segments} == {(x, 2) for x in finished_s}
    assert sorted(y for _, (_, y) in segments) == [0] * COUNT + [1] * COUNT
    assert ax.get_title() == f"joined: all {COUNT} predictions"
    assert ax.get_xlabel() == "seconds after 2023-11-14 22:13:20.001 UTC"
    ax.figure.canvas.draw()


def test_a_window_shows_what_is_in_it_and_the_lines_that_leave_it(pyplot: Any, log: ReplayLog) -> None:
    finished_ms = log.predictions["finished_ms"]
    ax = log.plot_timeline(start_ms=finished_ms[2], duration_ms=finished_ms[4] - finished_ms[2])
    received = log.examples[(log.examples["operator"] == "joined") & (log.examples["fate"] == "used")]
    inside = received["capture_ms"].between(finished_ms[2], finished_ms[4]).sum()
    assert marks(ax) == {"used": inside, "prediction": 3}
    assert inside > 0
    (links,) = ax.collections
    assert len(links.get_segments()) == 6, "those of the first prediction begin before the window"
    assert ax.get_title() == f"joined: 3 of {COUNT} predictions"
    old = log.plot_timeline(start_ms=0)
    assert old.get_xlabel() == "seconds after 1970-01-01 00:00:00.000 UTC"


def test_of_many_predictions_the_first_are_shown(pyplot: Any, tmp_path: Path) -> None:
    random_batches(tmp_path, 1, batch_max_num_msg=2)
    log = replay.load(tmp_path)
    assert len(log.predictions) > 30
    ax = log.plot_timeline()
    assert marks(ax)["prediction"] == 30
    assert ax.get_title() == f"batches: the first 30 of {len(log.predictions)} predictions"


def test_the_timeline_of_a_sink_shows_its_uses(pyplot: Any, log: ReplayLog) -> None:
    ax = log.plot_timeline("sink")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["joined", "uses"]
    assert marks(ax) == {"used": COUNT, "use": COUNT}


def test_a_window_with_nothing_in_it_says_so(pyplot: Any, log: ReplayLog) -> None:
    ax = log.plot_timeline(start_ms=1, duration_ms=1000)
    assert said(ax) == ["nothing was captured or finished in this window"]
    ax.figure.canvas.draw()


def test_captures_are_shown_by_the_clock_that_the_predictions_are_told_by(pyplot: Any, tmp_path: Path) -> None:
    log_pipeline(tmp_path, 2)
    log = replay.load(tmp_path)
    finished_s = log.plot_timeline().get_lines()[-1].get_xdata()[0]
    log.clocks = [ClockPair("box", "camera", -5.0, 0.5, 1.0, "box")]
    log.sent["clock_shift_ms"] = 5.0
    assert log.plot_timeline().get_lines()[-1].get_xdata()[0] == pytest.approx(finished_s - 0.005)


# Latencies.


def test_latencies_name_median_and_99th_percentile_as_the_summary_does(pyplot: Any, log: ReplayLog) -> None:
    ax = log.plot_latencies()
    row = log.summary().set_index("operator").loc["joined"]
    p50, p99 = row["timeliness_p50_ms"], row["timeliness_p99_ms"]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [text.partition(":")[0] for text in texts] == ["to the use", "transfer", "queueing", "compute"]
    assert texts[0] == f"to the use: p50 {p50:.3g} ms, p99 {p99:.3g} ms"
    curve, points = ax.get_lines()[:2]
    assert points.get_xydata() == pytest.approx(np.array([[p50, 50], [p99, 99]]))
    for point in points.get_xydata():
        assert np.isclose(curve.get_xydata(), point).all(axis=1).any(), "the marks are on the curve"
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "time (ms)")
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    assert any(
        tick.get_text() and low <= place <= high
        for place, tick in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    )


def test_without_a_sink_latencies_end_with_the_finish(pyplot: Any, tmp_path: Path) -> None:
    log_pipeline(tmp_path, 3)
    for path in tmp_path.glob("*.destination"):
        path.unlink()
    ax = replay.load(tmp_path).plot_latencies()
    assert ax.get_title() == "joined: from the last input's capture to the finish"
    assert len(ax.get_legend().get_texts()) == 1


def test_predictions_of_several_operators_have_a_line_each(pyplot: Any, tmp_path: Path) -> None:
    for name in ("one", "_two"):
        log_pipeline(tmp_path, 3, name)
    log = replay.load(tmp_path)
    texts = [text.get_text() for text in log.plot_latencies().get_legend().get_texts()]
    assert {text.partition(":")[0].strip() for text in texts} == {"one", "_two"}
    with pytest.raises(UsageError, match=r"runs of _two, one, sink: give operator="):
        log.plot_drops()


# Drops.


def test_drops_add_up_to_those_of_the_table(pyplot: Any, log: ReplayLog) -> None:
    ax = log.plot_drops()
    fates = log.drops["fate"].value_counts()
    received = int((log.examples["operator"] == "joined").sum())
    assert fates.to_dict() == {"too old": COUNT, "expired": 1}
    labels = [f"{fate} ({count})" for fate, count in fates.items()]
    assert sorted(ax.get_legend_handles_labels()[1]) == sorted([*labels, f"received ({received})"])
    width_s = ax.patches[0].get_width()
    assert sum(bar.get_height() * width_s for bars in ax.containers for bar in bars) == pytest.approx(COUNT + 1)
    assert (
        ax.get_title() == f"joined: {COUNT + 1} of {received} examples dropped ({100 * (COUNT + 1) / received:.3g} %)"
    )
    assert ax.get_ylabel().startswith("examples per second, in bins of ")


# All of them.


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_latencies", "plot_drops"])
def test_a_picture_of_nothing_says_so(pyplot: Any, tmp_path: Path, plot: str) -> None:
    log_pipeline(tmp_path, 0)
    log = replay.load(tmp_path)
    ax = getattr(log, plot)("sink")
    assert said(ax) == ["no prediction was made" if plot == "plot_latencies" else "sink received no examples"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_latencies", "plot_drops"])
def test_a_picture_is_drawn_on_the_axes_that_are_given(pyplot: Any, log: ReplayLog, plot: str) -> None:
    figure, ax = pyplot.subplots(layout="constrained")
    assert getattr(log, plot)(ax=ax) is ax
    figure.canvas.draw()
    assert pyplot.get_fignums() == [figure.number]


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_latencies", "plot_drops"])
def test_names_are_no_formulas(pyplot: Any, tmp_path: Path, plot: str) -> None:
    log_pipeline(tmp_path, 2, "$\\frac$", ("$a_$", "_b\n$"))
    ax = getattr(replay.load(tmp_path), plot)()
    ax.figure.canvas.draw()
    assert ax.get_title().startswith("\\$\\frac\\$")


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_latencies", "plot_drops"])
def test_pictures_of_an_operator_that_is_not_there(log: ReplayLog, plot: str) -> None:
    with pytest.raises(UsageError, match="no operator 'left' that receives: it has joined, sink"):
        getattr(log, plot)("left")


@pytest.mark.parametrize("plot", ["plot_timeline", "plot_latencies", "plot_drops"])
def test_pictures_without_matplotlib_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, log: ReplayLog, plot: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=rf"{plot} needs .*: pip install 'edgeserve\[plots\]'"):
        getattr(log, plot)()


# The grid.


def grid(**knobs: list[Any]) -> Grid:
    """A made-up grid, whose table is not in order."""
    index = pd.MultiIndex.from_product(list(knobs.values()), names=list(knobs))
    table = index.to_frame(index=False).iloc[::-1].reset_index(drop=True)
    return Grid(table.assign(timeliness_p99_ms=np.arange(len(table)) * 10.0, coverage=0.25), knobs)


def test_a_grid_of_two_knobs_is_a_map_with_a_number_in_each_cell(pyplot: Any) -> None:
    tried = grid(max_time_diff_ms=[20, 5], min_interval_ms=[0, 50, 100])
    tried.table.loc[0, "timeliness_p99_ms"] = np.nan  # 5 and 100
    ax = tried.plot()
    ticks = [[tick.get_text() for tick in axis.get_ticklabels()] for axis in (ax.xaxis, ax.yaxis)]
    assert ticks == [["5", "20"], ["0", "50", "100"]]
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells == {(0, 0): "20", (0, 1): "10", (0, 2): "-", (1, 0): "50", (1, 1): "40", (1, 2): "30"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("max_time_diff_ms", "min_interval_ms")
    assert ax.figure.axes[1].get_ylabel() == "timeliness, p99 (ms)"
    ax.figure.canvas.draw()


def test_a_grid_of_one_knob_is_a_line(pyplot: Any) -> None:
    ax = grid(max_time_diff_ms=[20, 5], join=["nearest"]).plot("coverage")
    (line,) = ax.get_lines()
    assert line.get_xydata().tolist() == [[5, 25], [20, 25]]
    assert (ax.get_ylabel(), ax.get_title()) == ("coverage (%)", "join = nearest")
    (points,) = grid(join=["nearest", "latest"]).plot().get_lines()
    assert points.get_linestyle() == "None", "between names there is nothing"


def test_a_large_grid_has_no_numbers_in_cells_that_have_no_room(pyplot: Any) -> None:
    ax = grid(max_time_diff_ms=list(range(13)), min_interval_ms=[0, 1]).plot()
    assert said(ax) == []


def test_a_grid_of_three_knobs_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"3 were varied \(a, b, c\): try one value each of all but two"):
        grid(a=[1, 2], b=[1, 2], c=[1, 2]).plot()
    with pytest.raises(UsageError, match=r"no column 'lateness': expected one of timeliness_p99_ms, coverage"):
        grid(a=[1, 2]).plot("lateness")


def test_importing_replay_loads_neither_pandas_nor_matplotlib() -> None:
    heavy = ("numpy", "pandas", "pyarrow", "matplotlib")
    code = f"import sys, edgeserve.replay; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
