"""Cascades: a cheap model answers what it is sure of, and a dear one the rest.

A model here is a callable that takes an example's data and returns a pair: its answer and how sure it is of it, a
number of any scale that is larger the surer it is. One rule holds everywhere: an answer whose confidence is below the
threshold is escalated to the next model, and one exactly at the threshold is not. NaN is below every threshold.

`choose_threshold` finds the threshold on a labelled sample. `sure_enough` makes a model the task of a `Model`
operator; `Cascade` runs all models of a cascade in one process, as one task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeserve._trade_off import Mark, draw_trade_off
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Cascade", "OperatingPoint", "Threshold", "choose_threshold", "sure_enough"]

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


def sure_enough(model: Callable[[Any], tuple[Any, float]], at_least: float) -> Callable[..., tuple[bool, Any]]:
    """Make a model the task of a `Model` operator, which is satisfied where the model is sure enough.

    The task takes `(data, signal=None)` and ignores the signal. It returns whether the confidence is `at_least` or
    more, and the answer, which is passed on as the signal where it is not.

    Args:
        model: Takes the data and returns `(answer, confidence)`.
        at_least: The threshold, such as that of `choose_threshold`.

    Raises:
        UsageError: The model can't be called or the threshold is no number. Raised by the task: the model returned
            something else than a pair of an answer and a number.
    """
    _check_model("the model", model)
    threshold = _threshold("at_least", at_least)

    def task(data: Any, signal: Any = None) -> tuple[bool, Any]:  # noqa: ARG001 - a Model gives it
        answer, confidence = _ask(model, data)
        return _is_sure(model, confidence, threshold), answer

    return task


class Cascade:
    """A cascade in one process: each model is asked only if those before it were not sure enough.

    Calling it with data returns `(True, answer)`, as the task of a `Model` operator does. `answer(data)` returns the
    answer alone: the task of a `Compute` is `cascade.answer` with `inputs={"data": NAME_OF_THE_SOURCE}`.

    Its counts are of one thread: give each operator a cascade of its own.

    Args:
        stages: Pairs of a model, which takes the data and returns `(answer, confidence)`, and how sure it must be at
            least; one or more, the cheapest first. The answer of the last model is taken however sure it is, and its
            threshold may be None.

    Raises:
        UsageError: There is no stage, or one is not such a pair. Raised when it is called: a model returned something
            else than a pair of an answer and a number.
    """

    def __init__(self, stages: Iterable[tuple[Callable[[Any], tuple[Any, float]], float | None]]) -> None:
        given = list(stages)
        if not given:
            raise UsageError("a cascade has no stages: give it one pair or more of (model, how sure it must be)")
        self._models: list[Callable[[Any], tuple[Any, float]]] = []
        self._thresholds: list[float] = []
        for number, stage in enumerate(given):
            name = f"stages[{number}]"
            if not isinstance(stage, (tuple, list)) or len(stage) != 2:
                raise UsageError(f"{name} is {stage!r}: expected a pair (model, how sure it must be)")
            model, at_least = stage
            _check_model(f"the model of {name}", model)
            is_last = number == len(given) - 1
            if at_least is None and not is_last:
                raise UsageError(f"the threshold of {name} is None: only the last stage can do without, give a number")
            self._models.append(model)
            self._thresholds.append(-math.inf if at_least is None else _threshold(f"the threshold of {name}", at_least))
        self._answered = [0] * len(given)

    def __call__(self, data: Any) -> tuple[bool, Any]:
        """Answer as the task of a `Model` operator: `(True, answer)`."""
        return True, self.answer(data)

    def answer(self, data: Any) -> Any:
        """The answer of the first model that is sure enough, or of the last."""
        last = len(self._models) - 1
        for stage, model in enumerate(self._models):
            answer, confidence = _ask(model, data)
            if stage == last or _is_sure(model, confidence, self._thresholds[stage]):
                self._answered[stage] += 1
                break
        return answer

    @property
    def answered(self) -> Sequence[int]:
        """How many examples each stage has answered so far, the first stage first."""
        return tuple(self._answered)


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


def _as_float(value: object) -> float | None:
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
    number = _as_float(value)
    if number is not None and math.isfinite(number) and least <= number <= most:
        return number
    if math.isfinite(most):
        wanted = f"a number from {least:g} to {most:g}"
    else:
        wanted = f"a finite number, {least:g} or more" if math.isfinite(least) else "a finite number"
    raise UsageError(f"{name} is {value!r}: expected {wanted}{', ' * bool(hint)}{hint}")


def _threshold(name: str, value: object) -> float:
    """The value as a float, if it can be a threshold. Infinite ones escalate nothing, or nearly everything."""
    number = _as_float(value)
    if number is None or math.isnan(number):
        raise UsageError(f"{name} is {value!r}: expected a number, in the unit of the model's confidences")
    return number


def _check_model(name: str, model: object) -> None:
    if not callable(model):
        raise UsageError(f"{name} is {model!r}: expected a callable that takes data and returns (answer, confidence)")


def _ask(model: Callable[[Any], tuple[Any, float]], data: Any) -> tuple[Any, Any]:
    pair: object = model(data)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise UsageError(f"the model {model!r} returned {pair!r}: expected a pair (answer, confidence)")
    return pair[0], pair[1]


def _is_sure(model: Callable[[Any], tuple[Any, float]], confidence: object, threshold: float) -> bool:
    number = _as_float(confidence)
    if number is None:
        raise UsageError(
            f"the model {model!r} returned the confidence {confidence!r}: expected a number, larger being surer"
        )
    return number >= threshold
