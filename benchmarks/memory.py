"""How large the operators' processes are after 100,000 and after 1,000,000 messages.

    python -m benchmarks.memory [pulsar://127.0.0.1:6650] [--repeats 5] [--count 1000000]

Each operator is a process of its own in a running pipeline; the source sends as fast as it can. Each figure is the
process's resident size at its COUNTth message, as a ratio to that at a tenth of it in the same run. The tables are
written to benchmarks/results/memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.harness import apache_pulsar, broker_at, options_of, progress, publish, ratios, run_roles, spread, table
from benchmarks.spec import Report, Spec

SIZE_BYTES = 100
# Longer than it takes from a role's `ready` to the first message.
IDLE_MS = 10_000
OPERATORS = {
    "source": "DataSource",
    "compute": "Compute, 1 source",
    "sink": "Materialize",
    "join": "Compute, 2 sources",
}


def run(address: str | None, count: int) -> dict[str, Report]:
    """Run a pipeline with one source and then one with two, on the address or a fresh local broker each."""
    # More than is looked at: a join does not send for what comes before its other source does.
    enough = count + count // 50
    spec = Spec("edgeserve", "", "", "", enough, SIZE_BYTES, resident_at=(count // 10, count), idle_ms=IDLE_MS)
    with broker_at(address) as broker:
        single = replace(spec, address=broker)
        found = run_roles({role: replace(single, role=role) for role in ("sink", "compute", "source")})
    with broker_at(address) as broker:
        half = replace(spec, role="source", address=broker, count=enough // 2, resident_at=())
        roles = {
            "second sink": replace(spec, role="sink", address=broker, resident_at=()),
            "join": replace(spec, role="join", address=broker),
            "left": replace(half, name="left"),
            "right": replace(half, name="right"),
        }
        found |= run_roles(roles)
    return {role: found[role] for role in OPERATORS}


def render(runs: Sequence[dict[str, Report]]) -> list[list[str]]:
    rows = []
    for role, operator in OPERATORS.items():
        early, late = ([reports[role].resident_bytes[at] / 2**20 for reports in runs] for at in (0, 1))
        rows.append([operator, spread(early, 1), spread(late, 1), ratios(late, early), "0.95 to 1.05"])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None))
    count = options.count or (20_000 if options.quick else 1_000_000)
    head = ["operator", f"MiB at {count // 10:,}", f"MiB at {count:,}", "ratio", "bar"]
    parts = [
        f"Messages of {SIZE_BYTES} bytes, as fast as the source can; an operator is a process in a running pipeline.\n"
        f"{options.repeats} repeats; minimum / median / maximum over the repeats. A ratio is that of one run."
    ]
    with apache_pulsar(options) as address:
        brokers = {"Local broker": None} if address is None else {"Apache Pulsar": address, "Local broker": None}
        found: dict[str, list[dict[str, Report]]] = {name: [] for name in brokers}
        for repeat in range(options.repeats):
            for name, broker in brokers.items():
                found[name].append(run(broker, count))
                sizes = {role: report.resident_bytes for role, report in found[name][-1].items()}
                progress(f"repeat {repeat + 1}: {name}: {sizes}")
    for name, runs in found.items():
        parts += [f"## {name}", table(head, render(runs))]
    publish("memory", "Resident size in the long run", parts, options)


if __name__ == "__main__":
    main()
