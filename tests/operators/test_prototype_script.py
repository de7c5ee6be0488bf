"""Scripts in the style of the research prototype run unchanged, also on topics that an earlier run has used."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Positional arguments, topics given by name, `next()` in lock-step.
SCRIPT = """
import sys
from edgeserve.compute import Compute
from edgeserve.data_source import DataSource
from edgeserve.materialize import Materialize

node, src, dst = sys.argv[1:]

def double(letters):
    return letters * 2

with DataSource('hello', node, 'letters', lambda x: x.encode('utf-8'), src) as data_source, \\
        Compute(double, node, 'worker1', None, None, False, False, False, '/srv/ftp/', src, dst) as compute, \\
        Materialize(lambda x: x.decode('utf-8'), node, None, False, False, '/srv/ftp/', dst) as materialize:
    for letter in 'hello':
        assert next(data_source) == letter.encode('utf-8')
        assert next(compute) == double(letter).encode('utf-8')
        assert next(materialize) == double(letter)
print('done')
"""

JOINING = """
import sys
from edgeserve.compute import Compute
from edgeserve.data_source import DataSource
from edgeserve.materialize import Materialize

node, src, dst = sys.argv[1:]

def task(camera, imu):
    return camera + b'/' + imu

with DataSource([b'c0', b'c1', b'c2'], node, 'camera', None, src) as camera, \\
        DataSource([b'i0', b'i1', b'i2'], node, 'imu', None, src) as imu, \\
        Compute(task, node, topic_in=src, topic_out=dst, no_overlap=True) as compute, \\
        Materialize(lambda x: x, node, topic=dst) as materialize:
    for i in range(3):
        next(camera)
        assert next(compute) is None
        next(imu)
        assert next(compute) == b'c%d/i%d' % (i, i)
        assert next(materialize) == b'c%d/i%d' % (i, i)
print('done')
"""


@pytest.mark.parametrize("script", [SCRIPT, JOINING], ids=["one source", "two sources"])
def test_a_script_in_lock_step_runs_and_runs_again_on_the_same_topics(broker: str, topic: str, script: str) -> None:
    for _ in range(2):
        command = [sys.executable, "-W", "error", "-c", script, broker, f"{topic}-src", f"{topic}-dst"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
