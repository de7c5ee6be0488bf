"""What is measured inside a role: latencies, the rate at the sink, resident size."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from benchmarks.spec import STAMP, Report, Spec

T = TypeVar("T")


class Gauge(Protocol):
    """What a sink hands its payloads to."""

    def take(self, payload: bytes) -> bool:
        """Take one payload. Whether it was the last."""

    def tell(self, report: Report) -> None:
        """Write down what was found."""


class Latencies:
    """Collects how long payloads were under way; the monotonic clock is the same in every process of a machine."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken_ms: list[float] = []

    def take(self, payload: bytes) -> bool:
        self.taken_ms.append((time.monotonic_ns() - STAMP.unpack_from(payload)[0]) / 1e6)
        return len(self.taken_ms) == self.count

    def tell(self, report: Report) -> None:
        report.taken_ms = self.taken_ms


class Rate:
    """Counts, and notes the time after the first tenth and at the last."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.warm_up = count // 10
        self.seen = 0
        self.warm_ns = self.last_ns = 0

    def take(self, payload: bytes) -> bool:
        self.seen += 1
        if self.seen == self.warm_up:
            self.warm_ns = time.monotonic_ns()
        if self.seen < self.count:
            return False
        self.last_ns = time.monotonic_ns()
        return True

    def tell(self, report: Report) -> None:
        if self.last_ns:
            report.rate = (self.count - self.warm_up) / ((self.last_ns - self.warm_ns) / 1e9)


def sink_gauge(spec: Spec) -> Gauge:
    return Latencies(spec.count) if spec.wants_latencies else Rate(spec.count)


def resident_bytes() -> int:
    """How much of this process is in memory now; where the system does not say, how much was at most."""
    if sys.platform == "linux":
        with open("/proc/self/statm") as sizes:
            return int(sizes.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def watched(items: Iterable[T], spec: Spec, report: Report) -> Iterator[T]:
    """The items; the resident size is noted at those whose numbers `spec` names."""
    return _noting(items, set(spec.resident_at), report) if spec.resident_at else iter(items)


def _noting(items: Iterable[T], numbers: set[int], report: Report) -> Iterator[T]:
    for number, item in enumerate(items, start=1):
        if number in numbers:
            report.resident_bytes.append(resident_bytes())
        yield item


class Cpu:
    """Processor time of this process since it was made."""

    def __init__(self) -> None:
        self._start_s = time.process_time()

    def spent_s(self) -> float:
        return time.process_time() - self._start_s
