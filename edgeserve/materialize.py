"""`Materialize` hands predictions to where they are used: a screen, an actuator, a database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.clock import Clock
from edgeserve._core.join import JoinPolicy, NoJoin
from edgeserve._core.step import Example, Outcome
from edgeserve._deduplicate import Deduplicate
from edgeserve._later import DEFAULT_FTP_PATH, refuse_ftp, refuse_log
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import Life
from edgeserve._payload import Gate
from edgeserve._ports import Inputs, Values
from edgeserve._task import check_callables
from edgeserve._topics import topic_list
from edgeserve.address import Address
from edgeserve.errors import UsageError

__all__ = ["Deduplicate", "Materialize"]

T = TypeVar("T")

_PARAMETER = "example"


class Materialize(Consuming[T]):
    """Calls a function on each example of a topic, in order, and acknowledges it when the function has returned.

    `next()` waits for one example and returns what the function returned, or None if the gate dropped it. A second
    operator with the same `sink_id` stands by and takes over when the first one goes.

    Args:
        materialize: Called with each example's payload (bytes, or what `gate` and `decode` made of it).
        pulsar_node: The broker; None for the local one.
        gate: Called on each arriving payload; None from it drops the example.
        ftp, ftp_delete, local_ftp_path: Lazy data routing; not in this version.
        topic: The topic to read, or several.
        log_path, log_filename: Replay logs; not in this version.
        sink_id: This operator's name, and that of its subscription.
        decode: Turns what `gate` returned into the function's argument.
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
        log_path: str | None = None,
        log_filename: str | None = None,
        *,
        sink_id: str = "my-sub",
        decode: Callable[[Any], Any] | None = None,
        deduplicate: bool | Deduplicate = False,
        on_error: OnError = "raise",
        max_retries: int = 3,
        retry_interval_ms: float = 100,
        clock: Clock | None = None,
        idle_timeout_ms: float | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        refuse_ftp(ftp=ftp, ftp_delete=ftp_delete, local_ftp_path=local_ftp_path)
        refuse_log(log_path=log_path, log_filename=log_filename)
        if not callable(materialize):
            raise UsageError(f"materialize is {materialize!r}: expected something that can be called")
        if not isinstance(sink_id, str) or not sink_id or "\0" in sink_id:
            raise UsageError(f"sink_id is {sink_id!r}: expected a name of one character or more, without NUL")
        if not isinstance(deduplicate, (bool, Deduplicate)):
            raise UsageError(f"deduplicate is {deduplicate!r}: expected True, False or a Deduplicate")
        check_callables(gate=gate)
        self._materialize = materialize
        super().__init__(
            sink_id,
            Life(clock, idle_timeout_ms, close_timeout_ms),
            Inputs(pulsar_node, topic_list(topic), sink_id, Share.STANDBY, materialize),
            Values(gate, decode),
            ErrorPolicy(on_error, max_retries, retry_interval_ms),
            partial(NoJoin, JoinPolicy({_PARAMETER: ""})),
            deduplicate=Deduplicate() if deduplicate is True else deduplicate or None,
        )

    def _call(self, arguments: dict[str, Any]) -> T:
        return self._materialize(arguments[_PARAMETER])

    def _finish(self, examples: Sequence[Example], result: T) -> Outcome:
        return Outcome(result)
