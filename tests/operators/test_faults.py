"""Nothing is lost when a process is killed: real processes, real SIGKILL, every example accounted for by its id."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter

import pytest

from edgeserve import Compute, Fate, Materialize
from tests.operators.conftest import Wire

# Kills itself with SIGKILL at the point that is named; before that it says how far it has come.
DYING = """
import os, signal, sys
from edgeserve import Compute, Materialize
broker, src, dst, kind, point, after = sys.argv[1:]
count = 0

def die_at(here, payload=b""):
    global count
    count += here == point
    if here == point and count > int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    return payload

def work(only):
    return die_at("in the task", only)

if kind == "compute":
    operator = Compute(work, broker, topic_in=src, topic_out=dst)
elif kind == "join":
    operator = Compute(lambda only, other: work(only + other), broker, topic_in=src, topic_out=dst)
else:
    operator = Materialize(work, broker, topic=src)
if point == "before the acknowledgement":
    release = operator._release
    def dying_release(examples):
        if operator.stats.fates:
            die_at(point)
        release(examples)
    operator._release = dying_release
for _ in operator:
    print("served", flush=True)
    die_at("after the step")
"""


def same(only: bytes) -> bytes:
    return only


def both(only: bytes, other: bytes) -> bytes:
    return only + other


def killed(broker: str, wire: Wire, kind: str, point: str, after: int) -> None:
    command = [sys.executable, "-c", DYING, broker, wire.src, wire.dst, kind, point, str(after)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("point", ["in the task", "before the acknowledgement", "after the step"])
@pytest.mark.parametrize("after", [0, 3])
def test_every_example_reaches_the_output_though_the_compute_is_killed(
    broker: str, wire: Wire, point: str, after: int
) -> None:
    for number in range(10):
        wire.send("only", b"%d" % number, number)
    killed(broker, wire, "compute", point, after)
    killed(broker, wire, "compute", point, 0)
    with Compute(same, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=1500) as successor:
        for _ in successor:
            pass
    sent = wire.everything_sent_on()
    assert {payload for _, _, payload, _ in sent} == {b"%d" % number for number in range(10)}
    ids = {(payload, example_id) for example_id, _, payload, _ in sent}
    assert len(ids) == 10, "a repeated run gives the same ids"


def test_a_join_that_is_killed_gets_back_what_it_held(broker: str, wire: Wire) -> None:
    wire.send("only", b"o1", 1)
    wire.send("other", b"x1", 2)
    wire.send("other", b"x2", 3)
    killed(broker, wire, "join", "after the step", 2)
    wire.send("only", b"o2", 4)
    with Compute(both, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=1500) as successor:
        served = [value for value in successor if value is not None]
    assert served[-1] == b"o2x2"


@pytest.mark.parametrize("point", ["in the task", "before the acknowledgement", "after the step"])
def test_every_example_reaches_the_sink_and_only_what_was_inside_may_come_twice(
    broker: str, wire: Wire, point: str
) -> None:
    for number in range(10):
        wire.send("any", b"%d" % number, number)
    killed(broker, wire, "sink", point, 4)
    seen: list[bytes] = []
    with Materialize(seen.append, broker, topic=wire.src, idle_timeout_ms=1500) as successor:
        for _ in successor:
            pass
    first = int(seen[0])
    assert seen == [b"%d" % number for number in range(first, 10)]
    assert first <= 5
    assert successor.stats.fates == {Fate.USED: len(seen)}


def test_two_replicas_share_the_examples_and_the_death_of_one_loses_none(broker: str, wire: Wire) -> None:
    command = [sys.executable, "-c", DYING, broker, wire.src, wire.dst, "compute", "in the task", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replica:
        for number in range(200):
            wire.send("only", b"%d" % number, number)
        assert replica.stdout is not None
        assert replica.stdout.readline() == "served\n"
        with Compute(same, broker, topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=2000) as survivor:
            for _ in survivor:
                pass
        assert replica.wait(20) == -signal.SIGKILL
    assert survivor.stats.fates[Fate.USED] >= 190
    sent = Counter(payload for _, _, payload, _ in wire.everything_sent_on())
    assert set(sent) == {b"%d" % number for number in range(200)}
