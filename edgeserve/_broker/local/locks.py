"""Locks on files: the system lets go of them when their process dies, whatever it dies of.

Writers of one database take turns by one; a connection holds another for as long as it lives, and that is how the
others know that its process is alive.
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from pathlib import Path

from edgeserve._core.clock import pause_ms, steady_ms

# A turn takes ms; who does not get one for this long waits for a process that was stopped in the middle of its own.
_GIVE_UP_MS = 30_000
_RETRY_MS = 0.2

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

else:
    # flock, not lockf: a process loses the latter when it opens and closes the same file elsewhere.
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)


class FileLock:
    """An exclusive lock between processes, and between the open locks of one process; not re-entrant.

    Args:
        path: Its file, which is made if it is not there.
        is_new: Whether it may not be there, not even as a link to somewhere else.
    """

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self.path = path
        self._flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if is_new else 0)
        self._fd: int | None = None

    def acquire(self) -> None:
        """Wait for the lock, and take it.

        Raises:
            TimeoutError: Another process has held it for `_GIVE_UP_MS`.
        """
        give_up_ms = steady_ms() + _GIVE_UP_MS
        while True:
            if not self.try_acquire():
                if steady_ms() >= give_up_ms:
                    raise TimeoutError(
                        f"another process has held {self.path} for {_GIVE_UP_MS // 1000} s: is it stopped?"
                    )
                pause_ms(_RETRY_MS)
            elif os.fstat(self._open()).st_nlink == 0:
                self.close()  # the file was removed meanwhile, so that this lock keeps nobody out
            else:
                return

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        return _try_lock(self._open())

    def release(self) -> None:
        """Let go of the lock; the file stays open for the next turn."""
        if self._fd is not None:
            _unlock(self._fd)

    def remove(self) -> None:
        """Remove the file while holding the lock; those who wait for it make a new one."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Close the file, which lets go of the lock unless a forked child has the file open too."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        if self._fd is None:
            self._fd = os.open(self.path, self._flags, 0o666)
        return self._fd


def hold_new(folder: Path) -> FileLock:
    """Make a lock file of a new name in `folder`, and hold it: the sign that this process lives."""
    lock = FileLock(folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.lock", is_new=True)
    lock.acquire()
    return lock


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock at `path`; nobody holds what does not exist."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def sweep(folder: Path) -> None:
    """Remove the lock files that dead processes left in `folder`."""
    for path in folder.glob("*.lock"):
        lock = FileLock(path)
        try:
            # Held while it is removed: a process that has just made it would otherwise lose it, and pass for dead.
            if lock.try_acquire():
                lock.remove()
        finally:
            lock.close()
