"""Where an operator's examples come from and go to, and what becomes of their payloads on the way to the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve._broker.base import Share
from edgeserve._core.step import Example
from edgeserve._interrupts import interruptibly
from edgeserve._payload import Gate
from edgeserve._route import Route, RoutePolicy
from edgeserve._task import check_callables
from edgeserve.address import Address


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
    """

    pulsar_node: Address
    topics: Sequence[str]
    subscription: str
    share: Share
    work: object
    sources: frozenset[str] | None = None


@dataclass(frozen=True)
class Outputs:
    """Where an operator's examples go.

    Attributes:
        topic: The topic.
        op_from: The operator's name as it travels.
        packing: Whether examples may share a message.
    """

    topic: str
    op_from: bytes
    packing: bool


class Values:
    """What becomes of a payload before the task sees it.

    Attributes:
        gate: Runs on arrival, on what travelled; by source where it is a mapping. None drops the example.
        decode: Runs just before the task; None leaves the value as it is. Once for each example, but for payloads that
            are fetched: those are not kept with the example, and decoded at each use.
        route: Fetches payloads that wait elsewhere, just before `decode`.
    """

    def __init__(
        self, gate: Gate | Mapping[str, Gate] | None, decode: Callable[[Any], Any] | None, route: RoutePolicy
    ) -> None:
        for each in gate.values() if isinstance(gate, Mapping) else [gate]:
            check_callables(gate=each)
        check_callables(decode=decode)
        self.gate = gate
        self.decode = decode
        self.route = Route(route)
        self._are_final = decode is None and not route.wants_urls

    def gated(self, example: Example) -> Any:
        """What the gate makes of the example's payload."""
        gate = self.gate.get(example.source) if isinstance(self.gate, Mapping) else self.gate
        return example.value if gate is None else interruptibly(gate, example.value)

    def arguments(self, inputs: Mapping[str, Example]) -> dict[str, Any]:
        """What the task gets, by parameter.

        Raises:
            PayloadUnavailable: A payload can't be fetched.
        """
        values = {}
        are_final = self._are_final
        for parameter, example in inputs.items():
            values[parameter] = example.value
            are_final = are_final and not example.is_url
        return values if are_final else self._completed(inputs)

    def _completed(self, inputs: Mapping[str, Example]) -> dict[str, Any]:
        urls = {parameter: url for parameter, example in inputs.items() if (url := self.route.url_of(example))}
        values = self.route.fetch(urls) if urls else {}
        for parameter, example in inputs.items():
            if parameter in urls:
                self.route.handed_out(example, urls[parameter], values[parameter])
                if self.decode is not None:
                    values[parameter] = interruptibly(self.decode, values[parameter])
                continue
            if self.decode is not None and not example.is_decoded:
                example.value = interruptibly(self.decode, example.value)
                example.is_decoded = True
            values[parameter] = example.value
        return values
