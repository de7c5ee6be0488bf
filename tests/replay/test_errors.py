"""What logs say of gates and tasks that raise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeserve import BatchCompute, Compute, replay
from edgeserve._core.observing import Observer, with_observer
from edgeserve._core.reasons import MOST_CHARACTERS, reason_of, shortened
from edgeserve._log.records import GateRaised, Ran
from edgeserve.testing import ManualClock
from tests.replay.pipelines import pass_on, said, send
from tests.replay.recorded import START_MS, Captured, only_run


class GateError(ValueError):
    """What gates raise."""


class SpeechlessError(ValueError):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("nor does this")


def failing(times: int, payload: bytes = b"1") -> Callable[[bytes], bytes]:
    """A gate that fails so often with a payload."""
    left = [times]

    def gate(came: bytes) -> bytes:
        if came == payload and left[0]:
            left[0] -= 1
            raise GateError("bad gate")
        return came

    return gate


@pytest.mark.parametrize("is_join", [False, True], ids=["at once", "join"])
@pytest.mark.parametrize(
    ("on_error", "failures", "outcomes", "fate"),
    [
        ("raise", 1, ["ran", "failed", "ran"], None),
        ("skip", 1, ["ran", "failed", "ran"], "failed"),
        ("dead_letter", 1, ["ran", "failed", "ran"], "failed"),
        ("retry", 2, ["ran", "failed", "failed", "ran", "ran"], "used"),
        ("retry", 9, ["ran", "failed", "failed", "failed", "ran"], "failed"),
    ],
)
def test_a_gate_that_raised_is_a_failed_step_with_its_error(
    memory: str, logs: Path, is_join: bool, on_error: Any, failures: int, outcomes: list[str], fate: str | None
) -> None:
    options: dict[str, Any] = {"min_interval_ms": 1e-6} if is_join else {}
    send(memory, 3)
    with Compute(
        pass_on, memory, topic_in="in", gate_in=failing(failures), log_path=logs, log_verbose=True, on_error=on_error,
        max_retries=2, retry_interval_ms=0, **options,
    ) as operator:  # fmt: skip
        for _ in range(3):
            try:
                next(operator)
            except GateError:
                assert on_error == "raise"
    log = replay.load(logs)
    steps = log.steps
    assert steps["outcome"].tolist() == outcomes
    failed = steps[steps["outcome"] == "failed"]
    assert set(failed["error"]) == {"GateError: bad gate"}
    assert set(failed["trigger_id"]) == {log.examples["example_id"][1]}
    assert failed["started_ms"].isna().all(), "the task has not run"
    assert log.examples["fate"].fillna("").tolist() == ["used", fate or "", "used"]
    again = replay.run(log, task=pass_on)
    assert again.predictions["output_id"].tolist() == log.predictions["output_id"].tolist()
    assert len(replay.run(log, task=pass_on, task_ms=1, min_interval_ms=0.5).predictions) >= 2


def test_who_observes_together_with_others_is_told_of_a_gate_that_raised() -> None:
    told = []

    class Noted(Observer):
        def gate_raised(self, example: Any, error: BaseException) -> None:
            told.append(error)

    error = GateError()
    with_observer(Noted(), Noted()).gate_raised(None, error)  # type: ignore[arg-type]
    assert told == [error, error]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("where", ["gate", "task"])
def test_an_error_without_a_text_does_not_lead_to_another_one(
    memory: str, logs: Path, where: str, on_error: Any
) -> None:
    def fail(only: bytes) -> bytes:
        raise SpeechlessError

    send(memory, 1)
    options: dict[str, Any] = {"gate_in": fail} if where == "gate" else {}
    task = pass_on if where == "gate" else fail
    with Compute(task, memory, topic_in="in", log_path=logs, on_error=on_error, **options) as operator:
        if on_error == "raise":
            with pytest.raises(SpeechlessError):
                next(operator)
        else:
            assert next(operator) is None
    assert replay.load(logs).steps["error"].tolist() == ["SpeechlessError: (its text can't be had: RuntimeError)"]


def test_a_reason_is_its_class_and_its_text_as_far_as_a_log_keeps_it() -> None:
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert shortened("x" * MOST_CHARACTERS) == "x" * MOST_CHARACTERS
    assert shortened("x" * 5000) == "x" * MOST_CHARACTERS + "... (5000 characters)"


def batches(memory: str, logs: Path, task: Callable[[list[bytes], ManualClock], bytes]) -> list[tuple[float, Any, int]]:
    """How long each run of the task on parts of one batch took by the log, what it raised and how much came of it."""
    clock = ManualClock(START_MS)
    source = Captured(memory, "in", "source", clock)
    with BatchCompute(
        lambda items: task(items, clock), memory, "batches", topic_in="in", topic_out="out", log_path=logs, clock=clock,
        on_error="skip", batch_max_num_msg=4, batch_timeout_ms=60_000,
    ) as operator:  # fmt: skip
        for payload in (b"a", b"b", b"c", b"bad"):
            source.send(payload, clock.now().wall_ms)
        while not operator.stats.batches:
            next(operator)
    source.close()
    ran = [each for each in said(only_run(logs, "batches")) if isinstance(each, Ran)]
    return [(each.finish_steady_ms - each.start_steady_ms, each.error, len(each.outputs)) for each in ran]


def test_a_part_of_a_batch_that_fails_took_as_long_as_itself(memory: str, logs: Path) -> None:
    def task(items: list[bytes], clock: ManualClock) -> bytes:
        clock.advance(100)
        if b"bad" in items:
            raise ValueError("bad")
        return b"".join(items)

    failed = (100, "ValueError: bad", 0)
    assert batches(memory, logs, task) == [failed, failed, failed, (100, None, 1)]


def test_a_batch_that_is_run_in_halves_took_from_the_first_to_the_last_that_something_came_of(
    memory: str, logs: Path
) -> None:
    def task(items: list[bytes], clock: ManualClock) -> bytes:
        clock.advance(100)
        if len(items) > 2:
            raise ValueError("too many")
        return b"".join(items)

    assert batches(memory, logs, task) == [(100, "ValueError: too many", 0), (200, None, 2)]


def test_a_gate_that_raised_is_in_the_log_before_what_became_of_its_input(memory: str, logs: Path) -> None:
    send(memory, 2)
    with Compute(pass_on, memory, topic_in="in", gate_in=failing(1), log_path=logs, on_error="skip") as operator:
        assert [next(operator), next(operator)] == [b"0", None]
    (raised,) = [each for each in said(only_run(logs, "worker1")) if isinstance(each, GateRaised)]
    assert (raised.number, raised.error) == (1, "GateError: bad gate")
