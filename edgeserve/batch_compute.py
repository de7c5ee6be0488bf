"""`BatchCompute` runs a task on micro-batches, for tasks whose batch is cheaper than its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.clock import Clock
from edgeserve._core.ids import DerivedIds
from edgeserve._core.plans import ONLY, BatchPlan
from edgeserve._core.step import Job, Outcome
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import End, Life
from edgeserve._payload import Gate
from edgeserve._ports import Inputs, OutGate, Outputs, Values, one_output
from edgeserve._route import DEFAULT_FTP_PATH, KeptOutputs, RoutePolicy
from edgeserve._task import check_name
from edgeserve._topics import one_topic, topic_list
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore

__all__ = ["BatchCompute"]


class BatchComputeWork:
    """Runs the task on a list, one item for each example.

    Args:
        task: The user's.
        gate_out: What becomes of its result.
        ids: Of the outputs.
    """

    def __init__(self, task: Callable[[list[Any]], Any], gate_out: OutGate, ids: DerivedIds) -> None:
        self._task = task
        self._gate_out = gate_out
        self._ids = ids

    def call(self, job: Job) -> Any:
        """See `Work`."""
        return self._task([each[ONLY] for each in job.arguments])

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """See `Work`."""
        return (one_output(job, self._gate_out, result, self._ids),)


class BatchCompute(Consuming[bytes]):
    """Runs a task on batches of examples, of whatever source, in the order in which they arrive.

    A batch leaves when it is full by count or by bytes, or when its first example has waited long enough, whichever is
    first. Operators with one `worker_id` are replicas that share the examples. `next()` makes one batch and returns the
    bytes that were sent of it, or None; `stats.batches` says how large the batches were. As timing makes the batches, a
    run that is repeated after a crash may make others, with other output ids.

    Args:
        task: Called with a list, one item for each example; returns one output. None sends nothing.
        pulsar_node, worker_id: As for `Compute`.
        gate_in: Called on each arriving payload (bytes); its result is the item of the list. None drops the example. A
            dict holds one gate for each source.
        gate_out, ftp, ftp_memory, ftp_delete, local_ftp_path, topic_in, topic_out: As for `Compute`.
        max_time_diff_ms: How far apart the capture times in one batch may lie, ends included.
        no_overlap: Of `Compute`; here an example is in one batch in any case.
        min_interval_ms: The least time from the start of one batch to that of the next; examples wait meanwhile.
        log_path, log_filename, log_verbose: As for `Compute`.
        acknowledge: Of the research prototype: inputs are acknowledged in any case, when the broker has what was made
            of them.
        batch_max_num_msg: How many examples a batch has at most.
        batch_max_bytes: How many bytes it has at most, as they travelled; an example that has more is alone.
        batch_timeout_ms: How long its first example waits for others.
        max_waiting: How many examples may wait, as when they come faster than `min_interval_ms` lets them be served;
            beyond that no more are read.
        decode, store, fetching, packing: As for `Compute`.
        on_error: What happens when the task or a gate raises. `'raise'`: the step raises and names its examples,
            which stay unacknowledged; the next step goes on with the next batch. Otherwise the batch is run in
            halves until it is known what fails by itself; that is given up, and the rest is served together.
            `'retry'`: the batch is tried again before that; what is given up then becomes a dead letter, with
            `'dead_letter'` at once; `'skip'`: it is dropped.
        max_retries, retry_interval_ms, clock, idle_timeout_ms, close_timeout_ms: As for `Compute`.

    Raises:
        UsageError: An argument is wrong; the message says which, and what was expected.
        BrokerError, BrokerUnreachable: The broker can't be used.
    """

    _serves_batches = True

    def __init__(
        self,
        task: Callable[[list[Any]], Any],
        pulsar_node: Address,
        worker_id: str = "worker1",
        gate_in: Gate | Mapping[str, Gate] | None = None,
        gate_out: Gate | None = None,
        ftp: bool = False,
        ftp_memory: bool = False,
        ftp_delete: bool = False,
        local_ftp_path: str = DEFAULT_FTP_PATH,
        topic_in: str | Sequence[str] = "src",
        topic_out: str = "dst",
        max_time_diff_ms: int = 10_000,
        no_overlap: bool = False,
        min_interval_ms: float = 0,
        log_path: LogPath = None,
        log_filename: str | None = None,
        acknowledge: bool = True,
        batch_max_num_msg: int = 100,
        batch_max_bytes: int = 10 * 1024 * 1024,
        batch_timeout_ms: float = 10,
        *,
        log_verbose: bool = False,
        max_waiting: int = 10_000,
        decode: Callable[[Any], Any] | None = None,
        store: PayloadStore | None = None,
        fetching: Fetching | None = None,
        packing: bool | None = None,
        on_error: OnError = "raise",
        max_retries: int = 3,
        retry_interval_ms: float = 100,
        clock: Clock | None = None,
        idle_timeout_ms: float | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        if not callable(task):
            raise UsageError(f"the task is {task!r}: expected something that can be called")
        route = RoutePolicy.from_flags(
            ftp=ftp, memory=ftp_memory, delete=ftp_delete, root=local_ftp_path, fetching=fetching
        )
        op_from = check_name(worker_id, "worker_id")
        plan = BatchPlan(
            max_time_diff_ms, min_interval_ms, batch_max_num_msg, batch_max_bytes, batch_timeout_ms, max_waiting
        )
        work = BatchComputeWork(task, OutGate(gate_out, "gate_out", KeptOutputs(store, route)), DerivedIds(op_from))
        super().__init__(
            worker_id,
            Life(clock, idle_timeout_ms, close_timeout_ms),
            Inputs(pulsar_node, topic_list(topic_in), worker_id, Share.MESSAGE, task),
            Values(gate_in, decode, route),
            ErrorPolicy(on_error, max_retries, retry_interval_ms),
            plan,
            work,
            LogTarget(log_path, log_filename, log_verbose),
            outputs=[Outputs(one_topic(topic_out), op_from, packing)],
        )

    def _step(self) -> bytes | End | None:
        return self._batch_step()
