"""A cascade of two models, beside the same cascade written by hand: flows a second, and how soon they are answered.

    python -m benchmarks.cascade [pulsar://127.0.0.1:6650] [--repeats 5] [--count 50000] [--seconds 10]

Four processes a pipeline, all running at once: a source of flows, a cheap model, a dear model and a sink. Every fifth
flow is escalated, and the models cost nothing. The tables are written to benchmarks/results/cascade.md.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.cascade_roles import ROLES
from benchmarks.harness import (
    apache_pulsar,
    broker_at,
    options_of,
    progress,
    publish,
    ratios,
    run_roles,
    spread,
    table,
)
from benchmarks.spec import Report, Spec

REFERENCE = "by hand, Apache Pulsar"
RATE = 200.0


def pipelines(address: str | None, count: int, *, rate: float | None) -> dict[str, tuple[Spec, str]]:
    """The pipelines that take turns, each with its bar."""
    shared = Spec(
        "edgeserve", "", "", "", count, 1024, rate, packing=False, wants_latencies=rate is not None, is_cascade=True
    )
    packed = replace(shared, packing=True)
    bar = "at least 0.9" if rate is None else "p50 at most 1.2"
    local = {
        "edgeserve, local broker": (shared, ""),
        "edgeserve, packs on all topics, local broker": (packed, ""),
    }
    if address is None:
        return local
    shared, packed = replace(shared, address=address), replace(packed, address=address)
    return {
        REFERENCE: (replace(shared, kind="hand", batching=rate is None), ""),
        "edgeserve, Apache Pulsar": (shared, bar),
        "edgeserve, packs on all topics, Apache Pulsar": (packed, ""),
        **local,
    }


def run(spec: Spec) -> dict[str, Report]:
    with broker_at(spec.address or None) as address:
        return run_roles({role: replace(spec, role=role, address=address) for role in reversed(ROLES)})


def measure(chosen: Mapping[str, tuple[Spec, str]], repeats: int, *, what: str) -> dict[str, list[dict[str, Report]]]:
    found: dict[str, list[dict[str, Report]]] = {name: [] for name in chosen}
    for repeat in range(repeats):
        for name, (spec, _) in chosen.items():
            found[name].append(run(spec))
            sink = found[name][-1]["answers"]
            figure = f"{statistics.median(sink.taken_ms):.2f} ms" if sink.taken_ms else f"{sink.rate:,.0f} flows/s"
            progress(f"{what}, repeat {repeat + 1}: {name}: {figure}")
    return found


def throughput(chosen: Mapping[str, tuple[Spec, str]], found: Mapping[str, list[dict[str, Report]]]) -> str:
    rates = {name: [reports["answers"].rate for reports in runs] for name, runs in found.items()}
    rows = []
    for name, (spec, bar) in chosen.items():
        row = [name, spread(rates[name], 0), ratios(rates[name], rates.get(REFERENCE)), bar]
        for role in ROLES:
            row.append(spread([reports[role].cpu_s / spec.count * 1e6 for reports in found[name]], 1))
        rows.append(row)
    return table(["pipeline", "flows/s", "ratio", "bar", *(f"{role}: CPU ms per 1000" for role in ROLES)], rows)


def latency(chosen: Mapping[str, tuple[Spec, str]], found: Mapping[str, list[dict[str, Report]]]) -> str:
    figures = {name: [_percentiles(reports["answers"].taken_ms) for reports in runs] for name, runs in found.items()}
    rows = []
    for name, (_, bar) in chosen.items():
        row = [name]
        for column in (0, 1):
            reference = [each[column] for each in figures[REFERENCE]] if REFERENCE in figures else None
            taken = [each[column] for each in figures[name]]
            row += [spread(taken), ratios(taken, reference)]
        rows.append([*row, bar])
    return table(["pipeline", "p50 ms", "p50 ratio", "p99 ms", "p99 ratio", "bar"], rows)


def _percentiles(taken_ms: Sequence[float]) -> tuple[float, float]:
    """p50 and p99, without the first tenth's start-up."""
    ordered = sorted(taken_ms[len(taken_ms) // 10 :])
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None), ("--seconds", float, None))
    count = options.count or (2000 if options.quick else 50_000)
    seconds = options.seconds or (1 if options.quick else 10)
    with apache_pulsar(options) as address:
        fast = pipelines(address, count, rate=None)
        rates = measure(fast, options.repeats, what="throughput")
        slow = pipelines(address, int(seconds * RATE), rate=RATE)
        latencies = measure(slow, options.repeats, what="latency")
    parts = [
        "A source of flows, a cheap model, a dear model and a sink as four processes that run at once; payloads of\n"
        "1 KB, every fifth flow escalated, models that cost nothing. By hand and with edgeserve's defaults, data and\n"
        "signals are messages of their own with the flow as their key, so that replicas can share them; the answers\n"
        "are not. *Packs on all topics* (`packing=True`) give up that sharing.\n"
        f"{options.repeats} repeats in which the pipelines take turns; minimum / median / maximum over the repeats.\n"
        "Ratios are with the first pipeline of the same repeat.",
        f"## Flows a second\n\n{count} flows as fast as the source can, all answered, without the first tenth.",
        throughput(fast, rates),
        f"## How soon a sure flow is answered\n\n{RATE:.0f} flows a second; from the data's making to the answer at\n"
        "the sink, for flows that the cheap model is sure of: two hops.",
        latency(slow, latencies),
    ]
    publish("cascade", "A cascade of two models", parts, options)


if __name__ == "__main__":
    main()
