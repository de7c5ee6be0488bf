"""The values that pass between a step's two halves and the base that carries them out.

What may live here: plain values and what can be derived from them. A step's first half returns a `Decision`, its
second an `Outcome`; neither sends, acknowledges or counts anything.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any


class Fate(enum.Enum):
    """What became of an input. Every input gets exactly one, at its first use or when it is given up."""

    __hash__ = object.__hash__  # that of an Enum is Python code, and counting fates is part of every step

    USED = "used"
    """A task or a sink ran on it, and what it returned was sent on."""
    SUPERSEDED = "superseded"
    """A newer example of its source took its place, or it came too soon after the last start."""
    TOO_OLD = "too old"
    """Its capture lay further back than `drop_if_older_than_ms`."""
    OUT_OF_ORDER = "out of order"
    """A newer example of its source had arrived before it."""
    UNKNOWN_SOURCE = "unknown source"
    """The task has no parameter for its source."""
    MALFORMED = "malformed"
    """Its bytes are no example."""
    GATED = "gated"
    """A gate returned None for it."""
    EXPIRED = "expired"
    """It can never match again: the other sources are further on than `max_time_diff_ms`."""
    EVICTED = "evicted"
    """It made room: more examples waited than the operator keeps."""
    NOT_ASKED = "not asked"
    """A cascade never asked about its flow."""
    DUPLICATE = "duplicate"
    """An example with its id was held already."""
    FAILED = "failed"
    """It was given up after an error."""


def flow_name(flow_id: bytes) -> str:
    """A flow id for people: as text, or in hexadecimal where it is none."""
    try:
        return repr(flow_id.decode("utf-8"))
    except UnicodeDecodeError:
        return flow_id.hex()


class Parcel:
    """A message of the broker's, as far as acknowledging goes: it may be acknowledged when nothing in it is open.

    Attributes:
        delivery: What the broker wants to have back; opaque here.
        open_examples: How many of its examples are not done with.
        is_pack: Whether several examples came in it.
        used_urls: The URLs of payloads to be deleted when it is acknowledged; None for none.
    """

    __slots__ = ("delivery", "is_pack", "open_examples", "used_urls")

    def __init__(self, delivery: Any, open_examples: int = 1) -> None:
        self.delivery = delivery
        self.open_examples = open_examples
        self.is_pack = False
        self.used_urls: set[str] | None = None


class Example:
    """One arriving example.

    Attributes:
        id: Its 16 bytes.
        source: The name of the operator it came from; where topics say what an example is for, that role.
        header: The flow id of a cascade's example, without its padding; b"" if it has none.
        value: What travelled, then what `gate_in` made of it.
        capture_ms: When it was captured, ms since the epoch.
        arrived_steady_ms: When a join took it in.
        number: How many arrived before it, where a log is written.
        parcel: The message it came in; None where there is no broker.
        data: The bytes it came as, for when it has to be given up.
        malformed: Why these bytes are no example, if they are none.
        is_url: Whether what travelled is the URL of its payload, which waits in a store.
        twins: The messages of further copies, which may be acknowledged when this one may.
        is_decoded: Whether `decode` has run on the value.
        is_prefetched: Whether fetching its payload was begun ahead.
        fetched_from: The URL of the payload that was handed to a task; None if none was.
        path: Where that payload is a file; None if it is none.
        is_used: Whether a join has started a job with it.
        fate: Set once, by the ledger.
        holds: How many reasons there are not to acknowledge it yet.
    """

    # Defaults of the class: a step costs microseconds, and setting these would be one of them.
    malformed: str | None = None
    is_url = False
    arrived_steady_ms = 0.0
    number = 0
    twins: list[Parcel] | None = None
    is_decoded = False
    is_prefetched = False
    fetched_from: str | None = None
    path: str | None = None
    is_used = False
    fate: Fate | None = None
    holds = 0
    _parked = 0

    def __init__(
        self,
        example_id: bytes,
        source: str,
        value: Any,
        capture_ms: int,
        header: bytes = b"",
        parcel: Parcel | None = None,
        data: bytes = b"",
    ) -> None:
        self.id = example_id
        self.source = source
        self.value = value
        self.capture_ms = capture_ms
        self.header = header
        self.parcel = parcel
        self.data = data

    def park(self) -> None:
        """Keep the payload once while it waits, not twice: as a part of its bytes, unless a gate changed it."""
        value = self.value
        if type(value) is bytes and value and self.data.endswith(value):
            self._parked = len(value)
            self.value = None

    def unpark(self) -> None:
        """Have the value back."""
        if self._parked:
            self.value = self.data[-self._parked :]
            self._parked = 0

    def __repr__(self) -> str:
        flow = f", flow {flow_name(self.header)}" if self.header else ""
        return f"Example({self.id.hex()[:8]} of {self.source!r}{flow}, captured at {self.capture_ms} ms)"


_SAID_SIZE = re.compile(rb"[#&]size=(\d{1,15})(?:&|$)")


def said_bytes(data: bytes) -> int:
    """How large the payload is whose URL an example ends with; 0 where the URL does not say."""
    said = _SAID_SIZE.search(data[-64:])
    return int(said[1]) if said else 0


Unit = Mapping[str, Example]
"""Examples that belong together, by the parameter of the task that each goes to."""


class Job:
    """What one run of a task is about: one unit, or a batch of them.

    Attributes:
        units: The units.
        examples: All their examples, in order.
        arguments: What the task gets, by parameter, for each unit; put here when it is about to run.
    """

    __slots__ = ("arguments", "examples", "units")

    arguments: Sequence[dict[str, Any]]

    def __init__(self, units: Sequence[Unit], examples: Sequence[Example] | None = None) -> None:
        self.units = units
        self.examples = [each for unit in units for each in unit.values()] if examples is None else examples


class Decision:
    """What a step's first half decided. The base carries it out, whatever the task does afterwards.

    Attributes:
        fates: Inputs whose fate is settled, each with it.
        released: Inputs that the operator holds no longer; a job that runs on them holds them by itself.
        given_back: Inputs without a fate that the broker is to deliver again, to whoever their flow belongs to now.
        asked: What to ask the other replicas, as it travels.
        job: What to run the task on, if anything.
        wake_steady_ms: When to step again without an arrival, as something is to be served; None: not before one comes.
        look_steady_ms: When to look again at what waits, which is no reason for an iteration to go on.
    """

    __slots__ = ("asked", "fates", "given_back", "job", "look_steady_ms", "released", "wake_steady_ms")

    def __init__(self) -> None:
        self.fates: list[tuple[Example, Fate]] = []
        self.released: list[Example] = []
        self.given_back: Sequence[Example] = ()
        self.asked: Sequence[bytes] = ()
        self.job: Job | None = None
        self.wake_steady_ms: float | None = None
        self.look_steady_ms: float | None = None

    def look_by(self, steady_ms: float) -> None:
        """Look again no later than that."""
        if self.look_steady_ms is None or steady_ms < self.look_steady_ms:
            self.look_steady_ms = steady_ms

    def let_go(self, example: Example, fate: Fate) -> None:
        """Hold `example` no longer; if no job was ever started with it, this is its fate."""
        if not example.is_used:
            self.fates.append((example, fate))
        self.released.append(example)


class Outcome:
    """What a step's second half made of the task's result, or of one unit's part of it.

    Attributes:
        examples: What it was made from.
        value: What `next()` returns of it.
        payload: The bytes to send on; None to send nothing.
        output_id: The id of what is sent, 16 bytes.
        capture_ms: When it was captured, or the newest of what it was made from; ms since the epoch.
        is_url: Whether the bytes to send are the URL of the payload.
        flow_id: The flow it is about; b"" where there are no flows.
        port: Which of the operator's outputs it leaves by.
        is_satisfied: False if the task said so, of which the port does not tell where there is but one.
    """

    __slots__ = (
        "capture_ms",
        "examples",
        "flow_id",
        "is_satisfied",
        "is_url",
        "output_id",
        "payload",
        "port",
        "value",
    )

    def __init__(
        self,
        examples: Sequence[Example],
        value: Any,
        payload: bytes | None = None,
        output_id: bytes = b"",
        capture_ms: int = 0,
        *,
        is_url: bool = False,
        flow_id: bytes = b"",
        port: int = 0,
        is_satisfied: bool = True,
    ) -> None:
        self.examples = examples
        self.value = value
        self.payload = payload
        self.output_id = output_id
        self.capture_ms = capture_ms
        self.is_url = is_url
        self.flow_id = flow_id
        self.port = port
        self.is_satisfied = is_satisfied
