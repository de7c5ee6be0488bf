"""Throughput at 1 KB with a broker that is 40 ms away, by the number of messages in flight.

    python -m benchmarks.distance [--repeats 5] [--count 100000]

It starts an Apache Pulsar of its own, as the tests do (Java 17 or newer, and Maven): the broker must tell its clients
the address of the delay line before it, because they connect to what a lookup answers. The pipelines are those of
benchmarks.throughput. The table is written to benchmarks/results/distance.md.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Pipeline, options_of, progress, publish, ratios, spread, table
from benchmarks.spec import Spec

REFERENCE = "by hand in batches"
ONE_WAY_MS = 20
ROUND_TRIPS_PER_S = 1000 // (2 * ONE_WAY_MS)
IN_FLIGHT = (1, 2, 4, 8, 16, 32)
# 256 KiB a pack.
EXAMPLES_A_PACK = 250


@contextmanager
def delay_line(target_port: int) -> Iterator[int]:
    """The port from which a delay line leads to the other port."""
    command = [sys.executable, "-m", "benchmarks.delay_line", str(target_port), str(ONE_WAY_MS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as line:
        assert line.stdout is not None
        try:
            yield int(line.stdout.readline())
        finally:
            line.kill()


@contextmanager
def distant_broker() -> Iterator[str]:
    """The address of an Apache Pulsar at the far end of a delay line."""
    from tests.apache_pulsar import ApachePulsar

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, delay_line(port) as near_port:
        near = f"pulsar://127.0.0.1:{near_port}"
        with ApachePulsar(Path(folder), port, settings={"advertisedListeners": f"internal:{near}"}):
            yield near


def send_ms(address: str) -> list[float]:
    """How long each of some sends takes that wait for the broker."""
    from benchmarks.by_hand import quiet_client

    client = quiet_client(address)
    producer = client.create_producer(f"distance-{uuid.uuid4().hex[:12]}")
    taken_ms = []
    for _ in range(30):
        start_ns = time.monotonic_ns()
        producer.send(bytes(1024))
        taken_ms.append((time.monotonic_ns() - start_ns) / 1e6)
    client.close()
    return taken_ms[5:]


def pipelines(address: str, most: int, seconds: float) -> dict[str, Pipeline]:
    """The reference, and edgeserve with each number in flight: at most `most` messages, or some `seconds` of them."""
    spec = Spec("edgeserve", "", address, "", most, 1024)
    found = {REFERENCE: Pipeline(replace(spec, kind="hand", batching=True))}
    for in_flight in IN_FLIGHT:
        count = min(most, int(seconds * ROUND_TRIPS_PER_S * in_flight * EXAMPLES_A_PACK))
        found[f"edgeserve, {in_flight} in flight"] = Pipeline(replace(spec, count=count, in_flight=in_flight))
    return {**found, "edgeserve, as it is": Pipeline(spec)}


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None), ("--seconds", float, None))
    most = options.count or (2000 if options.quick else 100_000)
    seconds = options.seconds or (1 if options.quick else 8)
    with distant_broker() as address:
        waited_ms = send_ms(address)
        chosen = pipelines(address, most, seconds)
        found: dict[str, list[float]] = {name: [] for name in chosen}
        for repeat in range(options.repeats):
            for name, pipeline in chosen.items():
                found[name].append(pipeline.run()["sink"].rate)
                progress(f"repeat {repeat + 1}: {name}: {found[name][-1]:,.0f} messages a second")
    rows = [
        [name, str(chosen[name].spec.count), spread(rates, 0), ratios(rates, found[REFERENCE], 3)]
        for name, rates in found.items()
    ]
    explanation = (
        "The pipelines of the throughput benchmark at 1 KB, with an Apache Pulsar behind a line that delays each byte\n"
        f"by {ONE_WAY_MS} ms in each direction: a send that waits for the broker takes\n"
        f"{spread(waited_ms, 1)} ms. In flight are messages (packs) of each of source and compute.\n"
        f"{options.repeats} repeats in which the pipelines take turns; minimum / median / maximum over the repeats.\n"
        "Ratios are with the hand-written pipeline of the same repeat."
    )
    head = ["pipeline", "messages a run", "messages/s", "ratio"]
    publish("distance", "Throughput with a broker 40 ms away", [explanation, table(head, rows)], options)


if __name__ == "__main__":
    main()
