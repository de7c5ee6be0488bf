"""`Compute` joins examples by the time of their capture and runs a task on what belongs together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.clock import Clock
from edgeserve._core.ids import DerivedIds
from edgeserve._core.plans import ComputePlan
from edgeserve._core.step import Job, Outcome
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import Life
from edgeserve._payload import Gate
from edgeserve._ports import Inputs, OutGate, Outputs, Values, one_output
from edgeserve._route import DEFAULT_FTP_PATH, KeptOutputs, RoutePolicy
from edgeserve._task import bind_sources, check_name
from edgeserve._topics import one_topic, topic_list
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore

__all__ = ["Compute"]


class ComputeWork:
    """Runs the task on one match, by keyword.

    Args:
        task: The user's.
        gate_out: What becomes of its result.
        ids: Of the outputs.
    """

    def __init__(self, task: Callable[..., Any], gate_out: OutGate, ids: DerivedIds) -> None:
        self._task = task
        self._gate_out = gate_out
        self._ids = ids

    def call(self, job: Job) -> Any:
        """See `Work`."""
        return self._task(**job.arguments[0])

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """See `Work`."""
        return (one_output(job, self._gate_out, result, self._ids),)


class Compute(Consuming[bytes]):
    """Runs a task on examples of one or more sources, joined by capture time, and sends its output on.

    The name of the upstream operator is the name of the task's parameter. `next()` takes one arriving example, or a
    moment that was waited for, and returns the bytes that were sent, or None.

    Args:
        task: Called with one keyword argument for each source. None from it sends nothing.
        pulsar_node: The broker; None for the local one.
        worker_id: This operator's name, at most 16 bytes: the name of its outputs and of its subscription.
        gate_in: Called on each arriving payload (bytes); its result is the task's argument. None drops the example.
            A dict holds one gate for each source.
        gate_out: Called on the task's output; bytes-like or str (as UTF-8) leaves. None, or nothing in it, sends
            nothing.
        ftp: Whether a gate's result that is a URL (str or bytes) is fetched just before the task. What `store=` of a
            source made a URL of is fetched in any case.
        ftp_memory: Whether the task then gets the payload's bytes; else the path of a file, and its own output is kept
            in a file too (`store`), whose URL goes to `gate_out`.
        ftp_delete: Whether a payload is deleted in its store when its example was used and acknowledged. With several
            consumers the first one takes it away from the others.
        local_ftp_path: The folder of this node's own payloads, where its FTP server serves it; fetched files go to
            `local_ftp_path/HOST/`.
        topic_in: The topic of the inputs, or several.
        topic_out: The topic of the outputs.
        max_time_diff_ms: How far apart the capture times of examples may lie that are joined, ends included.
        no_overlap: Whether an example is used once at most.
        min_interval_ms: The least time from one start of the task to the next.
        log_path: A folder for the operator's replay log, or a `LogFolder`, which also bounds it; None: no log.
        log_filename: What its files' names begin with; None for this operator's name and the time.
        log_verbose: Whether payloads are logged as well, for when the log is to be run again with another task.
        drop_if_older_than_ms: Examples are not served whose capture lies further back, when they arrive and when
            they are first used. None: any age.
        join: `'latest'` runs as soon as any source is new, with the newest of each; `'nearest'` matches each example
            of the first parameter once, with the nearest in capture time of every other source.
        max_wait_ms: How long a match of `'nearest'` waits to become final.
        max_waiting: How many examples of one source `'nearest'` keeps; beyond that the oldest is evicted.
        inputs: Sources by parameter, where the parameters' names can't be those of the sources.
        decode: Turns what `gate_in` returned, or the payload that was fetched, into the task's argument, just before
            the task.
        store: Where outputs are kept in file mode; None for `local_ftp_path/ftp_output`, under this host's name.
        fetching: How payloads are fetched: from which hosts, how large, how often it is tried.
        prefetch: How many payloads are fetched ahead of the task, for streams of which nearly all is used.
        packing: Whether outputs that had to wait for the broker leave together in one message, which is several times
            as fast; False sends each as a message of its own, as the research prototype did. None: wherever messages
            are not shared by flow id, so here always.
        on_error: What happens when the task or a gate raises. `'raise'`: the step raises, its new examples stay
            unacknowledged, and the next step goes on with the next one; `'retry'`: they are tried again, then become
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
        drop_if_older_than_ms: int | None = None,
        log_verbose: bool = False,
        *,
        join: Literal["latest", "nearest"] = "latest",
        max_wait_ms: float = 1000,
        max_waiting: int = 10_000,
        inputs: Mapping[str, str] | None = None,
        decode: Callable[[Any], Any] | None = None,
        store: PayloadStore | None = None,
        fetching: Fetching | None = None,
        prefetch: int = 0,
        packing: bool | None = None,
        on_error: OnError = "raise",
        max_retries: int = 3,
        retry_interval_ms: float = 100,
        clock: Clock | None = None,
        idle_timeout_ms: float | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        route = RoutePolicy.from_flags(
            ftp=ftp, memory=ftp_memory, delete=ftp_delete, root=local_ftp_path, fetching=fetching, prefetch=prefetch
        )
        op_from = check_name(worker_id, "worker_id")
        sources = bind_sources(task, inputs)
        plan = ComputePlan(
            sources,
            join=join,
            max_time_diff_ms=max_time_diff_ms,
            no_overlap=no_overlap,
            min_interval_ms=min_interval_ms,
            drop_if_older_than_ms=drop_if_older_than_ms,
            max_wait_ms=max_wait_ms,
            max_waiting=max_waiting,
        )
        wanted = frozenset(sources.values())
        if isinstance(gate_in, Mapping) and (unknown := gate_in.keys() - wanted):
            raise UsageError(f"gate_in has gates for {sorted(map(str, unknown))}; the sources are {sorted(wanted)}")
        work = ComputeWork(task, OutGate(gate_out, "gate_out", KeptOutputs(store, route)), DerivedIds(op_from))
        # Replicas share single examples; a join must see all of its streams, so that one is active.
        share = Share.MESSAGE if len(sources) == 1 else Share.STANDBY
        super().__init__(
            worker_id,
            Life(clock, idle_timeout_ms, close_timeout_ms),
            Inputs(pulsar_node, topic_list(topic_in), worker_id, share, task, wanted),
            Values(gate_in, decode, route),
            ErrorPolicy(on_error, max_retries, retry_interval_ms),
            plan,
            work,
            LogTarget(log_path, log_filename, log_verbose),
            outputs=[Outputs(one_topic(topic_out), op_from, packing)],
        )
