"""The task and the gates with which a log is run again, made into the halves of a step that an operator has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve._cascading import Answers, Gates
from edgeserve._core.flows import DATA
from edgeserve._core.ids import DerivedIds
from edgeserve._core.step import Job, Outcome, Unit
from edgeserve._log.head import Head
from edgeserve._payload import Gate
from edgeserve._ports import OutGate, Values, Work
from edgeserve._route import DEFAULT_FTP_PATH, KeptOutputs, RoutePolicy
from edgeserve._task import check_name
from edgeserve.batch_compute import BatchComputeWork
from edgeserve.batch_model import BatchModelWork
from edgeserve.compute import ComputeWork
from edgeserve.errors import UsageError
from edgeserve.materialize import SinkWork
from edgeserve.model import ModelWork


@dataclass(frozen=True)
class Tools:
    """What runs the task.

    Attributes:
        values: What becomes of payloads before the task.
        work: The task, and what becomes of its result.
        scores: Which outputs are right.
    """

    values: Values
    work: Work
    scores: Scores

    def has_gate(self, source: str) -> bool:
        """Whether a gate was given for what comes of this source."""
        gate = self.values.gate
        return source in gate if isinstance(gate, Mapping) else gate is not None


@dataclass(frozen=True)
class Callables:
    """What the user gives to run a log with, as the operator's arguments are called.

    Attributes:
        task: The task.
        gate_in: By source (for models `data` and `signal`), or one for all.
        decode: The same.
        gate_out: What goes to the destination.
        gate_out_signal: What goes to the next model.
    """

    task: Callable[..., Any]
    gate_in: Gate | Mapping[str, Gate] | None = None
    decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None
    gate_out: Gate | None = None
    gate_out_signal: Gate | None = None


IsRight = Callable[[Any, Mapping[str, Any]], bool]
"""Whether a task's output is right, given the arguments that it was called with, by parameter."""


class Scores:
    """Asks for each output whether it is right.

    Args:
        is_right: Says it; None: nobody asks.
        operator_class: Whose task made them.
    """

    def __init__(self, is_right: IsRight | None, operator_class: str) -> None:
        self._is_right = is_right
        self._class = operator_class
        self.by_id: dict[bytes, bool] = {}
        """The answers, by the outputs' ids."""

    def note(self, job: Job, result: Any, outcomes: Sequence[Outcome]) -> None:
        """Ask about what came of a job, flow by flow where the task answers so.

        Raises:
            UsageError: It is a single answer to several units.
        """
        if self._is_right is None or not any(outcome.output_id for outcome in outcomes):
            return
        if len(job.units) != len(outcomes) or (len(job.units) > 1 and self._class != "BatchModel"):
            raise UsageError(
                "is_right= is for tasks that answer one match or one flow at a time, not for whole batches"
            )
        for unit, arguments, outcome in zip(job.units, job.arguments, outcomes, strict=True):
            if outcome.output_id:
                output = self._output_of(result, unit)
                self.by_id[outcome.output_id] = bool(self._is_right(output, arguments))

    def _output_of(self, result: Any, unit: Unit) -> Any:
        """What the task said besides whether it was satisfied, about one unit."""
        if self._class == "BatchModel":
            return result[1][unit[DATA].header]
        return result[1] if self._class == "Model" else result


def make_tools(head: Head, given: Callables, is_right: IsRight | None) -> Tools:
    """What an operator of this class would have made of the arguments.

    Raises:
        UsageError: Something can't be called.
    """
    if not callable(given.task):
        raise UsageError(f"the task is {given.task!r}: expected something that can be called")
    route = RoutePolicy.from_flags(ftp=False, memory=True, delete=False, root=DEFAULT_FTP_PATH, fetching=None)
    kept = KeptOutputs(None, route)
    scores = Scores(is_right, head.operator_class)
    values = Values(given.gate_in, given.decode, route)
    work: Work
    if head.operator_class == "Materialize":
        return Tools(values, SinkWork(given.task, values, with_flow_id=False), scores)
    ids = DerivedIds(check_name(head.operator, "the operator"))
    if head.operator_class in ("Model", "BatchModel"):
        gates = Gates(None, given.gate_out, None, given.gate_out_signal)
        has_next = len(head.topics_out) > 1
        answers = Answers(gates, kept, ids, has_next=has_next, send_unsatisfied=not has_next)
        work = (ModelWork if head.operator_class == "Model" else BatchModelWork)(given.task, answers)
    else:
        gate = OutGate(given.gate_out, "gate_out", kept)
        work = (BatchComputeWork if head.operator_class == "BatchCompute" else ComputeWork)(given.task, gate, ids)
    return Tools(values, work, scores)
