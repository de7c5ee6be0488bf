"""What logs say of gates and tasks that raise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeserve import BatchCompute, Compute, replay
from edgeserve._core.reasons import MOST_CHARACTERS, reason_of, shortened
from edgeserve._log.records import Ran
from edgeserve.testing import ManualClock
from tests.replay.pipelines import pass_on, said, send
from tests.replay.recorded import START_MS, Captured, only_run


class SpeechlessError(ValueError):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("nor does this")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("where", ["task"])
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
