"""A script in a process group of its own: what it prints, how it ends, and that all of it ends."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from edgeserve.errors import EdgeServeError, UsageError

_HOST = Path(__file__).with_name("_script_host.py")
_READ_BYTES = 1 << 16
# What a script finds of the worker's environment: how to find programs, files and its own language, and no secrets.
_INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "EDGESERVE_HOME",
    "EDGESERVE_TOP",
)
# So that what it had printed when it was killed is known, and reads as what it is.
_SET = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def check_platform() -> None:
    """Check that scripts can be run here.

    Raises:
        UsageError: There are no process groups, without which a script that goes on could not be ended.
    """
    if not hasattr(os, "killpg") or not hasattr(os, "posix_spawn"):
        raise UsageError(
            f"a Worker runs scripts in process groups, which {sys.platform} does not have: run it on POSIX"
        )
    if not sys.executable:
        raise UsageError("a Worker runs scripts with sys.executable, which is not set in this interpreter")


def environment_of_scripts(added: Mapping[str, str] | None) -> dict[str, str]:
    """All that scripts find in their environment.

    Raises:
        UsageError: What is added is no mapping of str to str.
    """
    if added is not None:
        is_mapping = isinstance(added, Mapping)
        if not is_mapping or not all(isinstance(each, str) for item in added.items() for each in item):
            # Without the values, among which may be secrets.
            raise UsageError("environment: expected a mapping from names of variables to values, both str")
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, **_SET, **(added or {})}


class Output:
    """The end of what a script prints, and how much that was."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tail = bytearray()
        self.size_bytes = 0
        """All that was printed, kept or not."""

    def add(self, piece: bytes) -> None:
        """Take in what comes next."""
        self.size_bytes += len(piece)
        self._tail += piece[-self._max_bytes :]
        if len(self._tail) > 2 * self._max_bytes:
            del self._tail[: -self._max_bytes]

    def text(self) -> str:
        """The end of it, as UTF-8."""
        return self._tail[-self._max_bytes :].decode("utf-8", "replace")


class ScriptProcess:
    """One script that runs. `kill` and `wait_gone` are for any thread; the rest is for the one that started it.

    Args:
        script: Its bytes.
        environment: All of its environment.
        max_output_bytes: How much is kept of what it prints, for each of its two streams.

    Raises:
        EdgeServeError: It can't be started.
    """

    def __init__(self, script: bytes, environment: Mapping[str, str], max_output_bytes: int) -> None:
        self.stdout, self.stderr = Output(max_output_bytes), Output(max_output_bytes)
        self._lock = threading.Lock()
        self._is_reaped = False
        self._gone = threading.Event()
        self._said = b""
        try:
            with ExitStack() as opening:
                folder = tempfile.mkdtemp(prefix="edgeserve-script-")
                opening.callback(shutil.rmtree, folder, ignore_errors=True)
                path = os.path.join(folder, "script.py")
                with open(path, "xb") as file:
                    file.write(script)
                self._selector = opening.enter_context(selectors.DefaultSelector())
                self._status, self._process, pipes = _started(path, environment)
                opening.enter_context(self._status)
                opening.enter_context(self._process)  # closes its pipes
                opening.callback(self._reap)
                for stream, output in zip(pipes, (self.stdout, self.stderr), strict=True):
                    os.set_blocking(stream.fileno(), False)
                    self._selector.register(stream, selectors.EVENT_READ, output)
                self._selector.register(self._status, selectors.EVENT_READ)
                self._closing = opening.pop_all()
        except OSError as error:
            raise EdgeServeError(f"a script can't be started on this node: {error}") from error

    def has_ended(self, timeout_ms: float) -> bool:
        """Take in what it prints, until it has ended or for at most `timeout_ms`. Whether it has ended."""
        for key, _ in self._selector.select(timeout_ms / 1000):
            if key.data is not None:
                self._read(key.fileobj, key.data)  # type: ignore[arg-type] # they were registered as files
            else:
                piece = os.read(key.fd, _READ_BYTES)
                self._said += piece
                if not piece:
                    return True
        return False

    def kill(self) -> None:
        """End the script and all that is in its process group, at once."""
        with self._lock:
            if not self._is_reaped:  # until then the group's number is nobody else's
                with suppress(ProcessLookupError, PermissionError):  # as macOS says where only a zombie is left
                    os.killpg(self._process.pid, signal.SIGKILL)

    def wait_gone(self, timeout_ms: float) -> None:
        """Wait until the thread that started it is done with it."""
        self._gone.wait(timeout_ms / 1000)

    def close(self) -> int:
        """End what is left of its process group, and take in the rest of what it printed. Its exit code."""
        try:
            with self._closing:
                self._reap()
                for key in list(self._selector.get_map().values()):
                    if key.data is not None:
                        self._drain(key.fileobj, key.data)  # type: ignore[arg-type] # they were registered as files
        finally:
            self._gone.set()
        return int(self._said) if self._said else self._process.returncode

    def _reap(self) -> None:
        self.kill()
        with self._lock:
            self._process.wait()
            self._is_reaped = True

    def _read(self, stream: IO[bytes], output: Output) -> bool:
        """Take in one piece. Whether there may be more."""
        try:
            piece = os.read(stream.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        output.add(piece)
        if not piece:
            self._selector.unregister(stream)
        return bool(piece)

    def _drain(self, stream: IO[bytes], output: Output) -> None:
        # What has left the group may hold the pipe open and go on writing: it is not waited for.
        for _ in range(16):
            if not self._read(stream, output):
                return


def _started(
    path: str, environment: Mapping[str, str]
) -> tuple[IO[bytes], subprocess.Popen[bytes], Sequence[IO[bytes]]]:
    """The pipe by which is said how the script has ended, what runs it, and the pipes of what it prints."""
    ours, theirs = os.pipe()
    status = os.fdopen(ours, "rb", buffering=0)
    try:
        process = subprocess.Popen(  # noqa: S603 - the script is a file, and there is no shell
            [sys.executable, "-I", "-S", str(_HOST), str(theirs), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environment),
            pass_fds=[theirs],
            start_new_session=True,
        )
    except BaseException:
        status.close()
        raise
    finally:
        os.close(theirs)
    return status, process, [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]  # both are
