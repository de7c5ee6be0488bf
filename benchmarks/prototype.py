"""The research prototype's way on Apache Pulsar, and edgeserve's: how many times more messages a second.

    python -m benchmarks.prototype pulsar://127.0.0.1:6650 [--repeats 5] [--steps 500] [--count 100000]

The prototype's scripts called `next()` on one operator after another in one process; each send waited for the broker,
and each step acknowledged its input. This is written here with pulsar-client alone. edgeserve runs the same two hops
as three processes. The table is written to benchmarks/results/prototype.md.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Sequence

from benchmarks.harness import Pipeline, apache_pulsar, options_of, progress, publish, ratios, spread, table
from benchmarks.spec import Spec

REFERENCE = "the prototype's way, Apache Pulsar"
SIZE_BYTES = 1024


def lock_step_rate(address: str, steps: int) -> float:
    """Messages a second through source, compute and sink, one step after another, without the first tenth."""
    import pulsar

    from benchmarks.by_hand import quiet_client

    client = quiet_client(address)
    topic = f"prototype-{uuid.uuid4().hex[:12]}"
    shared = {
        "consumer_type": pulsar.ConsumerType.Shared,
        "initial_position": pulsar.InitialPosition.Earliest,
        "schema": pulsar.schema.BytesSchema(),
    }
    compute_in = client.subscribe(f"{topic}-src", "compute", **shared)
    sink_in = client.subscribe(f"{topic}-dst", "sink", **shared)
    source_out = client.create_producer(f"{topic}-src", schema=pulsar.schema.BytesSchema())
    compute_out = client.create_producer(f"{topic}-dst", schema=pulsar.schema.BytesSchema())
    payload = bytes(SIZE_BYTES)
    warm_up, warm_ns = max(1, steps // 10), 0
    for step in range(steps):
        if step == warm_up:
            warm_ns = time.monotonic_ns()
        source_out.send(payload)
        example = compute_in.receive()
        compute_out.send(example.data())
        compute_in.acknowledge(example)
        prediction = sink_in.receive()
        sink_in.acknowledge(prediction)
    rate = (steps - warm_up) / ((time.monotonic_ns() - warm_ns) / 1e9)
    client.close()
    return rate


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--steps", int, None), ("--count", int, None))
    steps = options.steps or (50 if options.quick else 500)
    count = options.count or (2000 if options.quick else 100_000)
    with apache_pulsar(options) as address:
        if address is None:
            progress("prototype: left out, as it needs an Apache Pulsar")
            return
        spec = Spec("edgeserve", "", address, "", count, SIZE_BYTES)
        pipelines = {
            "edgeserve, Apache Pulsar": Pipeline(spec, "at least 100"),
            "edgeserve, local broker": Pipeline(spec, is_local=True),
        }
        found: dict[str, list[float]] = {name: [] for name in (REFERENCE, *pipelines)}
        for repeat in range(options.repeats):
            found[REFERENCE].append(lock_step_rate(address, steps))
            for name, pipeline in pipelines.items():
                found[name].append(pipeline.run()["sink"].rate)
            medians = {name: round(statistics.median(rates)) for name, rates in found.items()}
            progress(f"repeat {repeat + 1}: medians so far, messages a second: {medians}")
    bars = {name: pipeline.bar for name, pipeline in pipelines.items()}
    rows = [
        [name, spread(rates, 0), ratios(rates, found[REFERENCE]), bars.get(name, "")] for name, rates in found.items()
    ]
    explanation = (
        "Two hops with messages of 1 KB. The prototype's way: one process calls one step after another, every send\n"
        f"waits for the broker, every step acknowledges; {steps} messages a run. edgeserve: three processes, {count}\n"
        f"messages a run. {options.repeats} repeats in which they take turns, without the first tenth of each run;\n"
        "minimum / median / maximum over the repeats. Ratios are with the prototype's way in the same repeat."
    )
    head = ["pipeline", "messages/s", "ratio", "bar"]
    publish("prototype", "Against the research prototype", [explanation, table(head, rows)], options)


if __name__ == "__main__":
    main()
