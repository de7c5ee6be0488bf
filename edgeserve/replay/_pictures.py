"""Pictures of a log: what met in which prediction, how late predictions were, and what was dropped when.

They draw on the axes that are given, or on those of a new figure of `matplotlib.pyplot`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._core.step import Fate
from edgeserve._extras import require
from edgeserve.replay._arrays import numbers
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._ids import IdIndex
from edgeserve.replay._tables import BACK

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

HELD = "held"
"""What stands for the fate of what has none yet."""

# Colours that colour-blind people tell apart (those of Okabe and Ito, then of Tol), and shapes besides.
_LOOKS: Mapping[str, tuple[str, str]] = {
    Fate.USED.value: ("#0072B2", "o"),
    Fate.SUPERSEDED.value: ("#E69F00", "v"),
    Fate.EXPIRED.value: ("#D55E00", "X"),
    Fate.TOO_OLD.value: ("#56B4E9", "s"),
    Fate.OUT_OF_ORDER.value: ("#CC79A7", "D"),
    Fate.GATED.value: ("#44AA99", "^"),
    Fate.FAILED.value: ("#332288", "P"),
    Fate.EVICTED.value: ("#F0E442", "p"),
    Fate.NOT_ASKED.value: ("#999933", "<"),
    Fate.DUPLICATE.value: ("#661100", ">"),
    Fate.MALFORMED.value: ("#882255", "*"),
    Fate.UNKNOWN_SOURCE.value: ("#117733", "h"),
    BACK: ("#888888", "H"),
    HELD: ("#BBBBBB", "8"),
}
_PREDICTION = ("#009E73", "d")

# A window is to have so many predictions, or fewer, if there were more examples than can be told apart.
_PREDICTIONS = (30, 10, 3)
_EXAMPLES = 300

# On a logarithmic axis, what is shorter is nothing: captures are told in whole ms.
_NOTHING_MS = 0.1
_BINS = 60


class Window(NamedTuple):
    """What a picture shows, from and to ms since the epoch."""

    start_ms: float
    end_ms: float


def draw_timeline(
    operator: str,
    examples: pd.DataFrame,
    made: pd.DataFrame,
    lanes: Sequence[str],
    start_ms: float | None,
    duration_ms: float | None,
    ax: Axes | None,
    *,
    is_sink: bool,
) -> Axes:
    """Draw when examples were captured, what became of them, and which of them met.

    Args:
        operator: Whose examples.
        examples: `example_id`, `source`, `capture_ms` and `fate` of each.
        made: `finished_ms` and `input_ids` of each prediction.
        lanes: The sources, from the top.
        start_ms: Where the window begins; None: where what the first prediction was made from was captured.
        duration_ms: How long it is; None: so long that what is in it can be told apart.
        ax: Where to draw.
        is_sink: Whether the predictions are those of others, which it used.
    """
    drawn = ax if ax is not None else new_axes("ReplayLog.plot_timeline", (10, max(3.6, 1.8 + 0.55 * len(lanes))))
    if not len(examples):
        return say_nothing(drawn, f"{operator} received no examples")
    np = require("numpy", "replay", PURPOSE)
    captures_ms, finished_ms = numbers(examples["capture_ms"]), numbers(made["finished_ms"])
    inputs = _inputs(examples, made)
    window = _window(np, captures_ms, finished_ms, inputs, start_ms, duration_ms)
    shown = (captures_ms >= window.start_ms) & (captures_ms <= window.end_ms)
    done = np.flatnonzero((finished_ms >= window.start_ms) & (finished_ms <= window.end_ms))
    heights = {source: len(lanes) - 1 - place for place, source in enumerate(lanes)}
    height = examples["source"].map(heights).to_numpy(dtype=float)
    if not shown.any() and not len(done):
        say_nothing(drawn, "nothing was captured or finished in this window")
    size = 6 if shown.sum() <= 120 else 4
    seconds = (captures_ms - window.start_ms) / 1000
    fates = examples["fate"].fillna(HELD).to_numpy(dtype=object)
    # Also those that leave the window: what was used later is not to look as if it met nothing.
    linked = shown[inputs.example] | np.isin(inputs.prediction, done)
    inputs = _Links(inputs.prediction[linked], inputs.example[linked])
    _draw_links(drawn, (finished_ms - window.start_ms) / 1000, inputs, seconds, height, len(lanes))
    for fate in [fate for fate in _LOOKS if (shown & (fates == fate)).any()]:
        of_fate = shown & (fates == fate)
        _draw_marks(drawn, seconds[of_fate], height[of_fate], _LOOKS[fate], size, fate)
    noun = "use" if is_sink else "prediction"
    if len(done):
        tops = np.full(len(done), float(len(lanes)))
        _draw_marks(drawn, (finished_ms[done] - window.start_ms) / 1000, tops, _PREDICTION, size + 1, noun)
    span_s = (window.end_ms - window.start_ms) / 1000
    drawn.set_xlim(-0.02 * span_s, 1.02 * span_s)
    drawn.set_ylim(-0.6, len(lanes) + 0.6)
    drawn.set_yticks(range(len(lanes) + 1), [*[plain(source) for source in reversed(lanes)], f"{noun}s"])
    drawn.set_xlabel(f"seconds after {_moment(window.start_ms)}")
    drawn.set_title(f"{plain(operator)}: {_said(finished_ms, done, noun)}")
    drawn.grid(axis="x", alpha=0.3)
    legend_below(drawn, columns=5)
    return drawn


def draw_latencies(parts: Mapping[str, pd.Series | NDArray[np.float64]], title: str, ax: Axes | None) -> Axes:
    """Draw which share of the predictions took no longer than so long, in all and for each part.

    Args:
        parts: ms by what they are; the first is what is looked at, the others are shown thinner.
        title: Of what, and until when.
        ax: Where to draw.
    """
    drawn = ax if ax is not None else new_axes("ReplayLog.plot_latencies", None)
    np = require("numpy", "replay", PURPOSE)
    known = {name: values[~np.isnan(values)] for name, values in parts.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return say_nothing(drawn, "no prediction was made")
    longest_ms = max(float(values.max()) for values in known.values())
    right_ms = max(longest_ms, 10 * _NOTHING_MS) * 1.3
    for place, (name, values) in enumerate(known.items()):
        p50, p99 = (float(np.quantile(values, share)) for share in (0.5, 0.99))
        # Not a point for each prediction, as there may be millions; 50 % and 99 % are among these.
        shares = np.linspace(0, 1, 501)
        times_ms = np.maximum([*np.quantile(values, shares), right_ms], _NOTHING_MS)
        drawn.plot(
            times_ms,
            [*(100 * shares), 100],
            color=f"C{place}",
            linewidth=2.2 if place == 0 else 1.3,
            linestyle=_DASHES[place % len(_DASHES)],
            label=f"{plain(name)}: p50 {figure(p50)} ms, p99 {figure(p99)} ms",
        )
        drawn.plot(np.maximum([p50, p99], _NOTHING_MS), [50, 99], "o", color=f"C{place}", markersize=5)
    shortest_ms = min(float(values.min()) for values in known.values())
    _scale_log(drawn, max(_NOTHING_MS, shortest_ms / 2), right_ms)
    drawn.set_ylim(0, 102)
    drawn.set_yticks([0, 25, 50, 75, 99])
    drawn.set_xlabel("time (ms)")
    drawn.set_ylabel("predictions that took no longer (%)")
    drawn.set_title(plain(title))
    drawn.grid(alpha=0.3)
    legend_below(drawn, columns=1 if len(known) < 3 else 2)
    return drawn


def _scale_log(ax: Axes, left_ms: float, right_ms: float) -> None:
    """A logarithmic axis of ms, with numbers on it however short it is: 1, 2, 5 and so on, or whole powers."""
    ticker = require("matplotlib.ticker", "plots", PURPOSE)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if right_ms < 1000 * left_ms else (1.0,)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(_tick))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.set_xlim(left_ms, right_ms)


_DASHES = ("-", "--", "-.", ":")


def draw_drops(operator: str, examples: pd.DataFrame, ax: Axes | None) -> Axes:
    """Draw how many examples were dropped a second, by fate, and how many were received.

    Args:
        operator: Whose examples.
        examples: `received_ms`, `settled_ms` and `fate` of each.
        ax: Where to draw.
    """
    drawn = ax if ax is not None else new_axes("ReplayLog.plot_drops", None)
    if not len(examples):
        return say_nothing(drawn, f"{operator} received no examples")
    np = require("numpy", "replay", PURPOSE)
    received_ms, settled_ms = numbers(examples["received_ms"]), numbers(examples["settled_ms"])
    fates = examples["fate"].fillna(HELD).to_numpy(dtype=object)
    dropped = ~np.isin(fates, [Fate.USED.value, HELD, BACK])
    first_ms = received_ms.min()
    span_s = max((max(received_ms.max(), *settled_ms[dropped], first_ms) - first_ms) / 1000, 0.001)
    edges = np.linspace(0, span_s, min(_BINS, max(1, len(examples) // 10)) + 1)
    width_s = edges[1]

    def rate(times_ms: Any) -> Any:
        return np.histogram((times_ms - first_ms) / 1000, edges)[0] / width_s

    below = np.zeros(len(edges) - 1)
    for fate in [fate for fate in _LOOKS if (dropped & (fates == fate)).any()]:
        rates = rate(settled_ms[dropped & (fates == fate)])
        count = int((dropped & (fates == fate)).sum())
        drawn.bar(edges[:-1], rates, width_s, below, align="edge", color=_LOOKS[fate][0], label=f"{fate} ({count:,})")
        below += rates
    drawn.stairs(rate(received_ms), edges, color="0.35", linewidth=1.3, label=f"received ({len(examples):,})")
    drawn.set_xlim(0, span_s)
    drawn.set_ylim(bottom=0)
    drawn.set_xlabel(f"seconds after {_moment(first_ms)}")
    drawn.set_ylabel(f"examples per second, in bins of {figure(width_s)} s")
    drawn.set_title(f"{plain(operator)}: {_share_said(int(dropped.sum()), len(examples))}")
    drawn.grid(alpha=0.3)
    drawn.set_axisbelow(True)
    legend_below(drawn, columns=3)
    return drawn


def legend_below(ax: Axes, columns: int) -> None:
    """Name what is drawn, below the axes, where nothing is in its way, however high they are."""
    if ax.get_legend_handles_labels()[0]:
        transforms = require("matplotlib.transforms", "plots", PURPOSE)
        below_label = transforms.ScaledTranslation(0, -38 / 72, ax.figure.dpi_scale_trans)
        ax.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=ax.transAxes + below_label,
            ncols=columns,
            fontsize="small",
            frameon=False,
            borderaxespad=0,
        )


def say_nothing(ax: Axes, why: str) -> Axes:
    """Say why there is nothing to see."""
    ax.text(0.5, 0.5, plain(why), transform=ax.transAxes, ha="center", va="center", color="0.45")
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def new_axes(caller: str, size_inches: tuple[float, float] | None) -> Axes:
    """Those of a new figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    pyplot = require("matplotlib.pyplot", "plots", caller)
    axes: Axes = pyplot.subplots(layout="constrained", figsize=size_inches)[1]
    return axes


def plain(text: str) -> str:
    """Text from elsewhere as it can be drawn: one line, in which a dollar sign begins no formula."""
    line = (text if text.isprintable() else ascii(text)[1:-1]).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line  # a legend leaves out what begins so


def figure(number: float) -> str:
    """A number to three digits, without an exponent."""
    if math.isnan(number):
        return "-"
    digits = f"{number:.3g}"
    return digits if "e" not in digits else f"{float(digits):,.0f}" if abs(number) >= 1 else f"{number:.5f}"


# The parts of a time line.


class _Links(NamedTuple):
    """Which example went into which prediction: rows of both, prediction by prediction."""

    prediction: NDArray[np.int64]
    example: NDArray[np.int64]


def _inputs(examples: pd.DataFrame, made: pd.DataFrame) -> _Links:
    exploded = made["input_ids"].reset_index(drop=True).explode().dropna()
    # What was delivered twice is shown where it was first.
    found = IdIndex(examples["example_id"]).find(exploded)
    known = found >= 0
    return _Links(exploded.index.to_numpy()[known], found[known])


def _window(
    np: Any,
    captures_ms: NDArray[np.float64],
    finished_ms: NDArray[np.float64],
    inputs: _Links,
    start_ms: float | None,
    duration_ms: float | None,
) -> Window:
    if start_ms is None:
        first = inputs.example[inputs.prediction == np.argmin(finished_ms)] if len(finished_ms) else ()
        start_ms = float(captures_ms[first].min() if len(first) else captures_ms.min())
    if duration_ms is not None:
        return Window(start_ms, start_ms + duration_ms)
    later_ms = np.sort(finished_ms[finished_ms >= start_ms])
    captured_ms = np.sort(captures_ms[captures_ms >= start_ms])
    if len(later_ms) <= _PREDICTIONS[0] and len(captured_ms) <= _EXAMPLES:
        return Window(start_ms, max([start_ms + 1, *later_ms[-1:], *captured_ms[-1:]]))
    if not len(later_ms):
        return Window(start_ms, float(captured_ms[_EXAMPLES - 1]))
    for count in _PREDICTIONS:
        end_ms = float(later_ms[:count][-1])
        if np.searchsorted(captured_ms, end_ms) <= _EXAMPLES:
            break
    return Window(start_ms, max(end_ms, start_ms + 1))


def _draw_links(
    ax: Axes,
    finished_s: NDArray[np.float64],
    inputs: _Links,
    captured_s: NDArray[np.float64],
    height: NDArray[np.float64],
    top: int,
) -> None:
    """Lines from each prediction to what it was made from."""
    np = require("numpy", "replay", PURPOSE)
    ends = [finished_s[inputs.prediction], np.full(len(inputs.prediction), float(top))]
    starts = [captured_s[inputs.example], height[inputs.example]]
    segments = np.stack([np.column_stack(ends), np.column_stack(starts)], axis=1)
    collections = require("matplotlib.collections", "plots", PURPOSE)
    ax.add_collection(
        collections.LineCollection(
            segments, colors="0.6", linewidths=0.8 if len(segments) <= _EXAMPLES else 0.4, zorder=1
        ),
        autolim=False,
    )


def _draw_marks(
    ax: Axes, xs: NDArray[np.float64], ys: NDArray[np.float64], look: tuple[str, str], size: float, label: str
) -> None:
    color, shape = look
    ax.plot(xs, ys, shape, color=color, markersize=size, markeredgecolor="white", markeredgewidth=0.4, label=label)


def _said(finished_ms: NDArray[np.float64], done: NDArray[np.int64], noun: str) -> str:
    """Which of the predictions are shown."""
    count, total = len(done), len(finished_ms)
    if count == total:
        return f"no {noun}s" if not total else f"all {total:,} {noun}s" if total > 1 else f"one {noun}"
    is_first = count > 0 and not (finished_ms < finished_ms[done].min()).any()
    return f"{'the first ' if is_first else ''}{count:,} of {total:,} {noun}s"


# Words.


def _share_said(dropped: int, received: int) -> str:
    return f"{dropped:,} of {received:,} examples dropped ({figure(100 * dropped / received)} %)"


def _moment(wall_ms: float) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(wall_ms / 1000, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):  # a capture time may be any number
        return f"{wall_ms:.0f} ms"
    return f"{moment.isoformat(sep=' ', timespec='milliseconds').removesuffix('+00:00')} UTC"


def _tick(value_ms: float, _place: int) -> str:
    return f"≤ {_NOTHING_MS:g}" if value_ms <= 1.001 * _NOTHING_MS else f"{value_ms:,g}"
