"""Runs one script, and ends it if the worker is gone. A program of its own, which imports nothing of edgeserve.

`python _script_host.py STATUS SCRIPT`, as the leader of a process group, with its standard input a pipe that the worker
holds open for as long as it lives. SCRIPT runs in the same group. Its exit code (or the negative number of the signal
that ended it) is written to the file descriptor STATUS; or, where it could not be started, `?` and why. A worker that
was killed can't end what it has started; its pipe ends with it, and then this ends the group.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _end_with_the_worker(script: str) -> None:
    os.read(0, 1)  # which nobody writes
    try:
        os.unlink(script)
        os.rmdir(os.path.dirname(script))
    except OSError:
        pass  # the script may have left files there
    os.killpg(0, signal.SIGKILL)


def _run(status: int, script: str) -> None:
    os.set_inheritable(status, False)
    try:
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, script],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as error:
        os.write(status, f"?{error}".encode())
        sys.exit(1)
    threading.Thread(target=_end_with_the_worker, args=(script,), daemon=True).start()
    _, ended = os.waitpid(process, 0)
    os.write(status, b"%d" % os.waitstatus_to_exitcode(ended))


if __name__ == "__main__":
    _run(int(sys.argv[1]), sys.argv[2])
