"""From source to sink over two hops at 200 messages of 1 KB a second, beside the same hops written by hand.

    python -m benchmarks.latency pulsar://127.0.0.1:6650 [--repeats 5] [--seconds 10]

Three processes a pipeline; the pipelines take turns within each repeat, so that what else the machine does meets all
of them. Each figure is a ratio with the hand-written pipeline of the same repeat; the table is written to
benchmarks/results/latency.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import uuid
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "latency.md"


def run_pipeline(kind: str, address: str, count: int, size: int, rate: float) -> list[float]:
    """Run the three processes of one pipeline; the latencies in ms, in order."""
    topic = f"latency-{uuid.uuid4().hex[:12]}"

    def start(role: str) -> subprocess.Popen[str]:
        arguments = [kind, role, address, topic, str(count), str(size), str(rate)]
        command = [sys.executable, "-m", "benchmarks.roles", *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != "ready\n":
            raise RuntimeError(f"{kind} {role} did not start: {line!r}")
        return process

    sink, compute, source = start("sink"), start("compute"), start("source")
    source.communicate("go\n", timeout=120)
    taken_ms, _ = sink.communicate(timeout=120)
    compute.communicate(timeout=60)
    return list(json.loads(taken_ms))


def percentiles(taken_ms: list[float]) -> tuple[float, float]:
    """p50 and p99, without the first second's start-up."""
    ordered = sorted(taken_ms[len(taken_ms) // 10 :])
    return statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} / {statistics.median(values):.2f} / {max(values):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency over two hops, as a ratio with hand-written pulsar-client.")
    parser.add_argument("pulsar", help="the address of an Apache Pulsar")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    size, rate = 1024, 200.0
    count = int(options.seconds * rate)
    with tempfile.TemporaryDirectory() as folder:
        pipelines = {
            "by hand, Apache Pulsar": ("hand", options.pulsar),
            "edgeserve, Apache Pulsar": ("edgeserve", options.pulsar),
            "edgeserve, local broker": ("edgeserve", f"local://{folder}"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in pipelines}
        for repeat in range(options.repeats):
            for name, (kind, address) in pipelines.items():
                found[name].append(percentiles(run_pipeline(kind, address, count, size, rate)))
                p50, p99 = found[name][-1]
                print(f"repeat {repeat + 1}: {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms", file=sys.stderr)
    table = render(found, options.repeats, count)
    RESULTS.write_text(table)
    print(table)


def render(found: dict[str, list[tuple[float, float]]], repeats: int, count: int) -> str:
    reference = found["by hand, Apache Pulsar"]
    lines = [
        "# Latency over two hops",
        "",
        "Source, compute (identity) and sink as three processes, 200 messages of 1 KB a second,",
        f"{count} messages a run, {repeats} repeats in which the pipelines take turns;",
        "minimum / median / maximum over the repeats. Ratios are with the hand-written pipeline of the same repeat.",
        "",
        "| pipeline | p50 ms | p99 ms | p50 ratio | p99 ratio |",
        "|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        columns = [spread([row[i] for row in rows]) for i in (0, 1)]
        columns += [spread([row[i] / ref[i] for row, ref in zip(rows, reference, strict=True)]) for i in (0, 1)]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    lines += [
        "",
        f"Python {platform.python_version()}, pulsar-client {version('pulsar-client')}, "
        f"edgeserve {version('edgeserve')}, {platform.system()} on {platform.machine()}, {os.cpu_count()} cores.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
