"""What a join costs: microseconds a message of a Compute with 1, 2, 4 and 16 sources.

    python -m benchmarks.joins [--repeats 5] [--count 32000]

All in one process, on a local broker in memory. The sources send everything beforehand, in turns of ten; then the
Compute's steps alone are timed. The reference is a Compute with one source, which joins nothing. The first and the last
tenth of each run are compared as well: a cost that grows with the run shows there. The table is written to
benchmarks/results/joins.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import options_of, progress, publish, ratios, spread, table
from edgeserve import Compute, DataSource
from edgeserve.testing import end_memory_broker, memory_broker

START_MS = 1_700_000_000_000
PAYLOAD = bytes(100)
TENTHS = 10
# How many messages a source sends in its turn.
TURN = 10


@dataclass(frozen=True)
class Case:
    """A join of so many sources."""

    join: Literal["latest", "nearest"]
    sources: int


REFERENCE = Case("latest", 1)
CASES = [REFERENCE, *(Case(join, sources) for join in ("latest", "nearest") for sources in (2, 4, 16))]


@dataclass(frozen=True)
class Timing:
    """Of one run.

    Attributes:
        tenths_us: Microseconds a message, in each tenth of it.
        cpu_us: Processor time a message, of the whole process.
        outputs: How many messages went out for each that came in.
    """

    tenths_us: list[float]
    cpu_us: float
    outputs: float

    @property
    def mean_us(self) -> float:
        return statistics.mean(self.tenths_us)

    @property
    def growth(self) -> float:
        return self.tenths_us[-1] / self.tenths_us[0]


def first_of(s0: bytes, **others: bytes) -> bytes:
    return s0


def feed(address: str, sources: int, count: int) -> None:
    """Send `count` messages in all. The sources take turns; the captures of each are 1 ms apart.

    A turn ends when the broker has stored it: otherwise the topic would hold one long stretch of each source.
    """
    with ExitStack() as stack:
        opened = [
            stack.enter_context(
                DataSource(
                    range(count // sources), address, f"s{number}", lambda _: PAYLOAD, event_time=lambda n: START_MS + n
                )
            )
            for number in range(sources)
        ]
        for _ in range(count // sources // TURN):
            for source in opened:
                for _ in range(TURN):
                    next(source)
                while source.stats.unconfirmed:
                    time.sleep(0.0001)


def timed(case: Case, count: int) -> Timing:
    """Run one case on a broker of its own."""
    address = memory_broker()
    feed(address, case.sources, count)
    inputs = {f"s{number}": f"s{number}" for number in range(case.sources)}
    sent = count // case.sources // TURN * TURN * case.sources
    tenth = sent // (TENTHS + 1)
    tenths_us = []
    with Compute(first_of, address, join=case.join, inputs=inputs) as compute:
        for _ in range(tenth):  # what the first steps pay for, such as the first fetch, is no tenth of the run
            next(compute)
        cpu_start_s = time.process_time()
        for _ in range(TENTHS):
            start_ns = time.perf_counter_ns()
            for _ in range(tenth):
                next(compute)
            tenths_us.append((time.perf_counter_ns() - start_ns) / 1e3 / tenth)
        cpu_us = (time.process_time() - cpu_start_s) * 1e6 / (tenth * TENTHS)
        stats = compute.stats
    end_memory_broker(address)
    return Timing(tenths_us, cpu_us, stats.sent / stats.received)


def beyond(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    return [value - other for value, other in zip(values, reference, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments, ("--count", int, None))
    count = options.count or (3200 if options.quick else 32_000)
    timed(REFERENCE, count // TENTHS)  # the first run of a process pays for what the others find loaded
    found: dict[Case, list[Timing]] = {case: [] for case in CASES}
    for repeat in range(options.repeats):
        for case in CASES:
            timing = timed(case, count)
            found[case].append(timing)
            progress(
                f"repeat {repeat + 1}: {case.sources} sources, {case.join}: "
                f"{timing.mean_us:.1f} us, last tenth / first tenth {timing.growth:.2f}"
            )
    reference_us = [timing.mean_us for timing in found[REFERENCE]]
    reference_cpu_us = [timing.cpu_us for timing in found[REFERENCE]]
    rows = []
    for case, timings in found.items():
        mean_us = [timing.mean_us for timing in timings]
        cpu_us = [timing.cpu_us for timing in timings]
        rows.append(
            [
                "none" if case == REFERENCE else case.join,
                str(case.sources),
                spread(mean_us, 1),
                spread(beyond(mean_us, reference_us), 1),
                ratios(mean_us, reference_us),
                spread(cpu_us, 1),
                spread(beyond(cpu_us, reference_cpu_us), 1),
                spread([timing.growth for timing in timings]),
                f"{statistics.median(timing.outputs for timing in timings):.2f}",
            ]
        )
    explanation = (
        f"One process, a local broker in memory, {count} messages of {len(PAYLOAD)} bytes sent beforehand by sources\n"
        f"that take turns of {TURN}; then the Compute's steps are timed, with the sending of what the task returned.\n"
        f"{options.repeats} repeats in which the cases take turns; minimum / median / maximum over the repeats.\n"
        "Beyond and ratio are with the single source of the same repeat. CPU is the time of the whole process, the\n"
        "broker's threads included. A join by `latest` sends on every message, one by `nearest` on those\n"
        "of its first source, as the last column shows."
    )
    costs = ["us a message", "beyond 1 source", "ratio", "CPU us a message", "beyond 1 source"]
    head = ["join", "sources", *costs, "last / first tenth", "outputs a message"]
    publish("joins", "What a join costs", [explanation, table(head, rows)], options)


if __name__ == "__main__":
    main()
