"""Steps of a join of flows, by hand."""

from __future__ import annotations

import uuid

from edgeserve._core.asking import Ask
from edgeserve._core.batches import Batching
from edgeserve._core.clock import Now
from edgeserve._core.flows import DATA, SIGNAL, FlowJoin, FlowPolicy
from edgeserve._core.step import Decision, Example, Fate, Parcel


def example(role: str, flow: str, at_ms: int, payload: bytes = b"payload", *, is_pack: bool = False) -> Example:
    """An example of a flow, captured at a time."""
    parcel = Parcel(None)
    parcel.is_pack = is_pack
    data = uuid.uuid4().bytes + bytes(16) + flow.encode() + payload
    return Example(data[:16], role, payload, at_ms, flow.encode(), parcel, data)


class Steps:
    """A join, and what became of what it was given."""

    def __init__(self, *, batching: Batching | None = None, asks: bool = False, has_signal: bool = True, **policy: int):
        self.join = FlowJoin(FlowPolicy(has_signal, **policy), batching if batching is not None else Batching())
        if asks:
            self.join.slot_of = lambda flow_id: flow_id[0]
        self.steady_ms = 0.0
        self.fates: dict[str, Fate] = {}
        self.served: list[list[str]] = []
        self.given_back: list[str] = []
        self.asked: list[bytes] = []
        self.wake_ms: float | None = None
        self._names: dict[bytes, str] = {}

    def data(self, flow: str, at_ms: int = 0, **options: object) -> Example:
        return self._step(example(DATA, flow, at_ms, **options))  # type: ignore[arg-type]

    def signal(self, flow: str, at_ms: int = 0, **options: object) -> Example:
        return self._step(example(SIGNAL, flow, at_ms, **options))  # type: ignore[arg-type]

    def again(self, arrived: Example) -> Example:
        """The same example once more, as after a crash of its sender."""
        copy = Example(arrived.id, arrived.source, b"payload", arrived.capture_ms, arrived.header, Parcel(None))
        return self._step(copy)

    def wait(self, until_ms: float) -> None:
        """Let the time come, and step as often as the join wants."""
        while self.wake_ms is not None and self.wake_ms <= until_ms:
            self.steady_ms = max(self.steady_ms, self.wake_ms)
            self._carry_out(self.join.decide(None, self._now()))
        self.steady_ms = until_ms

    def others_ask(self, *flows: str, at_ms: int = 0, times: int = 1) -> None:
        wake_ms = self.wake_ms
        asks = [Ask(flow.encode(), at_ms, times).encode() for flow in flows]
        self._carry_out(self.join.give_back(asks, self._now()))
        self.wake_ms = wake_ms

    def _now(self) -> Now:
        return Now(0, self.steady_ms)

    def _step(self, arrival: Example) -> Example:
        arrival.arrived_steady_ms = self.steady_ms
        name = f"{arrival.source} {arrival.header.decode()}"
        self._names[arrival.id] = f"{name} {arrival.capture_ms}" if arrival.capture_ms else name
        self._carry_out(self.join.decide(arrival, self._now()))
        return arrival

    def _carry_out(self, decision: Decision) -> None:
        for settled, fate in decision.fates:
            self.fates[self._names[settled.id]] = fate
        if decision.job is not None:
            self.served.append([unit[DATA].header.decode() for unit in decision.job.units])
            for each in decision.job.examples:
                assert each.value == b"payload", "what waited is whole again"
        self.given_back += [self._names[each.id] for each in decision.given_back]
        self.asked += [ask.flow_id for ask in map(Ask.decode, decision.asked) if ask is not None and ask.times]
        moments = (decision.wake_steady_ms, decision.look_steady_ms)
        self.wake_ms = min([moment for moment in moments if moment is not None], default=None)
