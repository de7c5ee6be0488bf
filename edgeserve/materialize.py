"""`Materialize` hands predictions to where they are used: a screen, an actuator, a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.clock import Clock
from edgeserve._core.plans import ONLY, ComputePlan
from edgeserve._core.step import Job, Outcome
from edgeserve._deduplicate import Deduplicate
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import Life
from edgeserve._payload import Gate
from edgeserve._ports import Inputs, Values
from edgeserve._route import DEFAULT_FTP_PATH, RoutePolicy
from edgeserve._task import check_callables, check_long_name
from edgeserve._topics import topic_list
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.fetching import Fetching

__all__ = ["Deduplicate", "Materialize"]

T = TypeVar("T")


class SinkWork:
    """Calls the user's function.

    Args:
        function: The user's.
        values: Where the function's file is, in file mode.
        with_flow_id: Whether the function gets the flow id, too.
    """

    def __init__(self, function: Callable[[Any], Any], values: Values, *, with_flow_id: bool) -> None:
        self._function = function
        self._route = values.route
        self._with_flow_id = with_flow_id

    def call(self, job: Job) -> Any:
        """See `Work`."""
        value = job.arguments[0][ONLY]
        return self._function((job.examples[0].header, value)) if self._with_flow_id else self._function(value)

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """See `Work`."""
        url = self._route.url_here(job.examples[0]) if self._route.policy.wants_urls else None
        return (Outcome(job.examples, result if url is None else url),)


class Materialize(Consuming[T]):
    """Calls a function on each example of a topic, in order, and acknowledges it when the function has returned.

    `next()` waits for one example and returns what the function returned, or None if the gate dropped it. A second
    operator with the same `sink_id` stands by and takes over when the first one goes.

    Args:
        materialize: Called with each example's payload (bytes, or what `gate` and `decode` made of it).
        pulsar_node: The broker; None for the local one.
        gate: Called on each arriving payload; None from it drops the example.
        ftp: Whether a gate's result that is a URL (str or bytes) is fetched into a file just before the function, which
            gets the file's path; `next()` then returns the URL of that file on this node. What `store=` of a source
            made a URL of is fetched in any case, without `ftp` into memory.
        ftp_delete: Whether a payload is deleted in its store when its example was acknowledged. With several consumers
            the first one takes it away from the others.
        local_ftp_path: The folder of this node's own payloads, where its FTP server serves it; fetched files go to
            `local_ftp_path/HOST/`.
        topic: The topic to read, or several.
        log_path, log_filename, log_verbose: As for `Compute`.
        sink_id: This operator's name, and that of its subscription.
        with_flow_id: Whether the function gets a pair: the flow id (bytes, without padding; b"" where there is none),
            and what it gets otherwise. For the answers of a cascade.
        decode: Turns what `gate` returned, or the payload that was fetched, into the function's argument.
        fetching: How payloads are fetched: from which hosts, how large, how often it is tried.
        prefetch: How many payloads are fetched ahead of the function, for streams of which nearly all is used.
        deduplicate: Whether the function is called once for each example's id, also when the broker sends it again
            after a crash; only what is inside the function when the process is killed may come twice. Ids are kept on
            this machine's disk (with a broker in memory, in memory); a `Deduplicate` says how many, and how long.
        on_error: What happens when the function or the gate raises. `'raise'`: the step raises, the example stays
            unacknowledged, and the next step goes on with the next one; `'retry'`: it is tried again, then becomes a
            dead letter; `'dead_letter'`: it does at once; `'skip'`: it is given up.
        max_retries: How often `'retry'` tries again.
        retry_interval_ms: How long `'retry'` waits before each time.
        clock: Where time is read; None for the machine's clocks.
        idle_timeout_ms: How long to wait for an arrival before the iteration stops; None: for ever.
        close_timeout_ms: How long `close()` waits for a step that is under way.

    Raises:
        UsageError: An argument is wrong; the message says which, and what was expected.
        BrokerError, BrokerUnreachable: The broker can't be used.
    """

    def __init__(
        self,
        materialize: Callable[[Any], T],
        pulsar_node: Address,
        gate: Gate | None = None,
        ftp: bool = False,
        ftp_delete: bool = False,
        local_ftp_path: str = DEFAULT_FTP_PATH,
        topic: str | Sequence[str] = "dst",
        log_path: LogPath = None,
        log_filename: str | None = None,
        *,
        log_verbose: bool = False,
        sink_id: str = "my-sub",
        with_flow_id: bool = False,
        decode: Callable[[Any], Any] | None = None,
        fetching: Fetching | None = None,
        prefetch: int = 0,
        deduplicate: bool | Deduplicate = False,
        on_error: OnError = "raise",
        max_retries: int = 3,
        retry_interval_ms: float = 100,
        clock: Clock | None = None,
        idle_timeout_ms: float | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        route = RoutePolicy.from_flags(
            ftp=ftp, memory=False, delete=ftp_delete, root=local_ftp_path, fetching=fetching, prefetch=prefetch
        )
        if not callable(materialize):
            raise UsageError(f"materialize is {materialize!r}: expected something that can be called")
        check_long_name(sink_id, "sink_id")
        if not isinstance(deduplicate, (bool, Deduplicate)):
            raise UsageError(f"deduplicate is {deduplicate!r}: expected True, False or a Deduplicate")
        check_callables(gate=gate)
        values = Values(gate, decode, route)
        super().__init__(
            sink_id,
            Life(clock, idle_timeout_ms, close_timeout_ms),
            Inputs(pulsar_node, topic_list(topic), sink_id, Share.STANDBY, materialize),
            values,
            ErrorPolicy(on_error, max_retries, retry_interval_ms),
            ComputePlan({ONLY: ""}),
            SinkWork(materialize, values, with_flow_id=with_flow_id),
            LogTarget(log_path, log_filename, log_verbose),
            deduplicate=Deduplicate() if deduplicate is True else deduplicate or None,
        )
