"""The picture of a grid: a column of its table over one knob or two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeserve._extras import require
from edgeserve.errors import UsageError
from edgeserve.replay._arrays import numbers
from edgeserve.replay._columns import PURPOSE
from edgeserve.replay._pictures import figure, new_axes, plain

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_LABELS = {
    "predictions": "predictions",
    "rate_per_s": "predictions per second",
    "coverage": "coverage (%)",
    "dropped": "dropped examples",
    "accuracy": "accuracy (%)",
}
_SHARES = frozenset({"coverage", "accuracy"})

# Beyond this a cell has no room for its number.
_MOST_ACROSS, _MOST_DOWN = 12, 20


def draw_grid(table: pd.DataFrame, knobs: Mapping[str, Sequence[Any]], column: str, ax: Axes | None) -> Axes:
    """Draw it; see `Grid.plot`."""
    columns = [name for name in table.columns if name not in knobs]
    if column not in columns:
        raise UsageError(f"the grid has no column {column!r}: expected one of {', '.join(columns)}")
    # One after the other in ascending order, whatever the order in which they were tried; and each once.
    values = {name: _in_order(each) for name, each in knobs.items()}
    varied = [name for name in knobs if len(values[name]) > 1] or list(knobs)[:1]
    if len(varied) > 2:
        raise UsageError(
            f"a picture has room for two knobs, and {len(varied)} were varied ({', '.join(varied)}): try one value "
            "each of all but two, or draw parts of .table"
        )
    drawn = ax if ax is not None else new_axes("Grid.plot", None)
    label = _label(column)
    if len(varied) == 1:
        _draw_line(drawn, table, varied[0], values[varied[0]], column)
        drawn.set_ylabel(label)
    else:
        _draw_cells(drawn, table, (varied[0], varied[1]), values, column)
    drawn.set_xlabel(varied[0])
    if fixed := [f"{name} = {_value(values[name][0])}" for name in knobs if name not in varied]:
        drawn.set_title(", ".join(fixed))
    return drawn


def _draw_line(ax: Axes, table: pd.DataFrame, knob: str, values: Sequence[Any], column: str) -> None:
    heights = _cells(table, column, {knob: values})
    is_scale = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in values)
    xs = list(values) if is_scale else list(range(len(values)))
    ax.plot(xs, heights, "o-" if is_scale else "o", color="C0")
    if not is_scale:  # there is nothing between them for a line to show
        ax.set_xticks(xs, [_value(each) for each in values])
        ax.set_xlim(-0.5, len(values) - 0.5)
    ax.grid(alpha=0.3)


def _draw_cells(
    ax: Axes, table: pd.DataFrame, across_down: tuple[str, str], values: Mapping[str, Sequence[Any]], column: str
) -> None:
    across, down = across_down
    np = require("numpy", "replay", PURPOSE)
    cells = _cells(table, column, {down: values[down], across: values[across]})
    image = ax.imshow(np.ma.masked_invalid(cells), cmap="viridis", aspect="auto", origin="lower")
    ax.set_xticks(range(len(values[across])), [_value(each) for each in values[across]])
    ax.set_yticks(range(len(values[down])), [_value(each) for each in values[down]])
    ax.set_ylabel(down)
    ax.figure.colorbar(image, ax=ax, label=_label(column))
    if len(values[across]) > _MOST_ACROSS or len(values[down]) > _MOST_DOWN:
        return
    size = 10 if len(values[across]) <= 6 else 8 if len(values[across]) <= 9 else 6.5
    for (row, place), cell in np.ndenumerate(cells):
        # Dark cells have a white number, bright ones and those that are empty a black one.
        brightness: Any = image.norm(cell)
        is_dark = not math.isnan(cell) and brightness < 0.6
        ax.text(place, row, figure(float(cell)), ha="center", va="center", fontsize=size, color="w" if is_dark else "k")


def _cells(table: pd.DataFrame, column: str, axes: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
    """The column, in as many dimensions as there are knobs; NaN where it has nothing."""
    cells: NDArray[np.float64] = require("numpy", "replay", PURPOSE).full(
        [len(values) for values in axes.values()], math.nan
    )
    places = [[list(values).index(value) for value in table[name]] for name, values in axes.items()]
    cells[tuple(places)] = numbers(table[column]) * (100 if column in _SHARES else 1)
    return cells


def _in_order(values: Sequence[Any]) -> list[Any]:
    try:
        return sorted(set(values))
    except TypeError:  # names and numbers, or None among them
        return [each for place, each in enumerate(values) if each not in values[:place]]


def _label(column: str) -> str:
    """The column with its unit."""
    name, _, percentile = column.removesuffix("_ms").partition("_")
    if percentile.startswith("p") and column.endswith("_ms"):
        return f"{name}, {percentile} (ms)"
    return _LABELS.get(column, column)


def _value(value: Any) -> str:
    return plain(f"{value:g}" if isinstance(value, float) else str(value))
