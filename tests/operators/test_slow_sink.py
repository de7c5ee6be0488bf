"""A sink that is slower than its source: what waits is the broker's to keep, and no process's memory grows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve._broker.connections import ConnectionLease
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.errors import UsageError
from tests.broker.workers import until
from tests.operators.conftest import Wire
from tests.operators.processes import Crew, Member

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc/self/statm")

KILOBYTE = 1000
CAP = 32_000_000
# What is fetched ahead is 200 messages of up to 256 KiB; what is on its way, 4000 examples.
MOST_GROWTH_BYTES = 100_000_000
STEADY_BYTES = 20_000_000
WINDOWS = 3
ROLES = ("sink", "compute", "source")


@pytest.fixture
def capped(broker: str) -> str:
    """The broker, whose topics hold no more than so much; Apache Pulsar's hold what is sent within the test."""
    return f"{broker}?max_topic_bytes={CAP}" if broker.startswith("local") else broker


@pytest.fixture
def tidy(address: LocalAddress | PulsarAddress, wire: Wire, crew: Crew) -> Iterator[None]:
    """Removes what is left unread: it is much."""
    yield
    crew.close()
    lease = ConnectionLease(address)

    def is_removed(topic: str) -> bool:
        try:
            lease.connection.delete(topic, None)
        except UsageError as error:
            return "in use" not in str(error)
        return True

    for topic in (wire.src, wire.dst):
        until(lambda topic=topic: is_removed(topic), f"{topic} is removed")
    lease.close()


def resident_bytes(member: Member) -> int:
    pages = Path(f"/proc/{member.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("tidy")
@pytest.mark.parametrize("duration_s", [7, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(240)])])
def test_no_process_grows_behind_a_slow_sink(capped: str, wire: Wire, crew: Crew, duration_s: float) -> None:
    members = [
        crew.start("sink", broker=capped, topic=wire.dst, work_ms=1),
        crew.start("compute", broker=capped, topic_in=wire.src, topic_out=wire.dst),
        crew.start("source", broker=capped, topic=wire.src, size=KILOBYTE, note_every=100),
    ]
    at_first = [resident_bytes(member) for member in members]
    # In its first seconds a process may still be filling what it may hold: then the seconds that follow are judged.
    for _ in range(WINDOWS):
        samples: list[list[int]] = [[] for _ in members]
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            for member, found in zip(members, samples, strict=True):
                assert member.process.poll() is None
                found.append(resident_bytes(member))
            time.sleep(0.02)
        assert members[0].lines() > 1000
        for role, first, found in zip(ROLES, at_first, samples, strict=True):
            assert max(found) - first < MOST_GROWTH_BYTES, role
        grown = [max(found) - max(found[: len(found) // 2]) for found in samples]
        if max(grown) < STEADY_BYTES:
            break
    assert max(grown) < STEADY_BYTES, dict(zip(ROLES, grown, strict=True))
