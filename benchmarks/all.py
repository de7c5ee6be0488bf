"""All benchmarks, one after another.

    python -m benchmarks.all [pulsar://127.0.0.1:6650 | --apache-pulsar] [--quick] [--repeats 5]

With neither an address nor --apache-pulsar, only what the local broker can show. `distance` and `network` start an
Apache Pulsar of their own, with Java and Maven; what can't run is named in the end, and the others run all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    accuracy,
    batches,
    cascade,
    distance,
    imports,
    joins,
    latency,
    logs,
    memory,
    network,
    prototype,
    routing,
    throughput,
    waiting,
)
from benchmarks.harness import apache_pulsar, options_of, progress

Benchmark = Callable[[Sequence[str] | None], None]
ANYWHERE: list[Benchmark] = [
    imports.main,
    joins.main,
    latency.main,
    throughput.main,
    routing.main,
    memory.main,
    cascade.main,
    waiting.main,
    batches.main,
    accuracy.main,
    logs.main,
]
ON_APACHE_PULSAR: list[Benchmark] = [prototype.main, distance.main, network.main]


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments)
    shared = [f"--repeats={options.repeats}", *(["--quick"] if options.quick else [])]
    failed = []
    with apache_pulsar(options) as address:
        benchmarks = ANYWHERE if address is None else [*ANYWHERE, *ON_APACHE_PULSAR]
        for benchmark in benchmarks:
            progress(f"== {benchmark.__module__}")
            try:
                benchmark(shared if address is None else [address, *shared])
            except Exception as error:  # noqa: BLE001 - hours of the others are not lost with it
                failed.append(f"{benchmark.__module__}: {type(error).__name__}: {error}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
