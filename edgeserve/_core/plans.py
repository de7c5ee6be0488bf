"""What an operator's arguments say about its join, as values: it is made of them, also when a log is run again.

The fields have the names of the operators' arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from edgeserve._core.batches import Batching, BatchJoin
from edgeserve._core.flows import DATA, MAX_BYTES, MAX_FLOWS, SIGNAL, FlowJoin, FlowPolicy
from edgeserve._core.join import Join, JoinPolicy, LatestJoin, NoJoin
from edgeserve._core.nearest_join import NearestJoin
from edgeserve.errors import UsageError

ONLY = "example"
"""The parameter of what takes examples of whatever source."""


class Plan(Protocol):
    """What makes a join.

    Attributes:
        kind: Which of the plans it is, as logs name it.
        parameters: The task's parameters in order, each with the source that it takes; `""` for whatever comes.
    """

    kind: ClassVar[str]

    @property
    def parameters(self) -> Mapping[str, str]:
        """See above."""

    def make(self) -> Join:
        """A join that has seen nothing yet.

        Raises:
            UsageError: An argument is wrong.
        """


@dataclass(frozen=True)
class ComputePlan:
    """The join of a `Compute`, and, with one parameter, that of a `Materialize`."""

    kind: ClassVar[str] = "compute"

    parameters: Mapping[str, str]
    join: Literal["latest", "nearest"] = "latest"
    max_time_diff_ms: int = 10_000
    no_overlap: bool = False
    min_interval_ms: float = 0
    drop_if_older_than_ms: int | None = None
    max_wait_ms: float = 1000
    max_waiting: int = 10_000

    def make(self) -> Join:
        """See `Plan`."""
        policy = JoinPolicy(
            self.parameters,
            max_time_diff_ms=self.max_time_diff_ms,
            no_overlap=self.no_overlap,
            min_interval_ms=self.min_interval_ms,
            drop_if_older_than_ms=self.drop_if_older_than_ms,
        )
        if self.join == "latest":
            return NoJoin(policy) if len(self.parameters) == 1 else LatestJoin(policy)
        if self.join != "nearest":
            raise UsageError(f"join is {self.join!r}: expected 'latest' or 'nearest'")
        if len(self.parameters) == 1:
            raise UsageError("join='nearest' needs a task with two parameters or more: there is nothing to be near to")
        return NearestJoin(policy, max_wait_ms=self.max_wait_ms, max_waiting=self.max_waiting)


@dataclass(frozen=True)
class FlowPlan:
    """The join of a `Model` or a `BatchModel`."""

    kind: ClassVar[str] = "flows"

    has_signal: bool
    max_time_diff_ms: int = 10_000
    min_interval_ms: float = 0
    max_waiting_flows: int = MAX_FLOWS
    max_waiting_bytes: int = MAX_BYTES
    batch_max_num_msg: int = 1
    batch_max_bytes: int = Batching.max_bytes
    batch_timeout_ms: float = 0

    @property
    def parameters(self) -> Mapping[str, str]:
        """See `Plan`."""
        return {DATA: DATA, SIGNAL: SIGNAL} if self.has_signal else {DATA: DATA}

    def make(self) -> Join:
        """See `Plan`."""
        flows = FlowPolicy(self.has_signal, self.max_time_diff_ms, self.max_waiting_flows, self.max_waiting_bytes)
        batching = Batching(
            self.batch_max_num_msg,
            self.batch_max_bytes,
            self.batch_timeout_ms,
            min_interval_ms=self.min_interval_ms,
        )
        if not self.has_signal and batching == Batching():
            return NoJoin(JoinPolicy(self.parameters))
        return FlowJoin(flows, batching)


@dataclass(frozen=True)
class BatchPlan:
    """What makes the batches of a `BatchCompute`."""

    kind: ClassVar[str] = "batches"
    parameters: ClassVar[Mapping[str, str]] = {ONLY: ""}

    max_time_diff_ms: int = 10_000
    min_interval_ms: float = 0
    batch_max_num_msg: int = 100
    batch_max_bytes: int = Batching.max_bytes
    batch_timeout_ms: float = 10
    max_waiting: int = 10_000

    def make(self) -> Join:
        """See `Plan`."""
        batching = Batching(
            self.batch_max_num_msg,
            self.batch_max_bytes,
            self.batch_timeout_ms,
            self.max_time_diff_ms,
            self.min_interval_ms,
        )
        return BatchJoin(ONLY, batching, self.max_waiting)
