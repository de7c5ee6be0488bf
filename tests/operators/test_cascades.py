"""A cascade as its helper builds it, on both brokers."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

import edgeserve
from edgeserve import DataSource, Materialize, Model, UsageError
from edgeserve.cascade import Cascade

FLOWS = 60


def cheap(data: bytes) -> tuple[bytes, float]:
    return b"cheap", 0.9 if int(data) % 3 else 0.1


def middle(data: bytes) -> tuple[bytes, float]:
    return b"middle", 0.9 if int(data) % 2 else 0.1


def dear(data: bytes) -> tuple[bytes, float]:
    return b"dear", math.nan


STAGES: Any = [(cheap, 0.5), (middle, 0.5), (dear, 0.5)]


def expected(number: int) -> bytes:
    return b"cheap" if number % 3 else b"middle" if number % 2 else b"dear"


@pytest.mark.parametrize("with_topics_between", [False, True])
def test_a_cascade_answers_the_same_in_one_process_and_over_topics(
    broker: str, topic: str, with_topics_between: bool
) -> None:
    cascade = Cascade(STAGES)
    models = cascade.models(
        broker,
        f"{topic}-data",
        f"{topic}-out",
        name="c",
        with_topics_between=with_topics_between,
    )
    assert [model.name for model in models] == (["c-1", "c-2", "c-3"] if with_topics_between else ["c"])
    answers: dict[int, bytes] = {}

    def take(pair: tuple[bytes, bytes]) -> None:
        answers[int(pair[0])] = pair[1]
        if len(answers) == FLOWS:
            for operator in operators:
                operator.stop()

    sink = Materialize(take, broker, topic=f"{topic}-out", with_flow_id=True)
    source = DataSource((str(n) for n in range(FLOWS)), broker, "src", topic=f"{topic}-data", flow_id=int)
    operators = [source, *models, sink]
    edgeserve.run(*operators)  # type: ignore[arg-type]
    assert answers == {number: expected(number) for number in range(FLOWS)}
    assert cascade.answered == ((0, 0, 0) if with_topics_between else (40, 10, 10))


def test_one_stage_may_be_opened_alone(broker: str, topic: str) -> None:
    (model,) = Cascade(STAGES).models(broker, f"{topic}-d", f"{topic}-o", with_topics_between=True, stage=2)
    with model:
        assert (model.name, type(model)) == ("cascade-2", Model)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"stage": 1}, "with_topics_between=True"),
        ({"stage": 4, "with_topics_between": True}, "a number from 1 to 3"),
        ({"model_id": "x"}, "name= is what a model_id begins with"),
        ({"with_topics_between": True, "max_time_diff_ms": -1}, "max_time_diff_ms"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_stays_open(options: dict[str, Any], match: str) -> None:
    threads = threading.active_count()
    with pytest.raises(UsageError, match=match):
        Cascade(STAGES).models("local://:memory:wrong", "d", "o", **options)
    assert threading.active_count() == threads
