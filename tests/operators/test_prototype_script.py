"""Scripts in the style of the research prototype run unchanged, also on topics that an earlier run has used."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

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


# An anonymous FTP server on port 21 over /srv/ftp, as the prototype's nodes had it.
LAZY = """
import os, subprocess, sys, urllib.request
from edgeserve.compute import Compute
from edgeserve.data_source import DataSource
from edgeserve.materialize import Materialize
from edgeserve.util import ftp_fetch, local_to_global_path

node = sys.argv[1]
serve = [sys.executable, '-m', 'edgeserve', 'ftp', '/srv/ftp/', '--port', '21']
server = subprocess.Popen(serve, stdout=subprocess.PIPE)
server.stdout.readline()
os.mkdir('/srv/ftp/frames')
paths = ['/srv/ftp/frames/%d.jpg' % i for i in range(3)]
for i, path in enumerate(paths):
    with open(path, 'w') as f:
        f.write('frame %d' % i)

def url_of(path):
    return local_to_global_path(path, '/srv/ftp/').encode('utf-8')

def text(x):
    return x.decode('utf-8')

def read(camera):
    with open(camera) as f:
        return f.read().upper()

with DataSource(paths, node, 'camera', url_of) as source, \\
        Compute(read, node, 'files', text, None, True) as files, \\
        Compute(lambda camera: camera.upper(), node, 'memory', text, None, True, True, topic_out='memory') as memory, \\
        Materialize(os.path.getsize, node, text, True) as materialize:
    for i in range(3):
        next(source)
        url = next(files)
        assert ftp_fetch(url.decode('utf-8')) == b'FRAME %d' % i
        assert next(memory) == b'FRAME %d' % i
        here = next(materialize)
        assert urllib.request.urlopen(here).read() == b'FRAME %d' % i
server.kill()
server.communicate()
print('done')
"""


def test_a_script_with_files_over_ftp_runs_as_it_is(tmp_path: Path) -> None:
    # A network and a /srv of its own, which only root can make.
    inside = "ip link set lo up && mount -t tmpfs tmpfs /srv && mkdir /srv/ftp && exec "
    script = [sys.executable, "-W", "error::Warning:__main__", "-c", LAZY, f"local://{tmp_path}"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare command")
    tried = subprocess.run(["unshare", "-m", "-n", "sh", "-c", f"{inside}true"], check=False, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"no network and no /srv of its own: {tried.stderr.decode().strip()}")
    command = ["unshare", "-m", "-n", "sh", "-c", inside + shlex.join(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
