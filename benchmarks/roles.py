"""One process of a benchmark's pipeline: a source, a compute, a join or a sink, with edgeserve or by hand.

    python -m benchmarks.roles SPEC

SPEC is a `benchmarks.spec.Spec` as JSON. A role prints `ready` when it is connected; the source waits for a line on its
input before it sends. In the end a role prints its `Report` as JSON.
"""

from __future__ import annotations

import sys

from benchmarks.gauges import Cpu, sink_gauge, watched
from benchmarks.spec import Report, Spec, payloads


def ready() -> Cpu:
    """Say that the role is connected; processor time counts from here."""
    print("ready", flush=True)
    return Cpu()


def identity(source: bytes) -> bytes:
    return source


def left_of(left: bytes, right: bytes) -> bytes:
    return left


def set_in_flight(max_sends: int) -> None:
    """Let every outbox that this process opens from now on have so many sends unconfirmed at most.

    There is no option for it: the defaults are replaced in the place that has them.
    """
    from edgeserve._broker import outbox
    from edgeserve._broker.in_flight import MAX_UNCONFIRMED, InFlight
    from edgeserve.data_source import stream

    def limits(max_examples: int = MAX_UNCONFIRMED) -> InFlight:
        return InFlight(max_sends, max(max_examples, 1000 * max_sends))

    for module in (outbox, stream):
        assert module.InFlight is InFlight, f"{module.__name__} has its limits from elsewhere"  # type: ignore[attr-defined]
        module.InFlight = limits  # type: ignore[attr-defined]


def run_edgeserve(spec: Spec) -> Report:
    from edgeserve import Compute, DataSource, Materialize

    if spec.in_flight is not None:
        set_in_flight(spec.in_flight)
    report = Report()
    log = {"log_path": spec.log_path, "log_verbose": spec.log_verbose}
    if spec.role == "source":
        with DataSource(
            payloads(spec), spec.address, spec.name, topic=f"{spec.topic}-src", packing=spec.packing, **log
        ) as source:
            cpu = ready()
            input()
            for _ in watched(source, spec, report):
                pass
    elif spec.role == "sink":
        gauge = sink_gauge(spec)
        with Materialize(
            gauge.take, spec.address, topic=f"{spec.topic}-dst", idle_timeout_ms=spec.idle_ms, **log
        ) as sink:
            cpu = ready()
            for is_last in watched(sink, spec, report):
                if is_last:
                    break
        gauge.tell(report)
    else:
        with Compute(
            left_of if spec.role == "join" else identity,
            spec.address,
            topic_in=f"{spec.topic}-src",
            topic_out=f"{spec.topic}-dst",
            idle_timeout_ms=spec.idle_ms,
            packing=spec.packing,
            **log,
        ) as compute:
            cpu = ready()
            sent = 0
            for output in watched(compute, spec, report):
                sent += output is not None
                if sent == spec.count and spec.idle_ms is None:
                    break
    report.cpu_s = cpu.spent_s()
    return report


def main() -> None:
    spec = Spec.from_json(sys.argv[1])
    if spec.is_cascade:
        from benchmarks import cascade_roles

        run = cascade_roles.run_edgeserve if spec.kind == "edgeserve" else cascade_roles.run_by_hand
        report = run(spec, ready)
    elif spec.kind == "edgeserve":
        report = run_edgeserve(spec)
    else:
        from benchmarks.by_hand import run_by_hand

        report = run_by_hand(spec, ready)
    print(report.to_json(), flush=True)


if __name__ == "__main__":
    main()
