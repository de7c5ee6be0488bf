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
from collections.abc import Mapping
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
                pipes = opening.enter_context(_Pipes())
                for stream, output in ((pipes.stdout, self.stdout), (pipes.stderr, self.stderr), (pipes.status, None)):
                    os.set_blocking(stream.fileno(), output is None)
                    self._selector.register(stream, selectors.EVENT_READ, output)
                # Last, so that nothing of it has run where this raises.
                self._process = _started(path, environment, pipes)
                opening.callback(self._reap)
                self._closing = opening.pop_all()
        except OSError as error:
            raise EdgeServeError(f"a script can't be started on this node: {error}") from error

    @property
    def start_error(self) -> str | None:
        """Why it could not be started after all; nothing of it has run then."""
        return self._said[1:].decode("utf-8", "replace") if self._said.startswith(b"?") else None

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
        return int(self._said) if self._said and self.start_error is None else self._process.returncode

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


class _Pipes:
    """Those between the worker and what runs a script; the other ends are closed when that has them.

    A child that this process forks has none of them: the script would go on with it when the worker is killed, as its
    standard input would not end.

    Attributes:
        stdin: Nothing is written to it; it ends with this process.
        stdout, stderr: What the script prints.
        status: How it has ended.
    """

    def __init__(self) -> None:
        with ExitStack() as opening, _forking:
            self.theirs = ExitStack()
            opening.push(self.theirs)
            self.ours: list[IO[bytes]] = []
            opening.callback(self._close_ours)
            self.their_stdin, self.stdin = self._pipe(0)
            self.stdout, self.their_stdout = self._pipe(1)
            self.stderr, self.their_stderr = self._pipe(1)
            self.status, self.their_status = self._pipe(1)
            _live.add(self)
            opening.pop_all()

    def _pipe(self, theirs: int) -> tuple[IO[bytes], IO[bytes]]:
        """A pipe, of which the other side gets one end."""
        ends = os.pipe()
        reads, writes = os.fdopen(ends[0], "rb", buffering=0), os.fdopen(ends[1], "wb", buffering=0)
        self.theirs.enter_context((reads, writes)[theirs])
        self.ours.append((writes, reads)[theirs])
        return reads, writes

    def _close_ours(self) -> None:
        for each in self.ours:
            each.close()

    def close(self) -> None:
        """Close all ends that this process has."""
        self.theirs.close()
        self._close_ours()
        _live.discard(self)

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _started(path: str, environment: Mapping[str, str], pipes: _Pipes) -> subprocess.Popen[bytes]:
    """What runs a script."""
    with pipes.theirs:
        return subprocess.Popen(  # noqa: S603 - the script is a file, and there is no shell
            [sys.executable, "-I", "-S", str(_HOST), str(pipes.their_status.fileno()), path],
            stdin=pipes.their_stdin,
            stdout=pipes.their_stdout,
            stderr=pipes.their_stderr,
            env=dict(environment),
            pass_fds=[pipes.their_status.fileno()],
            start_new_session=True,
        )


_live: set[_Pipes] = set()
# Held while pipes are made, so that no child has one that nobody closes.
_forking = threading.RLock()


def _in_child_of_fork() -> None:
    for each in list(_live):
        with suppress(OSError):
            each.close()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_in_child_of_fork)
