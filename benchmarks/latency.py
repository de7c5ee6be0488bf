"""From source to sink over two hops at 200 messages of 1 KB a second, beside the same hops written by hand.

    python -m benchmarks.latency [pulsar://127.0.0.1:6650] [--repeats 5] [--seconds 10]

Three processes a pipeline; the pipelines take turns within each repeat, so that what else the machine does meets all
of them. Each figure is a ratio with the hand-written pipeline of the same repeat; the tables are written to
benchmarks/results/latency.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.harness import Pipeline, apache_pulsar, options_of, progress, publish, ratios, spread, table
from benchmarks.spec import Spec

REFERENCE = "by hand, Apache Pulsar"
RATE = 200.0


def pipelines(address: str | None, count: int) -> dict[str, Pipeline]:
    spec = Spec("edgeserve", "", address or "", "", count, 1024, RATE, wants_latencies=True)
    by_hand = Spec("hand", "", address or "", "", count, 1024, RATE, wants_latencies=True)
    on_pulsar = {
        REFERENCE: Pipeline(by_hand),
        "edgeserve, Apache Pulsar": Pipeline(spec, "p50 at most 1.15, p99 at most 1.3"),
    }
    local = {"edgeserve, local broker": Pipeline(spec, "p50 at most 0.33", is_local=True)}
    return {**on_pulsar, **local} if address is not None else local


def percentiles(taken_ms: Sequence[float]) -> tuple[float, float]:
    """p50 and p99, without the first tenth's start-up."""
    ordered = sorted(taken_ms[len(taken_ms) // 10 :])
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--seconds", float, None))
    seconds = options.seconds or (1 if options.quick else 10)
    count = int(seconds * RATE)
    with apache_pulsar(options) as address:
        chosen = pipelines(address, count)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
        for repeat in range(options.repeats):
            for name, pipeline in chosen.items():
                found[name].append(percentiles(pipeline.run()["sink"].taken_ms))
                p50, p99 = found[name][-1]
                progress(f"repeat {repeat + 1}: {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    rows = []
    for name, pipeline in chosen.items():
        row = [name]
        for column in (0, 1):
            taken = [figures[column] for figures in found[name]]
            reference = [figures[column] for figures in found[REFERENCE]] if REFERENCE in found else None
            row += [spread(taken), ratios(taken, reference)]
        rows.append([*row, pipeline.bar])
    explanation = (
        f"Source, compute (identity) and sink as three processes, {RATE:.0f} messages of 1 KB a second,\n"
        f"{count} messages a run, {options.repeats} repeats in which the pipelines take turns;\n"
        "minimum / median / maximum over the repeats. Ratios are with the hand-written pipeline of the same repeat."
    )
    head = ["pipeline", "p50 ms", "p50 ratio", "p99 ms", "p99 ratio", "bar"]
    publish("latency", "Latency over two hops", [explanation, table(head, rows)], options)


if __name__ == "__main__":
    main()
