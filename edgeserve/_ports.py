"""Where an operator's examples come from and go to, and what becomes of their payloads on the way to the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from edgeserve._broker.base import Connection, Message, Share
from edgeserve._broker.marks import HEADER_SIZE, URL
from edgeserve._broker.outbox import Outbox
from edgeserve._core import packs
from edgeserve._core.flows import message_key
from edgeserve._core.ids import DerivedIds
from edgeserve._core.packs import Entry
from edgeserve._core.step import Example, Job, Outcome, Unit
from edgeserve._flow_ids import check_fits
from edgeserve._interrupts import interruptibly
from edgeserve._payload import Gate, gated_out
from edgeserve._route import KeptOutputs, Route, RoutePolicy
from edgeserve._task import check_callables
from edgeserve.address import Address
from edgeserve.errors import UsageError

Token = TypeVar("Token")

# How many messages are fetched ahead of the task: of packs 50 MB, of messages of 5 MB a GB.
_QUEUE_SIZE = 200


@dataclass(frozen=True)
class Inputs:
    """Where an operator's examples come from.

    Attributes:
        pulsar_node: The broker.
        topics: The topics, one or more.
        subscription: The name under which the broker remembers what was done.
        share: How several operators of that name share the work.
        work: What they do with it: within a process, one name stands for one task.
        sources: The names of the operators whose examples are wanted; None for all.
        roles: What an example is to the task, by topic, where topics say that and not the names of operators.
        header_size: The bytes of header in messages whose sender has not said it.
        queue_size: How many messages are fetched ahead.
    """

    pulsar_node: Address
    topics: Sequence[str]
    subscription: str
    share: Share
    work: object
    sources: frozenset[str] | None = None
    roles: Mapping[str, str] | None = None
    header_size: int = 0
    queue_size: int = _QUEUE_SIZE

    def topics_of(self, full: frozenset[str]) -> Sequence[str]:
        """The topics from which a join that is full of these can take no more; without roles it is of all or none."""
        if self.roles is None:
            return self.topics if full else ()
        return [topic for topic in self.topics if self.roles[topic] in full]


class Outputs:
    """Where an operator's examples go, and how they travel.

    Args:
        topic: The topic.
        op_from: The operator's name as it travels.
        packing: Whether examples may share a message; None: unless replicas share the topic by flow.
        header_size: How many bytes of flow id an example has; 0 where there are no flows.
        is_shared_by_flow: Whether replicas share the topic by flow, for which a message has its flow id as its key.
    """

    def __init__(
        self,
        topic: str,
        op_from: bytes,
        packing: bool | None,  # noqa: FBT001 - internal
        *,
        header_size: int = 0,
        is_shared_by_flow: bool = False,
    ) -> None:
        if packing is not None and not isinstance(packing, bool):
            raise UsageError(f"packing is {packing!r}: expected True, False or None")
        self.topic = topic
        self.op_from = op_from
        self.header_size = header_size
        self.may_pack = packing is not False
        self._is_keyed = header_size > 0 and not (not is_shared_by_flow if packing is None else packing)
        self.marks: Mapping[str, str] = {HEADER_SIZE: str(header_size)} if header_size else {}
        self._url_marks = {**self.marks, URL: "1"}

    def opened(
        self, connection: Connection, address: str, on_confirmed: Callable[[Sequence[Token]], None]
    ) -> Outbox[Token]:
        """What sends them.

        Raises:
            UsageError, BrokerError, BrokerUnreachable: As the connection says.
        """
        producer = connection.producer(self.topic, together=not self.may_pack)
        return Outbox(producer, address, on_confirmed, packing=self.may_pack, marks=self.marks)

    def made(
        self, example_id: bytes, payload: bytes, capture_ms: int, *, flow_id: bytes = b"", is_url: bool = False
    ) -> Entry | Message:
        """An example as the outbox takes it.

        Raises:
            UsageError: The flow id is longer than the header.
        """
        if not self.header_size:
            data = b"".join((example_id, self.op_from, payload))
        else:
            check_fits(flow_id, self.header_size)
            data = b"".join((example_id, self.op_from, flow_id.ljust(self.header_size, b"\0"), payload))
            if self._is_keyed:
                return Message(data, capture_ms, message_key(flow_id), self._url_marks if is_url else self.marks)
        return (data, capture_ms, packs.URL) if is_url else (data, capture_ms)


class OutGate:
    """What becomes of a task's result before it leaves.

    Args:
        gate: Makes the bytes to send of it; None from it sends nothing.
        name: The gate's, for errors.
        kept: In file mode, where the result stays: the gate gets its URL.
    """

    def __init__(self, gate: Gate | None, name: str, kept: KeptOutputs) -> None:
        check_callables(**{name: gate})
        self._gate = gate
        self._name = name
        self._kept = kept if kept.is_used else None

    def of(self, result: Any) -> tuple[bytes | None, bool]:
        """The bytes to send, None for nothing, and whether they are the URL of the payload.

        Raises:
            UsageError: The gate returned what is no bytes.
            PayloadNotStored: There is no room for the result.
        """
        if result is None:
            return None, False
        if self._kept is None:
            return gated_out(self._gate, result, self._name) or None, False
        url = self._kept.keep(result)
        payload = gated_out(self._gate, url, self._name) or None
        return payload, payload == url.encode()


class Work(Protocol):
    """What an operator does with a job: the second half of a step, without a broker."""

    def call(self, job: Job) -> Any:
        """Run the user's task on the job's arguments. Ctrl-C may end it."""

    def finish(self, job: Job, result: Any) -> Sequence[Outcome]:
        """What to send of what the task made of these, and what `next()` returns."""


def one_output(job: Job, gate: OutGate, result: Any, ids: DerivedIds) -> Outcome:
    """What is sent of what a task made of all examples of a job: one example, captured when the newest of them was."""
    payload, is_url = gate.of(result)
    examples = job.examples
    if payload is None:
        return Outcome(examples, None)
    if len(examples) == 1:  # without lists: it is the most frequent case
        inputs, capture_ms = examples[0].id, examples[0].capture_ms
    else:
        inputs = b"".join([example.id for example in examples])
        capture_ms = max([example.capture_ms for example in examples])
    return Outcome(examples, payload, payload, ids.of(inputs), capture_ms, is_url=is_url)


class Values:
    """What becomes of a payload before the task sees it.

    Attributes:
        gate: Runs on arrival, on what travelled; by source where it is a mapping. None drops the example.
        decode: Runs just before the task, by source where it is a mapping; None leaves the value as it is. Once for
            each example, but for payloads that are fetched: those are not kept with the example, and decoded at each
            use.
        route: Fetches payloads that wait elsewhere, just before `decode`.
        on_fetched: Called with each example whose payload was fetched, and the payload, or the path of its file.
    """

    def __init__(
        self,
        gate: Gate | Mapping[str, Gate] | None,
        decode: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]] | None,
        route: RoutePolicy,
    ) -> None:
        for each in gate.values() if isinstance(gate, Mapping) else [gate]:
            check_callables(gate=each)
        for each in decode.values() if isinstance(decode, Mapping) else [decode]:
            check_callables(decode=each)
        self.gate = gate
        self.decode = decode
        self.route = Route(route)
        self.on_fetched: Callable[[Example, Any], None] | None = None
        self._are_final = decode is None and not route.wants_urls

    def gated(self, example: Example) -> Any:
        """What the gate makes of the example's payload."""
        gate = self.gate.get(example.source) if isinstance(self.gate, Mapping) else self.gate
        return example.value if gate is None else interruptibly(gate, example.value)

    def arguments(self, units: Sequence[Unit]) -> list[dict[str, Any]]:
        """What the task gets, by parameter, for each unit.

        Raises:
            PayloadUnavailable: A payload can't be fetched.
        """
        all_values = []
        are_final = self._are_final
        for unit in units:
            values = {}
            for parameter, example in unit.items():
                values[parameter] = example.value
                are_final = are_final and not example.is_url
            all_values.append(values)
        return all_values if are_final else self._completed(units)

    def _completed(self, units: Sequence[Unit]) -> list[dict[str, Any]]:
        examples = [example for unit in units for example in unit.values()]
        urls = {at: url for at, example in enumerate(examples) if (url := self.route.url_of(example))}
        fetched = dict(zip(urls, self.route.fetch(list(urls.values())) if urls else (), strict=True))
        values = []
        for at, example in enumerate(examples):
            if at in fetched:
                self.route.handed_out(example, urls[at], fetched[at])
                if self.on_fetched is not None:
                    self.on_fetched(example, fetched[at])
                values.append(self._decoded(example, fetched[at]))
                continue
            if self.decode is not None and not example.is_decoded:
                example.value = self._decoded(example, example.value)
                example.is_decoded = True
            values.append(example.value)
        completed = iter(values)
        return [dict(zip(unit, completed, strict=False)) for unit in units]

    def _decoded(self, example: Example, value: Any) -> Any:
        decode = self.decode.get(example.source) if isinstance(self.decode, Mapping) else self.decode
        return value if decode is None else interruptibly(decode, value)
