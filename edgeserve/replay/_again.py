"""Running a log again: with the task and the knobs that were recorded, or with others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from edgeserve._core.checks import check_ms
from edgeserve._core.plans import ComputePlan, Plan
from edgeserve._log.head import Head
from edgeserve._log.reading import Block, LoggedRun
from edgeserve._payload import Gate
from edgeserve._task import bind_sources
from edgeserve.errors import UsageError
from edgeserve.replay._history import History
from edgeserve.replay._log import ReplayLog, load
from edgeserve.replay._moments import replay_moments
from edgeserve.replay._operators import OperatorRun
from edgeserve.replay._simulation import TaskTimes, simulate
from edgeserve.replay._tools import Callables, IsRight, Tools, make_tools

Log = ReplayLog | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""A log that was loaded, or where it is."""

_FIXED = frozenset({"parameters", "has_signal"})


@dataclass(frozen=True)
class RunAgain:
    """A run that was made again, as the records that it would have left."""

    head: Head
    written: Sequence[Block]

    def blocks(self) -> Iterator[Block]:
        """Its records."""
        yield from self.written


class Replayer:
    """Runs one operator of a log again, any number of times.

    Args:
        log: The log.
        operator: Whose run, or which one of `log.runs`; None where there is one that joins.
        callables: The task and its gates; None: what was made of the inputs is what was made of them then.
        inputs: Sources by parameter, where the names of the task's parameters can't be theirs.
        task_ms: How long the task takes; see `run`.
        is_right: Whether an output is; see `run`.
    """

    def __init__(
        self,
        log: Log,
        operator: str | OperatorRun | None,
        callables: Callables | None,
        *,
        inputs: Mapping[str, str] | None,
        task_ms: float | str | None,
        is_right: IsRight | None,
    ) -> None:
        loaded = log if isinstance(log, ReplayLog) else load(log)
        logged = loaded.logged(operator)
        if not isinstance(logged, LoggedRun):
            raise UsageError("a log that was made by running another one again can't be run again: run the first one")
        self.history = History.of(logged, keeps_payloads=callables is not None)
        self.recorded = loaded
        self._callables = callables
        self._is_right = is_right
        if callables is None and (is_right is not None or task_ms == "measured"):
            raise UsageError("is_right= and task_ms='measured' need a task that runs: give task=")
        if callables is not None and not self.history.head.has_payloads:
            raise UsageError(
                f"the log of {self.history.head.operator!r} has no payloads, which a task needs: record it with "
                "log_verbose=True"
            )
        self._task_ms = _checked_task_ms(task_ms)
        if task_ms is None:
            task_ms = "recorded" if callables is None else "measured"
        self._task_times = TaskTimes(self.history, task_ms)
        self._parameters = self._bound(inputs)

    def _bound(self, inputs: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """The parameters of the task that was given, where they are not those of the recorded one."""
        recorded = self.history.plan.parameters
        if self._callables is None or not isinstance(self.history.plan, ComputePlan) or list(recorded.values()) == [""]:
            return None
        try:
            bound = bind_sources(self._callables.task, inputs)
        except UsageError:
            if inputs is not None:
                raise
            return None  # it does not say: its parameters are those of the recorded one
        if missing := set(bound.values()) - set(recorded.values()):
            raise UsageError(
                f"the task takes {sorted(missing)}, and the recorded one took {sorted(recorded.values())}: name the "
                "sources with inputs="
            )
        # Their order counts: the first one leads the nearest join, and ids are made in it.
        return bound if list(bound.items()) != list(recorded.items()) else None

    def plan(self, knobs: Mapping[str, Any]) -> Plan:
        """The recorded plan, with other knobs.

        Raises:
            UsageError: It has no such knob, or not of such a value.
        """
        plan: Any = self.history.plan
        known = {each.name for each in fields(plan)} - _FIXED
        if unknown := knobs.keys() - known:
            raise UsageError(
                f"{', '.join(sorted(unknown))}: {self.history.head.operator_class} {self.history.head.operator!r} can "
                f"be run again with {', '.join(sorted(known))}"
            )
        changed: Plan = replace(plan, **{name: _plain(value) for name, value in knobs.items()})
        if self._parameters is not None:
            changed = replace(changed, parameters=self._parameters)  # type: ignore[type-var] # those are a Compute's
        changed.make()  # checks the values
        return changed

    def run(self, knobs: Mapping[str, Any]) -> ReplayLog:
        """Run it with these knobs, and those that were recorded."""
        plan = self.plan(knobs)
        tools = self._tools()
        if plan == self.history.plan and self._parameters is None and self._task_ms is None:
            blocks = replay_moments(self.history, plan, tools)
        else:
            blocks = simulate(self.history, plan, tools, self._task_times)
        told = {name: _plain(value) for name, value in knobs.items()}
        if self._parameters is not None:
            told["parameters"] = dict(self._parameters)
        head = replace(self.history.head, plan={**self.history.head.plan, **told}, has_payloads=False)
        again = RunAgain(head, blocks)
        scores = tools.scores.by_id if tools is not None and self._is_right is not None else None
        return ReplayLog([again], scores, self.recorded)

    def _tools(self) -> Tools | None:
        if self._callables is None:
            return None
        return make_tools(self.history.head, self._callables, self._is_right)


def run(
    log: Log,
    operator: str | OperatorRun | None = None,
    *,
    task: Callable[..., Any] | None = None,
    gate_in: Gate | Mapping[str, Gate] | None = None,
    decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None = None,
    gate_out: Gate | None = None,
    gate_out_signal: Gate | None = None,
    inputs: Mapping[str, str] | None = None,
    task_ms: float | str | None = None,
    is_right: IsRight | None = None,
    **knobs: Any,
) -> ReplayLog:
    """Run an operator's log again, through the same join, pacing and batching, without a broker.

    With the knobs that were recorded, the recorded moments are replayed, and give the same decisions. With others, or
    with `task_ms`, or where the task takes other sources or takes them in another order, a simulated clock goes on:
    arrivals come when they reached the node, and the operator is busy for as long as its task takes.

    Args:
        log: The log, or where it is.
        operator: Whose run, by name, or one of the loaded log's `runs`; None where there is one operator that joins and
            sends.
        task: Another task. It needs payloads in the log (`log_verbose=True`). At the recorded moments it is run on what
            the recorded task was run on; where that failed, at its last try, and on what it failed on. None: the task
            does not run; what it made or raised is what it made or raised then, and what it would have made of inputs
            that it was not run on is taken to be one output.
        gate_in: As for the operator; for a model it may be a dict with `'data'` and `'signal'`. It is asked about all
            that the recorded gate was asked about, at the moments at which that was, also about what that dropped, or
            raised on. What comes of a source for which no gate is given stays dropped, or failed, if it was.
        decode: Likewise. Payloads that travelled as URLs are what was fetched then.
        gate_out: As for the operator.
        gate_out_signal: What a model's answers to the next model go through.
        inputs: Sources by parameter, where the names of the task's parameters can't be theirs.
        task_ms: How long each run of the task takes on the simulated clock: a number; `'recorded'`: as long as the
            recorded run on as many inputs took that was nearest in time; `'measured'`: as long as it takes now. None:
            `'measured'` with a task, else `'recorded'`, where a clock is simulated.
        is_right: Called with the task's output and its arguments (a dict by parameter); whether the output is right,
            which is where labels come in. For a `BatchModel` it is called for each flow; outputs of whole batches are
            neither right nor wrong. The answers are the column `is_right` of the predictions.
        knobs: Arguments of the operator that shape its join: `max_time_diff_ms`, `min_interval_ms`, `join`,
            `drop_if_older_than_ms`, `no_overlap`, `max_wait_ms`, `max_waiting`; those of batches and of waiting flows.

    Returns:
        A log of the one operator, as if it had run so.

    Raises:
        UsageError: The log can't be run again (a part or a payload is missing), or not on a simulated clock (others had
            the subscription meanwhile), or an argument is wrong.
        MissingExtra: pandas or pyarrow is not installed.
        Exception: What the task or a gate raises.
    """
    callables = callables_of(task, gate_in, decode, gate_out, gate_out_signal)
    replayer = Replayer(log, operator, callables, inputs=inputs, task_ms=task_ms, is_right=is_right)
    return replayer.run(knobs)


def callables_of(
    task: Callable[..., Any] | None,
    gate_in: Gate | Mapping[str, Gate] | None,
    decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None,
    gate_out: Gate | None,
    gate_out_signal: Gate | None,
) -> Callables | None:
    """The task and its gates, if there is a task.

    Raises:
        UsageError: There are gates without one.
    """
    if task is not None:
        return Callables(task, gate_in, decode, gate_out, gate_out_signal)
    given = {"gate_in": gate_in, "decode": decode, "gate_out": gate_out, "gate_out_signal": gate_out_signal}
    if alone := [name for name, each in given.items() if each is not None]:
        raise UsageError(f"{', '.join(alone)}: gates are run with a task: give task= as well")
    return None


def _plain(value: Any) -> Any:
    """A number of NumPy's, as one has from a table, as Python's."""
    return value.item() if hasattr(value, "item") else value


def _checked_task_ms(task_ms: float | str | None) -> float | str | None:
    if isinstance(task_ms, str):
        if task_ms not in ("recorded", "measured"):
            raise UsageError(f"task_ms is {task_ms!r}: expected a number of ms, 'recorded' or 'measured'")
    elif task_ms is not None:
        check_ms("task_ms", task_ms)
    return task_ms
