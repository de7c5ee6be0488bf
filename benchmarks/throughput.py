"""How many messages a second go from source to sink over two hops, beside the same hops written by hand.

    python -m benchmarks.throughput [pulsar://127.0.0.1:6650] [--repeats 5] [--count 100000]

Three processes a pipeline, all running at once; the source sends as fast as it can. The rate is measured in the sink,
without the first tenth. The reference is written with pulsar-client at its best, which is its batches. The tables are
written to benchmarks/results/throughput.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness import Pipeline, apache_pulsar, options_of, progress, publish, ratios, spread, table
from benchmarks.spec import Report, Spec

REFERENCE = "by hand in batches, Apache Pulsar"
ROLES = ("source", "compute", "sink")
KB = 1024


def pipelines(address: str | None, count: int, size_bytes: int) -> dict[str, Pipeline]:
    packed = Spec("edgeserve", "", address or "", "", count, size_bytes)
    is_large = size_bytes >= KB
    single = replace(packed, packing=False)
    batched = replace(packed, kind="hand", batching=True)
    on_pulsar = {
        REFERENCE: Pipeline(batched),
        "by hand, one by one, Apache Pulsar": Pipeline(replace(batched, batching=False)),
        "edgeserve, Apache Pulsar": Pipeline(packed, "at least 2.5" if is_large else "at least 4"),
        "edgeserve, packing=False, Apache Pulsar": Pipeline(single, "at least 0.85"),
    }
    local = {
        "edgeserve, local broker": Pipeline(packed, "at least 2.5" if is_large else "", is_local=True),
        "edgeserve, packing=False, local broker": Pipeline(single, "at least 1.8" if is_large else "", is_local=True),
    }
    return {**on_pulsar, **local} if address is not None else local


def measure(chosen: dict[str, Pipeline], repeats: int) -> dict[str, list[dict[str, Report]]]:
    """The reports of each pipeline, repeat by repeat."""
    found: dict[str, list[dict[str, Report]]] = {name: [] for name in chosen}
    for repeat in range(repeats):
        for name, pipeline in chosen.items():
            found[name].append(pipeline.run())
            progress(f"repeat {repeat + 1}: {name}: {found[name][-1]['sink'].rate:,.0f} messages a second")
    return found


def render(chosen: dict[str, Pipeline], found: dict[str, list[dict[str, Report]]]) -> str:
    rates = {name: [reports["sink"].rate for reports in runs] for name, runs in found.items()}
    rows = []
    for name, pipeline in chosen.items():
        row = [name, spread(rates[name], 0), ratios(rates[name], rates.get(REFERENCE)), pipeline.bar]
        for role in ROLES:
            # Milliseconds for each thousand are microseconds for each one.
            row.append(spread([reports[role].cpu_s / pipeline.spec.count * 1e6 for reports in found[name]], 1))
        rows.append(row)
    return table(["pipeline", "messages/s", "ratio", "bar", *(f"{role}: CPU ms per 1000" for role in ROLES)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None))
    count = options.count or (2000 if options.quick else 100_000)
    parts = [
        "Source, compute (identity) and sink as three processes that run at once; the source sends as fast as it can.\n"
        f"{count} messages a run, {options.repeats} repeats in which the pipelines take turns; minimum / median /\n"
        "maximum over the repeats. Rates are measured in the sink, without the first tenth; ratios are with the first\n"
        "pipeline of the same repeat. The CPU time is that of the roles' processes: the local broker's work is in it,\n"
        "that of an Apache Pulsar is not."
    ]
    with apache_pulsar(options) as address:
        for size_bytes in (KB, 100):
            chosen = pipelines(address, count, size_bytes)
            progress(f"{size_bytes} bytes")
            found = measure(chosen, options.repeats)
            parts += [f"## {size_bytes} bytes", render(chosen, found)]
    publish("throughput", "Throughput over two hops", parts, options)


if __name__ == "__main__":
    main()
