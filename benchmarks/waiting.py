"""How much memory a flow takes that waits to be asked about.

    python -m benchmarks.waiting [pulsar://127.0.0.1:6650] [--repeats 5]

A `Model` with signals reads flows of 1 KB that nobody asks about, in a process of its own: 100,000 at a local broker,
40,000 at an Apache Pulsar, which sends one consumer 50,000 messages of a topic at most before some are acknowledged.
The figure is what its resident size grows by, divided by the flows, less the payload. The tables are written to
benchmarks/results/waiting.md.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Sequence

from benchmarks.gauges import resident_bytes
from benchmarks.harness import apache_pulsar, broker_at, options_of, progress, publish, spread, table

SIZE_BYTES = 1024
WARM_UP = 1000
LOCAL, APACHE = 100_000, 40_000
BAR_BYTES = 1536


def hold(address: str, topic: str, count: int) -> float:
    """Have so many flows wait. The bytes that each takes beyond its payload."""
    from edgeserve import Model

    with Model(
        lambda data, signal: (True, data),
        address,
        f"{topic}-data",
        f"{topic}-out",
        f"{topic}-asks",
        max_waiting_flows=count + 1,
        max_waiting_bytes=1 << 40,
        receiver_queue_size=5000,
    ) as model:
        print("ready", flush=True)
        for _ in range(WARM_UP):
            next(model)
        before = resident_bytes()
        for _ in range(count - WARM_UP):
            next(model)
        grown = resident_bytes() - before
        assert model.stats.held == count
    return grown / (count - WARM_UP) - SIZE_BYTES


def measured(address: str | None, count: int) -> float:
    """The same in a process of its own."""
    from edgeserve import DataSource

    topic = f"benchmark-{uuid.uuid4().hex[:12]}"
    with broker_at(address) as broker:
        command = [sys.executable, "-m", "benchmarks.waiting", "--hold", broker, topic, str(count)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        payload = bytes(SIZE_BYTES)
        with DataSource(range(count), broker, "src", lambda _: payload, f"{topic}-data", flow_id=str) as source:
            for _ in source:
                pass
        told, _ = process.communicate(timeout=600)
    return float(told)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments)
    divisor = 20 if options.quick else 1
    rows = []
    with apache_pulsar(options) as address:
        chosen = {"local broker": (None, LOCAL // divisor)}
        if address is not None:
            chosen["Apache Pulsar"] = (address, APACHE // divisor)
        for name, (broker, count) in chosen.items():
            found = []
            for repeat in range(options.repeats):
                found.append(measured(broker, count))
                progress(f"{name}, repeat {repeat + 1}: {found[-1]:.0f} bytes a flow")
            rows.append([name, f"{count:,}", spread(found, 0), f"at most {BAR_BYTES:,}"])
    explanation = (
        "A `Model` with signals, in a process of its own, holds flows of 1 KB that nobody asks about: what its\n"
        f"resident size grows by after the first {WARM_UP:,}, divided by the flows, less the payload. What is fetched\n"
        f"ahead is in it. {options.repeats} repeats; minimum / median / maximum."
    )
    head = ["broker", "flows that wait", "bytes a flow beyond the payload", "bar"]
    publish("waiting", "Memory of flows that wait", [explanation, table(head, rows)], options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hold"]:
        _, _, broker_address, topic_prefix, flows = sys.argv
        print(hold(broker_address, topic_prefix, int(flows)), flush=True)
    else:
        main()
