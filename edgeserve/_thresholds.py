"""Choosing how sure the cheap model of a cascade must be, on a labelled sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._trade_off import Mark, draw_trade_off
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Two-sided 95 % of the normal distribution.
_Z_95 = 1.959963984540054

# A budget of 0.3 pays for costs of 0.1 and 0.2, whose sum is a little more in binary.
_ROUNDING = 1e-9


class OperatingPoint(NamedTuple):
    """What a threshold would have led to on the sample.

    Attributes:
        threshold: Answers whose confidence is below it are escalated.
        escalated: The share of the examples that is escalated, from 0 to 1.
        accuracy: The share of the examples that the cascade answers rightly, from 0 to 1.
        cost: The mean cost of an example, in the unit of the costs that were given.
    """

    threshold: float
    escalated: float
    accuracy: float
    cost: float


@dataclass(frozen=True)
class Threshold:
    """A threshold that was chosen, and what is to be expected of it.

    The threshold is chosen for how it does on the sample, so that its accuracy there tends to flatter it: what
    counts is a part of the data on which nothing was chosen.

    Attributes:
        threshold: Answers whose confidence is below it are escalated.
        escalated: The share of the sample that is escalated, from 0 to 1.
        accuracy: The share of the sample that the cascade answers rightly, from 0 to 1.
        accuracy_interval: The 95 % Wilson score interval of the accuracy, lower and upper end, for independent
            examples (windows of one person are not). Source: E. B. Wilson, "Probable inference, the law of
            succession, and statistical inference", Journal of the American Statistical Association 22 (1927).
        cost: The mean cost of an example, in the unit of the costs that were given.
        curve: All thresholds that could have been chosen, the lowest first: from escalating nothing to everything.
    """

    threshold: float
    escalated: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    cost: float
    curve: Sequence[OperatingPoint] = field(repr=False)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the accuracy over the cost of an example for all thresholds, the chosen one, and each model alone.

        The dear model alone costs less than a cascade that escalates everything, which pays for both models.

        Args:
            ax: Where to draw; a figure with `layout="constrained"` has room for the legend, which is below the axes.
                Without it, such a figure is made with `matplotlib.pyplot`.

        Returns:
            The axes that were drawn on.

        Raises:
            MissingExtra: matplotlib is not installed (`pip install 'edgeserve[plots]'`).
        """
        name = f"chosen: threshold {self.threshold:.4g},\n{self.escalated * 100:.3g} % escalated (95 % interval)"
        return draw_trade_off(
            [point.cost for point in self.curve],
            [point.accuracy for point in self.curve],
            Mark(name, self.cost, self.accuracy),
            self.accuracy_interval,
            ax,
        )


def choose_threshold(
    labels: Iterable[Any],
    *,
    answers: Iterable[Any],
    confidences: Iterable[float],
    dear_answers: Iterable[Any],
    cost: float,
    dear_cost: float,
    accuracy: float | None = None,
    budget: float | None = None,
) -> Threshold:
    """Choose how sure the cheap model of a cascade must be, from a labelled sample that neither model has learnt from.

    The candidates are the confidences that occur, and a threshold just above the largest, which escalates everything;
    examples of equal confidence are escalated together. Time grows with n log n.

    Args:
        labels: The truth, one for each of the n examples; lists, arrays, or anything else that can be iterated over.
        answers: What the cheap model answered, in the same order. An answer is right if it equals the label.
        confidences: How sure the cheap model was of each answer: finite numbers, larger being surer.
        dear_answers: What the dear model answered, to every example.
        cost: What the cheap model costs, per example: in ms, in cents, or in any unit.
        dear_cost: What the dear model costs, per example and in the same unit, in addition for what is escalated.
        accuracy: The accuracy wanted, a share from 0 to 1. The cheapest threshold is chosen whose accuracy reaches it;
            of several that cost the same, the most accurate.
        budget: What an example may cost in the mean. The most accurate threshold is chosen whose cost does not exceed
            it; of several that are as accurate, the cheapest.

    Raises:
        UsageError: Not exactly one of `accuracy` and `budget` is given; no threshold reaches the accuracy, or keeps
            to the budget; there are no examples, the numbers of them differ, or something is not the number that is
            described above.
    """
    cost, dear_cost = _number("cost", cost, 0.0), _number("dear_cost", dear_cost, 0.0)
    if (accuracy is None) == (budget is None):
        raise UsageError(
            f"accuracy is {accuracy!r} and budget is {budget!r}: give exactly one of them, either the accuracy wanted "
            "or what an example may cost"
        )
    sure, cheap_right, dear_right = _sample(labels, answers, confidences, dear_answers)
    n = len(sure)
    curve = tuple(
        OperatingPoint(threshold, escalated / n, right / n, cost + dear_cost * (escalated / n))
        for threshold, escalated, right in _candidates(sure, cheap_right, dear_right)
    )
    if accuracy is not None:
        chosen = _cheapest(curve, _number("accuracy", accuracy, 0.0, 1.0, "a share: 95 % is 0.95"))
    else:
        chosen = _most_accurate(curve, _number("budget", budget, 0.0))
    return Threshold(
        chosen.threshold,
        chosen.escalated,
        chosen.accuracy,
        _wilson_interval(round(chosen.accuracy * n), n),
        chosen.cost,
        curve,
    )


def _sample(
    labels: Iterable[Any], answers: Iterable[Any], confidences: Iterable[float], dear_answers: Iterable[Any]
) -> tuple[list[float], list[bool], list[bool]]:
    """The confidences, and whether the cheap and the dear model were right."""
    given = {"labels": labels, "answers": answers, "confidences": confidences, "dear_answers": dear_answers}
    columns: dict[str, list[Any]] = {}
    for name, values in given.items():
        try:
            columns[name] = list(values)
        except TypeError as error:
            raise UsageError(f"{name} is {values!r}: expected a sequence with one value for each example") from error
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UsageError(f"there are {described}: expected one of each for every example")
    if not columns["labels"]:
        raise UsageError("the sample is empty: give at least one labelled example")
    truth = columns["labels"]
    return (
        [_number(f"confidences[{at}]", value) for at, value in enumerate(columns["confidences"])],
        _are_right("answers", columns["answers"], truth),
        _are_right("dear_answers", columns["dear_answers"], truth),
    )


def _are_right(name: str, answers: list[Any], truth: list[Any]) -> list[bool]:
    right = []
    for at, (answer, label) in enumerate(zip(answers, truth, strict=True)):
        try:
            right.append(bool(answer == label))
        except (TypeError, ValueError) as error:  # arrays are equal element by element
            raise UsageError(
                f"whether {name}[{at}], {answer!r}, equals the label {label!r} is neither true nor false: expected one "
                "label and one answer for each example, such as the number or the name of a class"
            ) from error
    return right


def _candidates(sure: list[float], cheap_right: list[bool], dear_right: list[bool]) -> Iterable[tuple[float, int, int]]:
    """Every threshold there is, the lowest first: how many examples it escalates, and how many are answered rightly.

    They are counted as whole numbers, so that no rounding adds up.
    """
    in_order = sorted(zip(sure, cheap_right, dear_right, strict=True), key=itemgetter(0))
    escalated, right = 0, sum(cheap_right)
    for threshold, tied in groupby(in_order, key=itemgetter(0)):
        yield threshold, escalated, right
        for _, cheap, dear in tied:
            escalated += 1
            right += dear - cheap
    yield math.nextafter(in_order[-1][0], math.inf), escalated, right


def _cheapest(curve: Sequence[OperatingPoint], accuracy: float) -> OperatingPoint:
    reached = [point for point in curve if point.accuracy >= accuracy * (1 - _ROUNDING)]
    if not reached:
        best = _most_accurate(curve, math.inf)
        raise UsageError(
            f"no threshold reaches an accuracy of {accuracy:g}: the best is {best.accuracy:.6g}, at a threshold of "
            f"{best.threshold:.6g} and a cost of {best.cost:.6g} for an example; ask for no more than that, or take a "
            "better dear model"
        )
    return min(reached, key=lambda point: (point.cost, -point.accuracy, point.escalated))


def _most_accurate(curve: Sequence[OperatingPoint], budget: float) -> OperatingPoint:
    affordable = [point for point in curve if point.cost <= budget * (1 + _ROUNDING)]
    if not affordable:
        raise UsageError(
            f"a budget of {budget:g} for an example does not pay for the cheap model, which every example needs: give "
            f"{min(point.cost for point in curve):g} or more"
        )
    return min(affordable, key=lambda point: (-point.accuracy, point.cost, point.escalated))


def _wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share, as in Wilson (1927)."""
    share, z2 = right / n, _Z_95**2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At shares of 0 and 1 one end is exactly the share, which rounding would miss.
    return (0.0 if right == 0 else center - half), (1.0 if right == n else center + half)


def as_float(value: object) -> float | None:
    """The number as a Python float, since a float32 would round the threshold it is compared with; None if it is none.

    Arrays and tensors of no dimension will do.
    """
    if isinstance(value, (str, bytes, bytearray, bool)):
        return None
    try:
        return float(value)  # type: ignore[arg-type] # it raises
    except (TypeError, ValueError, OverflowError):
        return None


def _number(name: str, value: object, least: float = -math.inf, most: float = math.inf, hint: str = "") -> float:
    """The value as a float, if it is a finite number of this range."""
    number = as_float(value)
    if number is not None and math.isfinite(number) and least <= number <= most:
        return number
    if math.isfinite(most):
        wanted = f"a number from {least:g} to {most:g}"
    else:
        wanted = f"a finite number, {least:g} or more" if math.isfinite(least) else "a finite number"
    raise UsageError(f"{name} is {value!r}: expected {wanted}{', ' * bool(hint)}{hint}")
