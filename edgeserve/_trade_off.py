"""The picture of a cascade's trade-off: accuracy over cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Mark(NamedTuple):
    """A point of the picture, as it is to be named.

    Attributes:
        name: What the legend says.
        cost: The mean cost of an example.
        accuracy: The share of right answers, from 0 to 1.
    """

    name: str
    cost: float
    accuracy: float


def draw_trade_off(
    costs: Sequence[float],
    accuracies: Sequence[float],
    chosen: Mark,
    interval: tuple[float, float],
    ax: Axes | None,
) -> Axes:
    """Draw a cascade's curve, its chosen point with the interval of its accuracy, and each model alone.

    Args:
        costs: From escalating nothing to everything, so that the difference is what the dear model costs.
        accuracies: From 0 to 1, one for each cost.
        chosen: The point that was chosen.
        interval: The ends of the bar at the chosen point, accuracies from 0 to 1.
        ax: Where to draw; None for a new figure of `matplotlib.pyplot`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    drawn = _new_axes() if ax is None else ax
    cheap_cost, dear_cost = costs[0], costs[-1] - costs[0]
    drawn.plot(costs, _percent(accuracies), color="C0", zorder=1, label="cascade, any threshold")
    for mark, shape, color in [
        (Mark("cheap model alone", cheap_cost, accuracies[0]), "v", "C2"),
        (Mark("dear model alone", dear_cost, accuracies[-1]), "^", "C1"),
    ]:
        drawn.scatter(
            [mark.cost], _percent([mark.accuracy]), marker=shape, color=color, s=60, zorder=2, label=mark.name
        )
    # Rounding may put an end on the wrong side of the point by next to nothing, and a negative length is refused.
    lengths = [[max(0.0, length)] for length in (chosen.accuracy - interval[0], interval[1] - chosen.accuracy)]
    drawn.errorbar(
        [chosen.cost],
        _percent([chosen.accuracy]),
        yerr=[_percent(length) for length in lengths],
        fmt="o",
        color="C3",
        capsize=4,
        zorder=3,
        label=chosen.name,
    )
    drawn.set_xlabel("mean cost of an example")
    drawn.set_ylabel("accuracy (%)")
    if dear_cost > 0:
        # Of arrays as well as of numbers.
        def share_at(cost: Any) -> Any:
            return 100 * (cost - cheap_cost) / dear_cost

        def cost_at(share: Any) -> Any:
            return cheap_cost + share / 100 * dear_cost

        drawn.secondary_xaxis("top", functions=(share_at, cost_at)).set_xlabel("escalated by the cascade (%)")
    drawn.grid(alpha=0.3)
    # Below the axes: the curve, and the bar of a small sample, may be anywhere on them.
    drawn.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="small", frameon=False)
    return drawn


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _new_axes() -> Axes:
    pyplot = require("matplotlib.pyplot", "plots", "Threshold.plot")
    axes: Axes = pyplot.subplots(layout="constrained")[1]
    return axes
