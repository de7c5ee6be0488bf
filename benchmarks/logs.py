"""What replay logs cost a pipeline, and how fast they are read: beside the same pipeline without them.

    python -m benchmarks.logs [pulsar://127.0.0.1:6650] [--repeats 5] [--count 100000]

Three processes a pipeline, all running at once; the source sends as fast as it can, and every one of them writes a log.
The tables are written to benchmarks/results/logs.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Pipeline, apache_pulsar, options_of, progress, publish, ratios, spread, table
from benchmarks.spec import Report, Spec

PLAIN = "without logs"
ROLES = ("source", "compute", "sink")


def pipelines(spec: Spec, folder: str, *, is_local: bool) -> dict[str, Pipeline]:
    logged = replace(spec, log_path=folder)
    return {
        PLAIN: Pipeline(spec, is_local=is_local),
        "logs": Pipeline(logged, "at least 0.9", is_local=is_local),
        "logs with payloads": Pipeline(replace(logged, log_verbose=True), is_local=is_local),
    }


def run(pipeline: Pipeline) -> tuple[dict[str, Report], int]:
    """The reports of a run, and how large its logs were."""
    reports = pipeline.run()
    size = 0
    if pipeline.spec.log_path is not None:
        for path in Path(pipeline.spec.log_path).iterdir():
            size += path.stat().st_size
            path.unlink()
    return reports, size


def measure(chosen: dict[str, Pipeline], repeats: int) -> str:
    found: dict[str, list[tuple[dict[str, Report], int]]] = {name: [] for name in chosen}
    for repeat in range(repeats):
        for name, pipeline in chosen.items():
            found[name].append(run(pipeline))
            progress(f"repeat {repeat + 1}: {name}: {found[name][-1][0]['sink'].rate:,.0f} examples a second")
    rates = {name: [reports["sink"].rate for reports, _ in runs] for name, runs in found.items()}
    rows = []
    for name, pipeline in chosen.items():
        row = [name, spread(rates[name], 0), ratios(rates[name], rates[PLAIN]), pipeline.bar]
        row.append(spread([size / pipeline.spec.count for _, size in found[name]], 0))
        for role in ROLES:
            row.append(spread([reports[role].cpu_s / pipeline.spec.count * 1e6 for reports, _ in found[name]], 1))
        rows.append(row)
    head = ["pipeline", "examples/s", "ratio", "bar", "log bytes an example"]
    return table([*head, *(f"{role}: CPU ms per 1000" for role in ROLES)], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None))
    count = options.count or (2000 if options.quick else 100_000)
    parts = [
        "Source, compute (identity) and sink as three processes that run at once, each with a log of its own; the\n"
        f"source sends as fast as it can. {count} examples a run, {options.repeats} repeats in which the pipelines\n"
        "take turns; minimum / median / maximum over the repeats. Ratios are with the pipeline without logs of the\n"
        "same repeat. Bytes are those of the three logs together."
    ]
    with apache_pulsar(options) as address, tempfile.TemporaryDirectory() as folder:
        for size_bytes in (1024, 100):
            spec = Spec("edgeserve", "", address or "", "", count, size_bytes)
            brokers = {"local broker": True} | ({"Apache Pulsar": False} if address is not None else {})
            for broker, is_local in brokers.items():
                progress(f"{size_bytes} bytes, {broker}")
                chosen = pipelines(spec, folder, is_local=is_local)
                parts += [f"## {size_bytes} bytes, {broker}", measure(chosen, options.repeats)]
    publish("logs", "What replay logs cost", parts, options)


if __name__ == "__main__":
    main()
