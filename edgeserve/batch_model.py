"""`BatchModel` is a `Model` that serves flows in micro-batches, for models whose batch is cheaper than its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from edgeserve._cascading import Answers, Cascading, Gates, Topics
from edgeserve._core.clock import Clock
from edgeserve._core.flows import DATA, MAX_BYTES, MAX_FLOWS
from edgeserve._core.plans import FlowPlan
from edgeserve._core.step import Job, Outcome
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import End, Life
from edgeserve._payload import Gate
from edgeserve._route import DEFAULT_FTP_PATH, RoutePolicy
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore

__all__ = ["BatchModel"]

_QUEUE_SIZE = 10_000


class BatchModelWork:
    """Runs the task on a dict of flows.

    Args:
        task: The user's.
        answers: What becomes of what it returns.
    """

    def __init__(self, task: Callable[..., Any], answers: Answers) -> None:
        self._task = task
        self._answers = answers

    def call(self, job: Job) -> Any:
        """See `Work`."""
        flow_ids = [unit[DATA].header for unit in job.units]
        values = [tuple(each.values()) if len(each) > 1 else each[DATA] for each in job.arguments]
        return self._task(dict(zip(flow_ids, values, strict=True)))

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """See `Work`."""
        if result is None:
            return (Outcome(job.examples, None),)
        if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(part, Mapping) for part in result):
            raise UsageError(
                f"the task of a BatchModel returned {result!r:.80}: expected two dicts by flow id, is_satisfied and "
                "output"
            )
        is_satisfied, output = result
        for what, given in (("is_satisfied", is_satisfied), ("output", output)):
            flow_ids = {unit[DATA].header for unit in job.units}
            if missing := flow_ids - given.keys():
                raise UsageError(
                    f"{what} has nothing for the flows {sorted(missing)[:5]}: expected one for each, by its bytes"
                )
            if unknown := given.keys() - flow_ids:
                raise UsageError(f"{what} has flows that were not asked about: {list(unknown)[:5]}")
        return [
            self._answers.outcome_of(unit, is_satisfied[unit[DATA].header], output[unit[DATA].header])
            for unit in job.units
        ]


class BatchModel(Cascading[dict[bytes, bytes]]):
    """Runs a task on batches of flows: all there are, or those that a cheaper model asks about.

    It is a `Model` but for its batches. A batch leaves when it is full by count or by bytes, or when its first flow has
    waited long enough, whichever is first; a flow is in it once. The outputs of a batch leave together. `next()` makes
    one batch and returns what was sent of it, by flow id; `stats.batches` says how large the batches were.

    Args:
        task: Called with a dict of flow id (bytes, without padding) to data, or to `(data, signal)` if there is a
            `topic_in_signal`. Returns two dicts, `is_satisfied` and `output`, by flow id; an output of None sends
            nothing when the task is satisfied.
        pulsar_node, topic_in_data, topic_out_destination, topic_in_signal, topic_out_signal: As for `Model`.
        gate_in_data, gate_out_destination, gate_in_signal, gate_out_signal: As for `Model`: for one flow at a time.
        header_size, ftp, ftp_memory, ftp_delete, local_ftp_path, max_time_diff_ms, no_overlap, log_path, log_filename,
            log_verbose, acknowledge: As for `Model`.
        min_interval_ms: The least time from the start of one batch to that of the next; flows wait meanwhile.
        batch_max_num_msg: How many flows a batch has at most.
        batch_max_bytes: How many bytes of data and signals it has at most, as they travelled; a flow that has more is
            alone.
        batch_timeout_ms: How long its first flow waits for others.
        model_id, max_waiting_flows, max_waiting_bytes, send_unsatisfied, decode, decode_signal, store, fetching,
            packing: As for `Model`.
        on_error: What happens when the task or a gate raises. `'raise'`: the step raises and names its flows,
            which stay unacknowledged; the next step goes on with the next batch. Otherwise the batch is run in
            halves until it is known what fails by itself; that is given up, and the rest is served together.
            `'retry'`: the batch is tried again before that; what is given up then becomes a dead letter, with
            `'dead_letter'` at once; `'skip'`: it is dropped.
        max_retries, retry_interval_ms, clock, idle_timeout_ms, close_timeout_ms: As for `Model`.

    Raises:
        UsageError: An argument is wrong; the message says which, and what was expected.
        BrokerError, BrokerUnreachable: The broker can't be used.
    """

    _serves_batches = True

    def __init__(
        self,
        task: Callable[..., Any],
        pulsar_node: Address,
        topic_in_data: str,
        topic_out_destination: str,
        topic_in_signal: str | None = None,
        topic_out_signal: str | None = None,
        gate_in_data: Gate | None = None,
        gate_out_destination: Gate | None = None,
        gate_in_signal: Gate | None = None,
        gate_out_signal: Gate | None = None,
        header_size: int | None = None,
        ftp: bool = False,
        ftp_memory: bool = False,
        ftp_delete: bool = False,
        local_ftp_path: str = DEFAULT_FTP_PATH,
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
        model_id: str = "model1",
        max_waiting_flows: int = MAX_FLOWS,
        max_waiting_bytes: int = MAX_BYTES,
        send_unsatisfied: bool = False,
        decode: Callable[[Any], Any] | None = None,
        decode_signal: Callable[[Any], Any] | None = None,
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
        super().__init__(
            task,
            partial(BatchModelWork, task),
            pulsar_node,
            model_id,
            Topics(topic_in_data, topic_out_destination, topic_in_signal, topic_out_signal),
            Gates(gate_in_data, gate_out_destination, gate_in_signal, gate_out_signal),
            FlowPlan(
                topic_in_signal is not None,
                max_time_diff_ms,
                min_interval_ms,
                max_waiting_flows,
                max_waiting_bytes,
                batch_max_num_msg,
                batch_max_bytes,
                batch_timeout_ms,
            ),
            LogTarget(log_path, log_filename, log_verbose),
            life=Life(clock, idle_timeout_ms, close_timeout_ms),
            errors=ErrorPolicy(on_error, max_retries, retry_interval_ms),
            route=RoutePolicy.from_flags(
                ftp=ftp, memory=ftp_memory, delete=ftp_delete, root=local_ftp_path, fetching=fetching
            ),
            decode=decode,
            decode_signal=decode_signal,
            store=store,
            header_size=header_size,
            queue_size=_QUEUE_SIZE,
            packing=packing,
            send_unsatisfied=send_unsatisfied,
        )

    def _step(self) -> dict[bytes, bytes] | End | None:
        return self._batch_step()

    def _returned(self, outcomes: Sequence[Outcome]) -> dict[bytes, bytes] | None:
        sent = {outcome.flow_id: outcome.payload for outcome in outcomes if outcome.payload is not None}
        return sent or None
