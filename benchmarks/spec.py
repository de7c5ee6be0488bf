"""What one role of a pipeline is told, and what it tells in the end; both travel as JSON, between processes.

Kept free of imports that cost time or memory: every role loads it, and what a role loads is measured.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

STAMP = struct.Struct("<q")


@dataclass(frozen=True)
class Spec:
    """One role of one run.

    Attributes:
        kind: `edgeserve`, or `hand` for what is written with pulsar-client.
        role: `source`, `compute`, `join` (of the sources `left` and `right`) or `sink`.
        address: The broker.
        topic: What the names of the run's topics begin with.
        count: How many messages the role handles.
        size_bytes: How large a payload is.
        rate: Messages a second; None: as many as can be.
        name: The operator's name, where it matters.
        packing: Whether edgeserve may pack.
        batching: Whether the hand-written pipeline uses the client's batches, for throughput.
        wants_latencies: Whether the sink reports how long each message was under way.
        in_flight: How many messages edgeserve has unconfirmed at most; None: its own default.
        resident_at: The message numbers at which the role notes its resident size.
        idle_ms: Consumers end when nothing came for so long, instead of after `count`.
        log_path: The folder of the replay logs that edgeserve's roles write; None for none.
        log_verbose: Whether they have payloads.
        is_cascade: Whether the role is one of a cascade (`benchmarks.cascade_roles`).
    """

    kind: str
    role: str
    address: str
    topic: str
    count: int
    size_bytes: int
    rate: float | None = None
    name: str = "source"
    packing: bool = True
    batching: bool = False
    wants_latencies: bool = False
    in_flight: int | None = None
    resident_at: tuple[int, ...] = ()
    idle_ms: int | None = None
    is_cascade: bool = False
    log_path: str | None = None
    log_verbose: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        values = json.loads(text)
        values["resident_at"] = tuple(values["resident_at"])
        return cls(**values)


@dataclass
class Report:
    """What a role tells.

    Attributes:
        cpu_s: Processor time of the process from `ready` to the end.
        taken_ms: The sink's latencies.
        rate: The sink's messages a second.
        resident_bytes: The process's size at each of `resident_at`.
    """

    cpu_s: float = 0.0
    taken_ms: list[float] = field(default_factory=list)
    rate: float = 0.0
    resident_bytes: list[int] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        return cls(**json.loads(text))


def payloads(spec: Spec) -> Iterator[bytes]:
    """`count` payloads, each beginning with the monotonic time at which it was made; the pace does not drift."""
    filler = bytes(spec.size_bytes - STAMP.size)
    if spec.rate is None:
        for _ in range(spec.count):
            yield STAMP.pack(time.monotonic_ns()) + filler
        return
    start_ns = time.monotonic_ns()
    for number in range(spec.count):
        due_ns = start_ns + int(number / spec.rate * 1e9)
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        yield STAMP.pack(time.monotonic_ns()) + filler
