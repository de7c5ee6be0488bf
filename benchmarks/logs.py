"""What replay logs cost a pipeline, and how fast they are read: beside the same pipeline without them.

    python -m benchmarks.logs [pulsar://127.0.0.1:6650] [--repeats 5] [--count 100000]

Three processes a pipeline, all running at once; the source sends as fast as it can, and every one of them writes a log.
The tables are written to benchmarks/results/logs.md.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import msgpack

from benchmarks.harness import Pipeline, apache_pulsar, options_of, progress, publish, ratios, spread, table
from benchmarks.joins import feed, first_of
from benchmarks.spec import Report, Spec
from edgeserve import Compute
from edgeserve.testing import end_memory_broker, memory_broker

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


def written(folder: str, count: int) -> int:
    """Have a pipeline leave logs of so many examples at a source, a compute and a sink. How many records that is."""
    spec = Spec("edgeserve", "", "", "", count, 100, log_path=folder)
    Pipeline(spec, is_local=True).run()
    return 3 * count


def written_join(folder: str, count: int) -> int:
    """Have a join of two sources leave a log of so many examples. How many records that is."""
    address, sources = memory_broker(), ("s0", "s1")
    feed(address, len(sources), count)
    with Compute(
        first_of, address, inputs={name: name for name in sources}, log_path=folder, idle_timeout_ms=1000
    ) as compute:
        for _ in compute:
            pass
        stats = compute.stats
    end_memory_broker(address)
    # What arrived, what the join decided about it, and, but for the first turn, what came of that.
    return 2 * stats.received + stats.sent


def read_bare(folder: str) -> None:
    """The reference: the same bytes through msgpack, and nothing made of them."""
    for path in Path(folder).iterdir():
        with path.open("rb") as file:
            for value in msgpack.Unpacker(file, use_list=False, max_buffer_size=1 << 31):
                if isinstance(value, tuple):
                    msgpack.unpackb(value[1], use_list=False, strict_map_key=False)


def read_tables(folder: str) -> None:
    from edgeserve import replay

    replay.load(folder)


def read_and_run_again(folder: str) -> None:
    """On a simulated clock, as for a row of a grid."""
    from edgeserve import replay

    again = replay.run(replay.load(folder), task_ms="recorded")
    if not len(again.predictions):
        raise RuntimeError("nothing was joined when the log was run again")


BARE, LOAD, RUN_AGAIN = "bare msgpack", "replay.load", "replay.load and replay.run"
READERS: Mapping[str, Callable[[str], None]] = {BARE: read_bare, LOAD: read_tables, RUN_AGAIN: read_and_run_again}


@dataclass(frozen=True)
class Logs:
    """Logs that are read.

    Attributes:
        name: What they are of.
        write: Has so many examples leave them in a folder; how many records that is.
        readers: What they are read with; the first is the reference.
    """

    name: str
    write: Callable[[str, int], int]
    readers: Sequence[str]


LOGS = [Logs("served at once", written, (BARE, LOAD)), Logs("join", written_join, (BARE, LOAD, RUN_AGAIN))]


def reading(name: str, folder: str) -> tuple[float, float]:
    """How long a reader takes, in s, and how much memory it needs beyond that of its imports, in bytes.

    In a process of its own, as memory that was used once is not given back.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed_reading, name, folder).result()


def _timed_reading(name: str, folder: str) -> tuple[float, float]:
    import pandas  # noqa: F401 - so that it is not measured
    import pyarrow  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    READERS[name](folder)
    taken_s = time.perf_counter() - began
    return taken_s, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024.0


def measure_reading(counts: Sequence[int], repeats: int) -> str:
    rows = [row for logs in LOGS for count in counts for row in readings(logs, count, repeats)]
    head = ["logs", "records", "MB of logs", "reader", "s", "ratio", "memory beyond the imports / bytes of the logs"]
    return table(head, rows)


def readings(logs: Logs, count: int, repeats: int) -> list[list[str]]:
    """A row for each reader."""
    with tempfile.TemporaryDirectory() as folder:
        records = logs.write(folder, count)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in logs.readers}
        for repeat in range(repeats):
            for name, runs in found.items():
                runs.append(reading(name, folder))
                progress(f"{logs.name}, {records:,} records, repeat {repeat + 1}: {name}: {runs[-1][0]:.2f} s")
    bare = [taken for taken, _ in found[BARE]]
    rows = []
    for name, runs in found.items():
        taken = [each for each, _ in runs]
        of_logs = [logs.name, f"{records:,}", f"{size / 1e6:.0f}"]
        rows.append([*of_logs, name, spread(taken), ratios(taken, bare), spread([each / size for _, each in runs])])
    return rows


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
    counts = [2000] if options.quick else [100_000, 340_000]
    parts += [
        "## Reading",
        "Served at once: the logs of a source, a compute and a sink, read by `edgeserve.replay.load` into tables,\n"
        "and, as the reference, by msgpack alone. Join: the log of a compute that joins two sources by `latest`, of\n"
        "which each step has a record of what arrived, of what was decided and of what came of it; it is also run\n"
        "again, by `edgeserve.replay.run` on a simulated clock. Each time in a process of its own.",
        measure_reading(counts, options.repeats),
    ]
    publish("logs", "What replay logs cost, and reading them", parts, options)


if __name__ == "__main__":
    main()
