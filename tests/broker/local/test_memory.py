from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeserve._broker.base import Share
from edgeserve._broker.local.memory import memory_folder
from tests.broker.helpers import ids, numbered, receive, send
from tests.broker.local.conftest import Open

OTHER_PROCESS = """
import os, sys
from edgeserve._broker import local
from edgeserve._broker.local.memory import memory_folder
from edgeserve.address import LocalAddress

connection = local.connect(LocalAddress(":memory:shared"))
print(memory_folder(":memory:shared").parent, [info.name for info in connection.topics()], sep="\\n", flush=True)
connection.producer("theirs")
if sys.argv[1] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[1] == "wait":
    sys.stdin.read()
elif sys.argv[1] == "fork":
    os.wait()
    print([info.name for info in connection.topics()], flush=True)
connection.close()
"""


def start(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_connections_with_one_name_share_a_broker_in_memory(open_broker: Open) -> None:
    producer = open_broker(":memory:shared-by-name").producer("src")
    consumer = open_broker(":memory:shared-by-name").consumer(["src"], "s", Share.STANDBY, 100)
    send(producer, numbered(10))
    assert ids(receive(consumer, 10)) == numbered(10)
    assert open_broker(":memory:another").topics() == []


def test_a_broker_in_memory_outlives_its_connections(open_broker: Open) -> None:
    first = open_broker(":memory:lasting")
    send(first.producer("src"), ["one"])
    first.close()
    assert ids(receive(open_broker(":memory:lasting").consumer(["src"], "s", Share.STANDBY, 100), 1)) == ["one"]


def test_another_process_has_another_broker_and_leaves_nothing(open_broker: Open) -> None:
    open_broker(":memory:shared").producer("ours")
    output, _ = start("end").communicate()
    folder, topics = output.splitlines()
    assert topics == "[]"
    assert not Path(folder).exists()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_what_a_killed_process_left_is_removed_by_the_next(open_broker: Open) -> None:
    process = start("wait")
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert left.exists()
    start("end").communicate()
    assert not left.exists()


def test_what_a_living_process_uses_is_not_removed(open_broker: Open) -> None:
    open_broker(":memory:in-use").producer("ours")
    start("end").communicate()
    assert memory_folder(":memory:in-use").exists()
    assert [info.name for info in open_broker(":memory:in-use").topics()] == ["ours"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_that_ends_removes_nothing() -> None:
    output, _ = start("fork").communicate()
    assert output.splitlines()[2] == "['theirs']"
