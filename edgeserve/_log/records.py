"""What a replay log says: the records of one operator's run, in the order in which they happened.

A record is a tuple that begins with its kind, and travels as a msgpack array of the same fields. Inputs are numbered
from 0 in the order in which they arrived, and later records name them by number. Moments are ms of the operator's
steady clock (`steady_ms`); what a join was told besides is ms since the epoch (`wall_ms`). Every block of records has
both clocks of one moment, by which the others are told in ms since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Arrived(NamedTuple):
    """The examples of one message, as they were opened: one, or those of a pack.

    Attributes:
        kind: `ARRIVED`.
        received_steady_ms: When the broker's client handed the message over.
        topic: The topic, as the operator names it.
        publish_ms: When it was sent, ms since the epoch, by the sender's clock.
        first: The number of the first example; the others follow it.
        is_pack: Whether it was sent as a pack.
        ids: 16 bytes for each example, one after the other; NULs for what is malformed.
        captures_ms: Their capture times, ms since the epoch.
        sources: What they come from; one for each, or a single one for all.
        flow_ids: Their flow ids; None if none has one.
        sizes: Their bytes, as they travelled.
        urls: The places in this message of those whose payload is a URL; None for none.
        payloads: Their payloads as they travelled, if payloads are logged.
        slots: The broker's slots of their keys, where those matter.
    """

    kind: int
    received_steady_ms: float
    topic: str
    publish_ms: int
    first: int
    is_pack: bool
    ids: bytes
    captures_ms: Sequence[int]
    sources: str | Sequence[str]
    flow_ids: Sequence[bytes] | None
    sizes: Sequence[int]
    urls: Sequence[int] | None
    payloads: Sequence[bytes] | None
    slots: Sequence[int] | None


class Settled(NamedTuple):
    """An arrival that no join saw: malformed, a duplicate, of an unknown source, or dropped by a gate.

    `error` says why it is malformed.
    """

    kind: int
    number: int
    fate: str
    steady_ms: float
    error: str | None = None


class Decided(NamedTuple):
    """What a join was told, and what it decided.

    Attributes:
        kind: `DECIDED`.
        arrival: The number of what arrived; None for a moment that was waited for.
        wall_ms: What the step took for the time, ms since the epoch.
        steady_ms: The same on the steady clock.
        fates: Inputs whose fate this settled, by number, each with it.
        job: The units that the task is to run on, each the numbers of its examples in the order of the parameters;
            None if it is not to run.
        given_back: The numbers of inputs that the broker is to deliver again.
        wake_steady_ms: When something is to be served without an arrival; None: not before one comes.
        look_steady_ms: When to look again at what waits.
    """

    kind: int
    arrival: int | None
    wall_ms: int
    steady_ms: float
    fates: Sequence[tuple[int, str]]
    job: Sequence[Sequence[int]] | None
    given_back: Sequence[int]
    wake_steady_ms: float | None
    look_steady_ms: float | None


class Output(NamedTuple):
    """What was made of one unit of a job, or of all of them.

    Attributes:
        id: Its id; b"" if nothing was sent.
        port: By which of the operator's outputs it left: 0, or, to the next model of a cascade, 1.
        size: Its payload's bytes.
        numbers: What it was made from; None: all of the job's examples.
        payload: Its payload, if payloads are logged.
        is_satisfied: Whether the task was, where that is asked.
    """

    id: bytes
    port: int
    size: int
    numbers: Sequence[int] | None
    payload: bytes | None
    is_satisfied: bool = True


class Ran(NamedTuple):
    """One run of the task.

    Attributes:
        kind: `RAN`.
        arrival: Where the operator serves what arrives at once, and asks no join: the number of the arrival.
        start_steady_ms: When its payloads began to be fetched, if any had to be; else when it started.
        fetch_ms: How long that took; 0 if nothing was fetched.
        finish_steady_ms: When it had returned, and its gates with it.
        error: What it raised; None if it returned.
        numbers: What it ran on, where that is a part of the last job; None: all of it.
        outputs: What came of it, as `Output`s.
    """

    kind: int
    arrival: int | None
    start_steady_ms: float
    fetch_ms: float
    finish_steady_ms: float
    error: str | None
    numbers: Sequence[int] | None
    outputs: Sequence[Output]


class Served(NamedTuple):
    """A run of the task on an arrival that asked no join: the short form of `Ran`.

    There was no fetch, payloads are not logged, and the task was satisfied.

    Attributes:
        number: The number of the arrival.
        start_steady_s: When it started; in seconds, as it is read twice a step.
        finish_steady_s: When it had returned, and its gate with it.
        output_id: The id of what was sent; b"" if nothing was.
        size: Its payload's bytes.
    """

    number: int
    start_steady_s: float
    finish_steady_s: float
    output_id: bytes
    size: int


class ServedMany(NamedTuple):
    """`Served`s, the fields of one after those of the other."""

    kind: int
    fields: Sequence[Any]


class GivenUp(NamedTuple):
    """Inputs that were given up after an error, and which of them the join held and uses no more."""

    kind: int
    numbers: Sequence[int]
    fate: str
    reason: str
    forgotten: Sequence[int]
    steady_ms: float


class Anew(NamedTuple):
    """Others had the subscription meanwhile: the join starts with nothing."""

    kind: int
    steady_ms: float


class Asked(NamedTuple):
    """Other replicas asked for what is held here.

    Attributes:
        kind: `ASKED`.
        asked: What they asked, as it travelled.
        slots: The broker's slot of each flow that was asked for, where slots matter.
        wall_ms: What the step took for the time, ms since the epoch.
        steady_ms: The same on the steady clock.
        given_back: The numbers of inputs that were given back.
    """

    kind: int
    asked: Sequence[bytes]
    slots: Mapping[bytes, int]
    wall_ms: int
    steady_ms: float
    given_back: Sequence[int]


class Fetched(NamedTuple):
    """A payload that was fetched for the task, if payloads are logged."""

    kind: int
    number: int
    payload: bytes


class Sent(NamedTuple):
    """What a source handed over to be sent.

    Attributes:
        number: The item's number in the stream, from 0.
        id: The example's id.
        capture_ms: When it was captured, ms since the epoch.
        taken_steady_ms: When the stream yielded it.
        handed_steady_s: When it had been handed over: later where sending had to wait, and it may have arrived before
            that is noted. In seconds, as it costs less.
        size: Its payload's bytes, as it travels.
    """

    number: int
    id: bytes
    capture_ms: int
    taken_steady_ms: float
    handed_steady_s: float
    size: int


class SentMany(NamedTuple):
    """`Sent`s, the fields of one after those of the other."""

    kind: int
    fields: Sequence[Any]


class SentMore(NamedTuple):
    """What a `Sent` does not say.

    Attributes:
        kind: `SENT_MORE`.
        number: The item's number.
        flow_id: Its flow; b"" for none.
        is_url: Whether its payload is stored, and its URL travels.
        payload: Its payload as it travels, if payloads are logged.
    """

    kind: int
    number: int
    flow_id: bytes
    is_url: bool
    payload: bytes | None


class Unsent(NamedTuple):
    """An item that a source did not hand over to be sent, and why: `error` is what its gate raised, or handing over."""

    kind: int
    number: int
    fate: str
    steady_ms: float
    error: str | None = None


class Withdrawn(NamedTuple):
    """What other records say was sent, and what was not stored after all.

    Attributes:
        kind: `WITHDRAWN`.
        ids: The ids of outputs, or of a source's examples.
        fate: What became of a source's examples; "" for outputs, whose inputs have fates of their own.
        steady_ms: When that was noted.
        error: Why the broker does not have them.
    """

    kind: int
    ids: Sequence[bytes]
    fate: str
    steady_ms: float
    error: str | None = None


class Lost(NamedTuple):
    """So many records are missing here: the disk could not keep up, or had an error."""

    kind: int
    records: int


class GateRaised(NamedTuple):
    """The gate of an arrival has raised; once more for each time that it was tried again.

    Attributes:
        kind: `GATE_RAISED`.
        number: The number of the arrival.
        steady_ms: When that was noted.
        error: What it raised.
    """

    kind: int
    number: int
    steady_ms: float
    error: str


class Ended(NamedTuple):
    """The operator was closed. What its `stats` said then."""

    kind: int
    steady_ms: float
    received: int
    held: int
    sent: int
    fates: Mapping[str, int]


KINDS: Sequence[type[Any]] = (
    Arrived,
    Settled,
    Decided,
    Ran,
    ServedMany,
    GivenUp,
    Anew,
    Asked,
    Fetched,
    SentMany,
    SentMore,
    Unsent,
    Withdrawn,
    Lost,
    Ended,
    GateRaised,
)
"""The class of each kind."""

(
    ARRIVED,
    SETTLED,
    DECIDED,
    RAN,
    SERVED,
    GIVEN_UP,
    ANEW,
    ASKED,
    FETCHED,
    SENT,
    SENT_MORE,
    UNSENT,
    WITHDRAWN,
    LOST,
    ENDED,
    GATE_RAISED,
) = range(len(KINDS))


Record = (
    Arrived
    | Settled
    | Decided
    | Ran
    | ServedMany
    | GivenUp
    | Anew
    | Asked
    | Fetched
    | SentMany
    | SentMore
    | Unsent
    | Withdrawn
    | Lost
    | Ended
    | GateRaised
)
