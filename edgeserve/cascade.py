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
from typing import Any

from edgeserve._thresholds import OperatingPoint, Threshold, as_float, choose_threshold
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.model import Model

__all__ = ["Cascade", "OperatingPoint", "Threshold", "choose_threshold", "sure_enough"]


def sure_enough(model: Callable[[Any], tuple[Any, float]], at_least: float) -> Callable[..., tuple[bool, Any]]:
    """Make a model the task of a `Model` operator, which is satisfied where the model is sure enough.

    The task takes `(data, signal=None)` and ignores the signal. Where the confidence is `at_least` or more it returns
    `(True, answer)`, else `(False, None)`: the next model is asked with an empty signal.

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
        return (True, answer) if _is_sure(model, confidence, threshold) else (False, None)

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

    def models(
        self,
        pulsar_node: Address,
        topic_in_data: str,
        topic_out_destination: str,
        *,
        name: str = "cascade",
        with_topics_between: bool = False,
        stage: int | None = None,
        **options: Any,
    ) -> list[Model]:
        """Open the `Model` operators of this cascade on this node; `edgeserve.run(*models)` runs them.

        Args:
            pulsar_node: The broker; None for the local one.
            topic_in_data: The topic of the data.
            topic_out_destination: The topic of the answers.
            name: The `model_id`; with topics in between, each stage's is that with its number, from 1.
            with_topics_between: Whether each stage is an operator of its own, which asks the next one over a topic
                (`NAME-2` asks the second stage), so that it may be run elsewhere and have replicas. `answered` then
                counts nothing; the operators' `stats` do.
            stage: With topics in between, the one stage that is to be opened here, from 1; None for all.
            options: Further arguments of `Model`, by name, for each of them. An answer that is not bytes or text needs
                `gate_out_destination`.

        Raises:
            UsageError, BrokerError, BrokerUnreachable: As `Model` says; those that were open are closed.
        """
        last = len(self._models)
        if reserved := sorted({"model_id", "topic_in_signal", "topic_out_signal", "task"} & options.keys()):
            raise UsageError(
                f"{', '.join(reserved)}: given by the cascade itself; name= is what a model_id begins with"
            )
        if stage is not None and not (with_topics_between and stage in range(1, last + 1)):
            raise UsageError(
                f"stage is {stage!r}: expected a number from 1 to {last}, and with_topics_between=True, or None"
            )
        if not with_topics_between:
            return [Model(self, pulsar_node, topic_in_data, topic_out_destination, model_id=name, **options)]
        opened: list[Model] = []
        try:
            for number, (model, at_least) in enumerate(zip(self._models, self._thresholds, strict=True), 1):
                if stage is not None and number != stage:
                    continue
                opened.append(
                    Model(
                        sure_enough(model, at_least) if number < last else _as_it_is(model),
                        pulsar_node,
                        topic_in_data,
                        topic_out_destination,
                        f"{name}-{number}" if number > 1 else None,
                        f"{name}-{number + 1}" if number < last else None,
                        model_id=f"{name}-{number}",
                        **options,
                    )
                )
        except BaseException:
            for model_opened in opened:
                model_opened.close()
            raise
        return opened

    @property
    def answered(self) -> Sequence[int]:
        """How many examples each stage has answered so far, the first stage first."""
        return tuple(self._answered)


def _as_it_is(model: Callable[[Any], tuple[Any, float]]) -> Callable[..., tuple[bool, Any]]:
    """The task of the last model, whose answer is taken however sure it is."""

    def task(data: Any, signal: Any = None) -> tuple[bool, Any]:  # noqa: ARG001 - a Model gives it
        return True, _ask(model, data)[0]

    return task


def _threshold(name: str, value: object) -> float:
    """The value as a float, if it can be a threshold. Infinite ones escalate nothing, or nearly everything."""
    number = as_float(value)
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
    number = as_float(confidence)
    if number is None:
        raise UsageError(
            f"the model {model!r} returned the confidence {confidence!r}: expected a number, larger being surer"
        )
    return number >= threshold
