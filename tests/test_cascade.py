"""Thresholds from a labelled sample, and cascades in one process."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve import Compute, DataSource
from edgeserve.cascade import Cascade, OperatingPoint, Threshold, choose_threshold, sure_enough
from edgeserve.errors import MissingExtra, UsageError
from edgeserve.gates import text_in
from edgeserve.testing import end_memory_broker, memory_broker

# The cheap model is wrong about the second and the fourth, the dear one about the third. The sample is not in the
# order of the confidences.
LABELS = ["cat", "dog", "cat", "dog", "cat"]
ANSWERS = ["cat", "cat", "cat", "cat", "cat"]
CONFIDENCES = [0.9, 0.5, 0.7, 0.6, 0.8]
DEAR_ANSWERS = ["cat", "dog", "dog", "dog", "cat"]


def choose(**changed: Any) -> Threshold:
    sample = {
        "labels": LABELS,
        "answers": ANSWERS,
        "confidences": CONFIDENCES,
        "dear_answers": DEAR_ANSWERS,
        "cost": 1.0,
        "dear_cost": 10.0,
    }
    return choose_threshold(**{**sample, **changed})


def test_the_curve_goes_from_escalating_nothing_to_escalating_everything() -> None:
    curve = choose(budget=100).curve
    assert curve == (
        OperatingPoint(0.5, 0.0, 0.6, 1.0),
        OperatingPoint(0.6, 0.2, 0.8, 3.0),
        OperatingPoint(0.7, 0.4, 1.0, 5.0),
        OperatingPoint(0.8, 0.6, 0.8, 7.0),
        OperatingPoint(0.9, 0.8, 0.8, 9.0),
        OperatingPoint(math.nextafter(0.9, 1), 1.0, 0.8, 11.0),
    )


@pytest.mark.parametrize(
    ("accuracy", "threshold"), [(0.0, 0.5), (0.6, 0.5), (0.61, 0.6), (0.8, 0.6), (0.81, 0.7), (1.0, 0.7), (1, 0.7)]
)
def test_the_cheapest_threshold_that_reaches_the_accuracy_is_chosen(accuracy: float, threshold: float) -> None:
    assert choose(accuracy=accuracy).threshold == threshold


@pytest.mark.parametrize(
    ("budget", "threshold"), [(1, 0.5), (2.99, 0.5), (3, 0.6), (4.99, 0.6), (5, 0.7), (11, 0.7), (1e9, 0.7)]
)
def test_the_most_accurate_threshold_that_the_budget_pays_for_is_chosen(budget: float, threshold: float) -> None:
    assert choose(budget=budget).threshold == threshold


def test_of_two_thresholds_that_are_as_accurate_a_budget_buys_the_cheaper() -> None:
    assert choose(dear_answers=ANSWERS, budget=11).threshold == 0.5


def test_of_two_thresholds_that_cost_the_same_the_more_accurate_is_chosen() -> None:
    chosen = choose(dear_cost=0, accuracy=0.6)
    assert (chosen.threshold, chosen.accuracy, chosen.cost) == (0.7, 1.0, 1.0)


def test_a_threshold_tells_what_is_to_be_expected_of_it() -> None:
    chosen = choose(accuracy=0.8)
    assert (chosen.threshold, chosen.escalated, chosen.accuracy, chosen.cost) == (0.6, 0.2, 0.8, 3.0)
    assert chosen.accuracy_interval == pytest.approx((0.37553463, 0.96377631))


def test_the_interval_is_the_one_that_is_published() -> None:
    # 81 of 263: the example of R. G. Newcombe, Statistics in Medicine 17 (1998), table I.
    right = [True] * 81 + [False] * 182
    chosen = choose_threshold(
        [True] * 263, answers=right, confidences=[1.0] * 263, dear_answers=right, cost=1, dear_cost=1, budget=1
    )
    assert [round(end, 4) for end in chosen.accuracy_interval] == [0.2553, 0.3662]


@pytest.mark.parametrize(("answer", "interval"), [(1, (0.206549314, 1.0)), (0, (0.0, 0.793450686))])
def test_one_example_is_a_sample(answer: int, interval: tuple[float, float]) -> None:
    chosen = choose_threshold([1], answers=[answer], confidences=[0.5], dear_answers=[0], cost=1, dear_cost=2, budget=1)
    assert chosen.curve == ((0.5, 0.0, float(answer), 1.0), (math.nextafter(0.5, 1), 1.0, 0.0, 3.0))
    assert chosen.accuracy_interval == pytest.approx(interval)


def test_examples_of_equal_confidence_are_escalated_together() -> None:
    chosen = choose(confidences=[0.9, 0.5, 0.5, 0.5, 0.9], accuracy=0.61)
    assert [point[:3] for point in chosen.curve] == [(0.5, 0, 0.6), (0.9, 0.6, 0.8), (math.nextafter(0.9, 1), 1, 0.8)]
    assert chosen.threshold == 0.9


def test_a_model_that_is_as_sure_of_everything_leaves_all_or_nothing() -> None:
    curve = choose(confidences=[1] * 5, budget=1).curve
    assert curve == ((1.0, 0.0, 0.6, 1.0), (math.nextafter(1.0, 2), 1.0, 0.8, 11.0))


@pytest.mark.parametrize("scale", [-1.0, 1e-300, 1e300])
def test_confidences_may_have_any_scale(scale: float) -> None:
    thresholds = [point.threshold for point in choose(confidences=[scale * c for c in CONFIDENCES], budget=11).curve]
    assert thresholds[:-1] == sorted(scale * c for c in CONFIDENCES)
    assert thresholds[-1] > thresholds[-2]


def test_a_budget_pays_for_a_sum_that_only_rounding_puts_above_it() -> None:
    dear_right = {"labels": ["dog"] * 5, "dear_answers": ["dog"] * 5}
    assert 0.1 + 0.2 > 0.3
    assert choose(**dear_right, cost=0.1, dear_cost=0.2, budget=0.3).accuracy == 1.0


def test_an_accuracy_out_of_reach_is_an_error_that_tells_the_best() -> None:
    with pytest.raises(UsageError) as raised:
        choose(accuracy=0.9, labels=["cow", *LABELS[1:]])
    assert str(raised.value) == (
        "no threshold reaches an accuracy of 0.9: the best is 0.8, at a threshold of 0.7 and a cost of 5 for an "
        "example; ask for no more than that, or take a better dear model"
    )


def test_a_budget_below_the_cheap_model_is_an_error_that_tells_the_least() -> None:
    with pytest.raises(UsageError) as raised:
        choose(budget=0.5)
    assert str(raised.value) == (
        "a budget of 0.5 for an example does not pay for the cheap model, which every example needs: give 1 or more"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "accuracy is None and budget is None: give exactly one of them"),
        ({"accuracy": 0.0, "budget": 0.0}, "accuracy is 0.0 and budget is 0.0: give exactly one of them"),
        ({"accuracy": 95}, "accuracy is 95: expected a number from 0 to 1, a share: 95 % is 0.95"),
        ({"accuracy": -0.1}, "accuracy is -0.1: expected a number from 0 to 1"),
        ({"accuracy": "0.9"}, "accuracy is '0.9': expected a number"),
        ({"accuracy": True}, "accuracy is True: expected a number"),
        ({"budget": math.nan}, "budget is nan: expected a finite number, 0 or more"),
        ({"budget": -1}, "budget is -1: expected a finite number, 0 or more"),
        ({"budget": 1, "cost": -1}, "cost is -1: expected a finite number, 0 or more"),
        ({"budget": 1, "dear_cost": math.inf}, "dear_cost is inf: expected a finite number, 0 or more"),
        (
            {"budget": 1, "answers": ANSWERS[1:]},
            "there are 5 labels, 4 answers, 5 confidences, 5 dear_answers: expected one of each for every example",
        ),
        ({"budget": 1, "labels": 3}, "labels is 3: expected a sequence"),
        ({"budget": 1, "confidences": [0.9, math.nan, 0, 0, 0]}, r"confidences\[1\] is nan: expected a finite number"),
        ({"budget": 1, "confidences": [0, 0, math.inf, 0, 0]}, r"confidences\[2\] is inf: expected a finite number"),
        ({"budget": 1, "confidences": np.ones((5, 2))}, r"confidences\[0\] is array\(.*\): expected a finite number"),
        (
            {"budget": 1, "dear_answers": np.ones((5, 2)), "labels": np.ones((5, 2)), "answers": np.ones(5)},
            r"whether answers\[0\], .* equals the label array\(.* is neither true nor false",
        ),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose(**changed)


def test_no_examples_are_an_error() -> None:
    nothing: dict[str, Any] = {name: [] for name in ("labels", "answers", "confidences", "dear_answers")}
    with pytest.raises(UsageError, match="the sample is empty: give at least one labelled example"):
        choose(**nothing, budget=1)


def test_answers_cannot_be_given_by_position() -> None:
    parameters = inspect.signature(choose_threshold).parameters.values()
    assert [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY] == ["labels"]


@pytest.mark.parametrize("kind", [np.array, tuple, iter])
def test_arrays_and_anything_that_can_be_iterated_over_will_do(kind: Callable[[list[Any]], Any]) -> None:
    columns = {"labels": LABELS, "answers": ANSWERS, "confidences": CONFIDENCES, "dear_answers": DEAR_ANSWERS}
    chosen = choose(**{name: kind(column) for name, column in columns.items()}, accuracy=0.8)
    assert chosen == choose(accuracy=0.8)
    assert {type(value) for value in (*chosen.curve[0], *chosen.accuracy_interval)} == {float}


def test_a_threshold_of_float32_confidences_treats_the_next_one_as_in_the_sample() -> None:
    confidences = np.array([0.1, 0.2, 0.2, 0.3, 0.3], dtype=np.float32)
    everything = choose(confidences=confidences, budget=11).curve[-1]
    task = sure_enough(lambda data: ("cat", data), everything.threshold)
    assert not any(task(confidence)[0] for confidence in confidences)


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    # Few confidences and answers, so that many are equal.
    rows = draw(st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.sampled_from([-1.5, 0.0, 0.25, 0.5, 1.0])), min_size=1))
    labels, answers, dear_answers, confidences = (list(column) for column in zip(*rows, strict=True))
    return {
        "labels": labels,
        "answers": answers,
        "dear_answers": dear_answers,
        "confidences": confidences,
        "cost": draw(st.integers(0, 3)),
        "dear_cost": draw(st.integers(0, 3)),
    }


def brute_force(sample: dict[str, Any]) -> list[tuple[Fraction, Fraction, Fraction]]:
    """Share escalated, accuracy and cost of every threshold, as the rule says it, without rounding."""
    n = len(sample["labels"])
    found = []
    for threshold in [*sorted(set(sample["confidences"])), math.inf]:
        escalated = [confidence < threshold for confidence in sample["confidences"]]
        outputs = [
            dear if is_escalated else cheap
            for dear, cheap, is_escalated in zip(sample["dear_answers"], sample["answers"], escalated, strict=True)
        ]
        right = sum(output == label for output, label in zip(outputs, sample["labels"], strict=True))
        share = Fraction(sum(escalated), n)
        found.append((share, Fraction(right, n), sample["cost"] + sample["dear_cost"] * share))
    return found


def point_of(threshold: Threshold) -> Sequence[float]:
    return (threshold.escalated, threshold.accuracy, threshold.cost)


@given(samples(), st.integers(0, 12), st.integers(0, 24))
def test_every_choice_is_the_one_that_trying_all_thresholds_finds(
    sample: dict[str, Any], twelfths: int, quarters: int
) -> None:
    points = brute_force(sample)
    wanted, budget = Fraction(twelfths, 12), Fraction(quarters, 4)
    reached = [point for point in points if point[1] >= wanted]
    affordable = [point for point in points if point[2] <= budget]
    expected = [
        min(reached, key=lambda point: (point[2], -point[1]), default=None),
        min(affordable, key=lambda point: (-point[1], point[2]), default=None),
    ]
    for limit, best in zip([{"accuracy": float(wanted)}, {"budget": float(budget)}], expected, strict=True):
        if best is None:
            with pytest.raises(UsageError):
                choose_threshold(**sample, **limit)
        else:
            chosen = choose_threshold(**sample, **limit)
            assert point_of(chosen) == pytest.approx([float(value) for value in best])
            assert chosen.accuracy_interval[0] <= chosen.accuracy <= chosen.accuracy_interval[1]
            assert len(chosen.curve) == len(points)
            for found, point in zip(chosen.curve, points, strict=True):
                assert found[1:] == pytest.approx([float(value) for value in point])


def test_a_task_is_satisfied_from_the_threshold_on_and_else_asks_with_nothing() -> None:
    task = sure_enough(lambda data: (f"a {data}", {"cat": 0.5, "dog": 0.49}.get(data, math.nan)), 0.5)
    assert task("cat") == (True, "a cat")
    assert task("dog", b"what another model thought") == (False, None)
    assert task("cow") == (False, None), "NaN is below every threshold"


def test_a_task_has_a_signature_that_a_model_can_read() -> None:
    data, signal = inspect.signature(sure_enough(lambda data: (data, 1), 0)).parameters.values()
    assert (data.name, data.default) == ("data", inspect.Parameter.empty)
    assert (signal.name, signal.default) == ("signal", None)


def test_whether_a_task_is_satisfied_is_a_bool_whatever_kind_of_number_the_confidence_is() -> None:
    for confidence in (1, np.float32(1), np.array(1.0), Fraction(1)):
        assert sure_enough(lambda data, confidence=confidence: (data, confidence), 0.5)(0)[0] is True


@pytest.mark.parametrize("returned", ["ab", 0.5, None, (1, 2, 3), {"answer": 1, "confidence": 2}, np.array([1, 2])])
def test_a_model_that_returns_no_pair_is_told_what_was_expected(returned: object) -> None:
    model: Any = lambda data: returned  # noqa: E731 - it is typed as anything, since it is wrong
    for use in (sure_enough(model, 0.5), Cascade([(model, 0.5)])):
        with pytest.raises(UsageError, match=r"returned .*: expected a pair \(answer, confidence\)"):
            use(b"data")


@pytest.mark.parametrize("confidence", ["0.9", None, [0.1, 0.9], np.array([0.1, 0.9]), True])
def test_a_confidence_that_is_no_number_is_an_error(confidence: object) -> None:
    model: Any = lambda data: (data, confidence)  # noqa: E731 - it is typed as anything, since it is wrong
    for use in (sure_enough(model, 0.5), Cascade([(model, 0.5), (model, None)])):
        with pytest.raises(UsageError, match=r"returned the confidence .*: expected a number, larger being surer"):
            use(b"data")


@pytest.mark.parametrize("at_least", [None, "0.5", math.nan])
def test_a_threshold_that_is_no_number_is_an_error(at_least: Any) -> None:
    with pytest.raises(UsageError, match=r"at_least is .*: expected a number, in the unit of the model's confidences"):
        sure_enough(lambda data: (data, 1), at_least)


def small(data: int) -> tuple[str, float]:
    return f"small {data}", 0.9 if data < 3 else 0.2


def medium(data: int) -> tuple[str, float]:
    return f"medium {data}", 0.7 if data < 5 else 0.6999


def large(data: int) -> tuple[str, float]:
    return f"large {data}", math.nan


def test_a_cascade_asks_the_next_model_only_where_those_before_were_not_sure() -> None:
    cascade = Cascade([(small, 0.9), (medium, 0.7), (large, None)])
    assert cascade.answered == (0, 0, 0)
    answers = [cascade.answer(data) for data in range(6)]
    assert answers == ["small 0", "small 1", "small 2", "medium 3", "medium 4", "large 5"]
    assert cascade.answered == (3, 2, 1)


def test_a_cascade_is_a_task_that_is_always_satisfied() -> None:
    cascade = Cascade([(small, 0.9), (medium, 0.7)])
    assert [cascade(data) for data in (2, 5)] == [(True, "small 2"), (True, "medium 5")]
    assert cascade.answered == (1, 1)
    assert list(inspect.signature(cascade).parameters) == ["data"]


def test_the_last_answer_is_taken_however_sure_its_model_is() -> None:
    assert Cascade([(small, 1e9)]).answer(1) == "small 1"


def test_an_example_whose_model_raises_is_answered_by_none() -> None:
    def broken(data: int) -> tuple[str, float]:
        raise OSError("the weights are gone")

    cascade = Cascade([(small, 0.9), (broken, None)])
    with pytest.raises(OSError, match="the weights are gone"):
        cascade.answer(3)
    assert cascade.answered == (0, 0)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "a cascade has no stages: give it one pair or more"),
        ([small], r"stages\[0\] is <function small.*: expected a pair \(model, how sure it must be\)"),
        ([(small, 0.5), (0.5, small)], r"the model of stages\[1\] is 0.5: expected a callable"),
        ([(small, None), (large, None)], r"the threshold of stages\[0\] is None: only the last stage can do without"),
        ([(small, "high"), (large, None)], r"the threshold of stages\[0\] is 'high': expected a number"),
    ],
)
def test_wrong_stages_are_told_what_is_wrong(stages: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Cascade(stages)


def test_a_cascade_is_the_task_of_a_compute() -> None:
    cascade = Cascade([(lambda data: small(int(data)), 0.9), (lambda data: large(int(data)), None)])
    broker = memory_broker()
    with (
        DataSource(["1", "4"], broker, "camera") as source,
        Compute(cascade.answer, broker, gate_in=text_in, inputs={"data": "camera"}) as compute,
    ):
        for expected in (b"small 1", b"large 4"):
            next(source)
            assert next(compute) == expected
    end_memory_broker(broker)
    assert cascade.answered == (1, 1)


@pytest.fixture
def pyplot() -> Iterator[Any]:
    """Draws into memory, whatever the machine has."""
    mpl.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_the_picture_shows_the_curve_the_choice_and_each_model_alone(pyplot: Any) -> None:
    chosen = choose(accuracy=0.8)
    ax = chosen.plot()
    curve = ax.get_lines()[0].get_xydata()
    assert curve == pytest.approx(np.array([[1, 60], [3, 80], [5, 100], [7, 80], [9, 80], [11, 80]]))
    offsets = [collection.get_offsets() for collection in ax.collections if collection.get_label()[:1] != "_"]
    assert [tuple(*points) for points in offsets if len(points) == 1][:2] == [(1, 60), (10, 80)]
    (bar,) = ax.containers
    assert bar.lines[0].get_xydata() == pytest.approx(np.array([[3, 80]]))
    assert bar.lines[2][0].get_segments()[0] == pytest.approx(np.array([[3, 37.553463], [3, 96.377631]]))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "cascade, any threshold",
        "cheap model alone",
        "dear model alone",
        "chosen: threshold 0.6,\n20 % escalated (95 % interval)",
    ]
    (share,) = ax.child_axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mean cost of an example", "accuracy (%)")
    assert share.get_xlabel() == "escalated by the cascade (%)"
    ax.figure.canvas.draw()
    to_share = [100 * (cost - 1) / 10 for cost in ax.get_xlim()]
    assert share.get_xlim() == pytest.approx(to_share)


@pytest.mark.parametrize("dear_cost", [0, 10])
def test_a_picture_is_drawn_on_the_axes_that_are_given(pyplot: Any, dear_cost: float) -> None:
    figure, ax = pyplot.subplots(layout="constrained")
    assert choose(dear_cost=dear_cost, budget=11).plot(ax) is ax
    figure.canvas.draw()
    assert len(ax.child_axes) == (1 if dear_cost else 0), "without a cost there is no share to a cost"
    assert pyplot.get_fignums() == [figure.number]


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"Threshold.plot needs .*: pip install 'edgeserve\[plots\]'"):
        choose(budget=11).plot()
