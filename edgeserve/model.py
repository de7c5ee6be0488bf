"""`Model` is one model of a cascade: it answers flows that it is sure of, and asks a dearer model about the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgeserve._cascading import Answers, Cascading, Gates, Topics
from edgeserve._core.checks import check_count
from edgeserve._core.clock import Clock
from edgeserve._core.flows import MAX_BYTES, MAX_FLOWS
from edgeserve._core.plans import FlowPlan
from edgeserve._core.step import Job, Outcome
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import Life
from edgeserve._payload import Gate
from edgeserve._route import DEFAULT_FTP_PATH, RoutePolicy
from edgeserve._task import check_takes
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore

__all__ = ["Model"]


class ModelWork:
    """Runs the task on one flow.

    Args:
        task: The user's.
        answers: What becomes of what it returns.
    """

    def __init__(self, task: Callable[..., Any], answers: Answers) -> None:
        self._task = task
        self._answers = answers

    def call(self, job: Job) -> Any:
        """See `Work`."""
        return self._task(*job.arguments[0].values())

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """See `Work`."""
        if result is None:
            return (Outcome(job.examples, None),)
        if not isinstance(result, tuple) or len(result) != 2:
            raise UsageError(f"the task of a Model returned {result!r:.80}: expected a pair, (is_satisfied, output)")
        is_satisfied, output = result
        return (self._answers.outcome_of(job.units[0], is_satisfied, output),)


class Model(Cascading[bytes]):
    """Runs a task on flows: all there are, or those that a cheaper model asks about.

    Data and signals are matched by flow id, in whichever order they come. The task says whether it is satisfied with
    its output: if so, that goes to the destination, else to a dearer model as a signal. Operators with one `model_id`
    are replicas that share the flows; the data and the signal of a flow always meet in one of them. `next()` takes one
    arriving example, or a moment that was waited for, and returns the bytes that were sent, or None.

    Args:
        task: Called with the data, and with the signal if there is a `topic_in_signal`. Returns
            `(is_satisfied, output)`; an output of None sends nothing when it is satisfied.
        pulsar_node: The broker; None for the local one.
        topic_in_data: The topic of the data.
        topic_out_destination: The topic of the answers that the task is satisfied with.
        topic_in_signal: The topic on which a cheaper model asks about flows. None: each example of data is served.
        topic_out_signal: The topic on which a dearer model is asked about what the task is not satisfied with.
        gate_in_data: Called on each payload of data when it arrives, before any fetch; None from it drops the example.
        gate_out_destination: Called on outputs that go to the destination; bytes-like or str (as UTF-8) leaves. None,
            or nothing in it, sends nothing.
        gate_in_signal: Called on each payload of a signal when it arrives.
        gate_out_signal: Called on outputs that ask the dearer model. `(False, None)` of the task asks with nothing.
        model_id: This model's name, at most 16 bytes: the name of its outputs and of its subscription.
        header_size: The most bytes that a flow id of its outputs has, and what is taken for the flow id of messages
            whose sender has not marked its size; None for 32. 0 for a model without flows and without signals.
        ftp: Whether a gate's result that is a URL (str or bytes) is fetched just before the task, so that the payloads
            of flows that nobody asks about never move. What `store=` of a source made a URL of is fetched in any case.
        ftp_memory: Whether the task then gets the payload's bytes; else the path of a file, and its own output is kept
            in a file too (`store`), whose URL goes to the gate.
        ftp_delete: Whether a payload is deleted in its store when its example was used and acknowledged. With several
            models the first one takes it away from the others.
        local_ftp_path: The folder of this node's own payloads, where its FTP server serves it; fetched files go to
            `local_ftp_path/HOST/`.
        max_time_diff_ms: How far the captures of signals may be past that of data which waits; beyond that nobody has
            asked about it. No clock and no newer data makes it too old, so a cheap model may lag or start again. It is
            also how far apart the captures of data and its signal may lie.
        no_overlap: Of the research prototype: data is answered once in any case.
        min_interval_ms: The least time from one start of the task to the next; flows wait meanwhile, and none is lost.
        log_path, log_filename, log_verbose: As for `Compute`.
        acknowledge: Of the research prototype: inputs are acknowledged in any case, when the broker has what was made
            of them.
        receiver_queue_size: How many messages are fetched ahead of the task.
        max_waiting_flows: How many examples of data wait to be asked about. When there are so many no more are read; if
            then a signal waits for data that was not read yet, the oldest make room, and count as evicted.
        max_waiting_bytes: The same in bytes, as they travelled.
        send_unsatisfied: Whether, where there is no next model, what the task is not satisfied with goes to the
            destination all the same; else it is an error of the task.
        decode: Turns what `gate_in_data` returned, or the payload that was fetched, into the task's argument.
        decode_signal: The same for signals.
        store: Where outputs are kept in file mode; None for `local_ftp_path/ftp_output`, under this host's name.
        fetching: How payloads are fetched: from which hosts, how large, how often it is tried.
        packing: Whether outputs that had to wait for the broker leave together in one message, which is several times
            as fast; such a topic can't be shared by flow. None: those for the destination do, those for the next model
            do not, so that it can have replicas.
        on_error: What happens when the task or a gate raises. `'raise'`: the step raises, its examples stay
            unacknowledged, and the next step goes on with the next flow; `'retry'`: they are tried again, then become
            dead letters; `'dead_letter'`: they do at once; `'skip'`: they are given up.
        max_retries: How often `'retry'` tries again.
        retry_interval_ms: How long `'retry'` waits before each time.
        clock: Where time is read; None for the machine's clocks.
        idle_timeout_ms: How long to wait for an arrival before the iteration stops; None: for ever.
        close_timeout_ms: How long `close()` waits for the broker's confirmations.

    Raises:
        UsageError: An argument is wrong; the message says which, and what was expected.
        BrokerError, BrokerUnreachable: The broker can't be used.
    """

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
        model_id: str = "model1",
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
        receiver_queue_size: int = 10_000,
        *,
        log_verbose: bool = False,
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
        check_count("receiver_queue_size", receiver_queue_size)
        check_takes(task, ("data",) if topic_in_signal is None else ("data", "signal"))
        super().__init__(
            task,
            partial(ModelWork, task),
            pulsar_node,
            model_id,
            Topics(topic_in_data, topic_out_destination, topic_in_signal, topic_out_signal),
            Gates(gate_in_data, gate_out_destination, gate_in_signal, gate_out_signal),
            FlowPlan(
                topic_in_signal is not None, max_time_diff_ms, min_interval_ms, max_waiting_flows, max_waiting_bytes
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
            queue_size=receiver_queue_size,
            packing=packing,
            send_unsatisfied=send_unsatisfied,
        )
