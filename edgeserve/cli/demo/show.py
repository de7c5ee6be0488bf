"""How the demo looks: live on a terminal while it runs, then as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgeserve._core.step import Fate
from edgeserve.cli.demo.pipeline import Pipeline
from edgeserve.cli.demo.recordings import Window
from edgeserve.cli.demo.replay import Replay
from edgeserve.cli.demo.report import Report
from edgeserve.cli.demo.score import Score, Tally

ONE_SENSOR = "accelerometer alone"
TWO_SENSORS = "both sensors"
_LATEST_WINDOWS = 6
_MEANINGS = {
    Fate.GATED: "lost on purpose, by --gyro-loss",
    Fate.EXPIRED: "the other sensor had no window of that moment",
}


@contextmanager
def live_progress(console: Console, pipeline: Pipeline, replay: Replay) -> Iterator[None]:
    """Show the running numbers until the block ends; nothing where the console is no terminal."""
    if not console.is_terminal:
        yield
        return

    def picture() -> RenderableType:
        return running_picture(pipeline, replay)

    with Live(get_renderable=picture, console=console, refresh_per_second=8, transient=True):
        yield


def running_picture(pipeline: Pipeline, replay: Replay) -> RenderableType:
    """The progress of the replay, both models' numbers, and what they said of the latest windows."""
    position_s = min(replay.position_ms(), replay.duration_ms) / 1000
    duration_s = replay.duration_ms / 1000
    progress = Table.grid(padding=(0, 1))
    progress.add_row(
        ProgressBar(total=duration_s, completed=position_s, width=40), f"{position_s:.0f} of {duration_s:.0f} s"
    )
    sent = {name: stats.sent for name, stats in pipeline.stats().items()}
    tallies = pipeline.one_sensor.tally(), pipeline.two_sensors.tally()
    numbers = _model_table(
        ("windows sent", f"{sent['accel']}", f"{sent['accel']} + {sent['gyro']}"), *_tally_rows(tallies)
    )
    return Group(progress, numbers, _latest_windows(pipeline, replay.windows))


def result_tables(report: Report) -> RenderableType:
    """The final numbers, and every drop with its reason."""
    sent = {name: stats.sent for name, stats in report.operators.items()}
    numbers = _model_table(
        ("windows sent", f"{sent['accel']}", f"{sent['accel']} + {sent['gyro']}"),
        *_tally_rows((report.one_sensor, report.two_sensors)),
        ("joined across moments", "-", f"{report.two_sensors.misjoined}"),
    )
    return Group(
        numbers,
        "Latency: from when a window was complete, as replayed, to its score.\n",
        _drops_table(report),
    )


def _drops_table(report: Report) -> RenderableType:
    drops = list(report.drops())
    if not drops:
        received = sum(stats.received for stats in report.operators.values())
        return f"Nothing was dropped: the {len(report.operators)} operators used all {received:,} inputs."
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("dropped by")
    table.add_column("reason")
    table.add_column("inputs", justify="right")
    for drop in drops:
        table.add_row(drop.operator, _reason(drop.fate), f"{drop.inputs:,}")
    return table


def _reason(fate: Fate | None) -> str:
    if fate is None:
        return "it still waited when the stream had ended"
    return f"{fate.value}: {_MEANINGS[fate]}" if fate in _MEANINGS else str(fate.value)


def _model_table(*rows: tuple[str, str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column(ONE_SENSOR, justify="right")
    table.add_column(TWO_SENSORS, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _tally_rows(tallies: tuple[Tally, Tally]) -> Iterator[tuple[str, str, str]]:
    def row(name: str, cell: Callable[[Tally], str]) -> tuple[str, str, str]:
        return name, cell(tallies[0]), cell(tallies[1])

    yield row("windows served", lambda tally: f"{tally.served}")
    yield row("predicted right", lambda tally: f"{tally.right}")
    yield row("accuracy", lambda tally: _number(tally.accuracy, 3))
    yield row("latency p50, ms", lambda tally: _number(tally.latency_p50_ms, 1))
    yield row("latency p99, ms", lambda tally: _number(tally.latency_p99_ms, 1))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _latest_windows(pipeline: Pipeline, windows: Sequence[Window]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("person", "exercise", ONE_SENSOR, TWO_SENSORS):
        table.add_column(heading)
    answered = [window for window in windows if pipeline.one_sensor.told(window) is not None]
    latest = answered[-_LATEST_WINDOWS:]
    for window in latest:
        scores = (pipeline.one_sensor, pipeline.two_sensors)
        table.add_row(str(window.person), window.exercise, *(_told(score, window) for score in scores))
    for _ in range(_LATEST_WINDOWS - len(latest)):
        table.add_row()
    return table


def _told(score: Score, window: Window) -> Text:
    told = score.told(window)
    if told is None:
        return Text("")
    return Text(told, style="green" if told == window.exercise else "red")
