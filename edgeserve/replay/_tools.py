"""The task and the gates with which a log is run again, made into the halves of a step that an operator has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeserve._cascading import Answers, Gates
from edgeserve._core.ids import DerivedIds
from edgeserve._log.records import Head
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
    """

    values: Values
    work: Work


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


def make_tools(head: Head, given: Callables) -> Tools:
    """What an operator of this class would have made of the arguments.

    Raises:
        UsageError: Something can't be called.
    """
    if not callable(given.task):
        raise UsageError(f"the task is {given.task!r}: expected something that can be called")
    route = RoutePolicy.from_flags(ftp=False, memory=True, delete=False, root=DEFAULT_FTP_PATH, fetching=None)
    kept = KeptOutputs(None, route)
    values = Values(given.gate_in, given.decode, route)
    work: Work
    if head.operator_class == "Materialize":
        return Tools(values, SinkWork(given.task, values, with_flow_id=False))
    ids = DerivedIds(check_name(head.operator, "the operator"))
    if head.operator_class in ("Model", "BatchModel"):
        gates = Gates(None, given.gate_out, None, given.gate_out_signal)
        has_next = len(head.topics_out) > 1
        answers = Answers(gates, kept, ids, has_next=has_next, send_unsatisfied=not has_next)
        work = (ModelWork if head.operator_class == "Model" else BatchModelWork)(given.task, answers)
    else:
        gate = OutGate(given.gate_out, "gate_out", kept)
        work = (BatchComputeWork if head.operator_class == "BatchCompute" else ComputeWork)(given.task, gate, ids)
    return Tools(values, work)
