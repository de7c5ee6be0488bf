"""What `Model` and `BatchModel` share: a flow's data, the signal that asks about it, and where the answer goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.asking import HELLO
from edgeserve._core.flows import DATA, SIGNAL, FlowJoin, message_key
from edgeserve._core.ids import DerivedIds
from edgeserve._core.plans import FlowPlan
from edgeserve._core.step import Outcome, Unit
from edgeserve._flow_ids import checked_header_size
from edgeserve._log.recording import LogTarget
from edgeserve._on_error import ErrorPolicy
from edgeserve._operator import Life
from edgeserve._payload import Gate
from edgeserve._ports import Inputs, OutGate, Outputs, Values, Work
from edgeserve._route import KeptOutputs, RoutePolicy
from edgeserve._task import check_callables, check_name
from edgeserve._topics import one_topic
from edgeserve.address import Address
from edgeserve.errors import UsageError
from edgeserve.routing.store import PayloadStore

T = TypeVar("T")

_DESTINATION, _NEXT = 0, 1


@dataclass(frozen=True)
class Topics:
    """The topics of one model of a cascade; None for those that it does not have."""

    data: str
    destination: str
    signal: str | None
    next_signal: str | None

    def __post_init__(self) -> None:
        given = {
            "topic_in_data": self.data,
            "topic_out_destination": self.destination,
            "topic_in_signal": self.signal,
            "topic_out_signal": self.next_signal,
        }
        arguments: dict[str, str] = {}
        for argument, name in given.items():
            if name is not None and (other := arguments.setdefault(one_topic(name), argument)) != argument:
                raise UsageError(f"{other} and {argument} are both {name!r}: expected another topic for each")


@dataclass(frozen=True)
class Gates:
    """The gates of one model of a cascade; None passes things on as they are."""

    data: Gate | None
    destination: Gate | None
    signal: Gate | None
    next_signal: Gate | None


class Answers:
    """What becomes of a model's answers: they go to the destination, or to the next model.

    Args:
        gates: Make the bytes to send of them.
        kept: Where they stay, in file mode.
        ids: Of the outputs.
        has_next: Whether there is a next model.
        send_unsatisfied: Whether, where there is none, what the task is not satisfied with is sent all the same.
    """

    def __init__(
        self, gates: Gates, kept: KeptOutputs, ids: DerivedIds, *, has_next: bool, send_unsatisfied: bool
    ) -> None:
        self._to_destination = OutGate(gates.destination, "gate_out_destination", kept)
        self._to_signal = OutGate(gates.next_signal, "gate_out_signal", kept)
        self._ids = ids
        self._has_next = has_next
        self._sends_unsatisfied = send_unsatisfied

    def outcome_of(self, unit: Unit, is_satisfied: Any, output: Any) -> Outcome:
        """Where what the task said of one flow goes."""
        data = unit[DATA]
        examples = list(unit.values())
        port = _DESTINATION
        is_sure = _is_true(is_satisfied)
        if not is_sure and not self._sends_unsatisfied:
            if not self._has_next:
                raise UsageError(
                    f"the task is not satisfied with its answer to flow {data.header!r}, and there is no next model: "
                    "give topic_out_signal=, or send_unsatisfied=True to have it sent to the destination"
                )
            port = _NEXT
        if port == _NEXT and output is None:
            payload, is_url = b"", False
        else:
            gate = self._to_signal if port == _NEXT else self._to_destination
            payload, is_url = gate.of(output)  # type: ignore[assignment] # None of the gate's is handled next
        if payload is None:
            return Outcome(examples, None)
        ids = b"".join([example.id for example in examples])
        return Outcome(
            examples,
            payload,
            payload,
            self._ids.of(ids),
            data.capture_ms,
            is_url=is_url,
            flow_id=data.header,
            port=port,
            is_satisfied=is_sure,
        )


class Cascading(Consuming[T]):
    """The base of a cascade's models."""

    def __init__(
        self,
        task: Callable[..., Any],
        make_work: Callable[[Answers], Work],
        pulsar_node: Address,
        name: str,
        topics: Topics,
        gates: Gates,
        plan: FlowPlan,
        log: LogTarget,
        *,
        life: Life,
        errors: ErrorPolicy,
        route: RoutePolicy,
        decode: Callable[[Any], Any] | None,
        decode_signal: Callable[[Any], Any] | None,
        store: PayloadStore | None,
        header_size: int | None,
        queue_size: int,
        packing: bool | None,
        send_unsatisfied: bool,
    ) -> None:
        """Open what it takes."""
        if not callable(task):
            raise UsageError(f"the task is {task!r}: expected something that can be called")
        if not isinstance(send_unsatisfied, bool):
            raise UsageError(f"send_unsatisfied is {send_unsatisfied!r}: expected True or False")
        if send_unsatisfied and topics.next_signal is not None:
            raise UsageError("send_unsatisfied= is for the last model: this one has a topic_out_signal")
        op_from = check_name(name, "model_id")
        has_flows = topics.signal is not None or topics.next_signal is not None
        header = checked_header_size(header_size, least=1 if has_flows else 0)
        kept = KeptOutputs(store, route)
        has_next = topics.next_signal is not None
        answers = Answers(gates, kept, DerivedIds(op_from), has_next=has_next, send_unsatisfied=send_unsatisfied)
        self._escalates_by = _NEXT if has_next else None
        outputs = [Outputs(one_topic(topics.destination), op_from, packing, header_size=header)]
        if topics.next_signal is not None:
            outputs.append(
                Outputs(one_topic(topics.next_signal), op_from, packing, header_size=header, is_shared_by_flow=True)
            )
        roles = {one_topic(topics.data): DATA}
        if topics.signal is not None:
            roles[one_topic(topics.signal)] = SIGNAL
        check_callables(gate_in_data=gates.data, gate_in_signal=gates.signal)
        check_callables(decode=decode, decode_signal=decode_signal)
        super().__init__(
            name,
            life,
            Inputs(
                pulsar_node,
                list(roles),
                name,
                Share.KEY,
                task,
                roles=roles,
                header_size=header,
                queue_size=queue_size,
            ),
            Values(_by_role(data=gates.data, signal=gates.signal), _by_role(data=decode, signal=decode_signal), route),
            errors,
            plan,
            make_work(answers),
            log,
            outputs=outputs,
        )
        self._share_flows(plan)

    def _share_flows(self, plan: FlowPlan) -> None:
        if not isinstance(self._join, FlowJoin):
            return
        if self._inbox.must_ask:
            self._join.slot_of = lambda flow_id: self._inbox.slot(message_key(flow_id))
            self._inbox.ask([HELLO])
        limit = self._inbox.max_unacknowledged
        if plan.has_signal and limit is not None and plan.max_waiting_flows + self._inputs.queue_size > limit:
            self.close()
            raise UsageError(
                f"max_waiting_flows={plan.max_waiting_flows} and {self._inputs.queue_size} messages fetched ahead are "
                f"more than the {limit} that this broker lets one consumer hold: let fewer wait"
            )

    def _answer_asks(self) -> None:
        asked = self._inbox.asked()
        if asked and isinstance(self._join, FlowJoin):
            now = self._clock.now()
            decision = self._join.give_back(asked, now)
            if (observer := self._observer) is not None:
                observer.asked(asked, now, decision)
            self._carry_out(decision)


def _is_true(is_satisfied: Any) -> bool:
    """What the task said, if it is a truth value.

    Raises:
        UsageError: It is none.
    """
    if type(is_satisfied).__name__ not in ("bool", "bool_"):  # NumPy's are as good
        raise UsageError(
            f"the task returned {is_satisfied!r:.80} for whether it is satisfied: expected True or False there, and "
            "its output second"
        )
    return bool(is_satisfied)


def _by_role(**functions: Callable[[Any], Any] | None) -> dict[str, Callable[[Any], Any]] | None:
    return {role: function for role, function in functions.items() if function is not None} or None
