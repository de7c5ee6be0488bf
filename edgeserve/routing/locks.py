"""A file that is being sent is locked meanwhile, so that no process takes it away before it was read."""

from __future__ import annotations

import os
import sys

if sys.platform != "win32":
    import fcntl


def hold(file_number: int) -> None:
    """Keep the open file from being removed until it is closed. On Windows an open file can't be, anyway."""
    if sys.platform != "win32":
        fcntl.flock(file_number, fcntl.LOCK_SH | fcntl.LOCK_NB)


def held_open(path: str) -> int | None:
    """Open a file and hold it until the number that this returns is closed; None where there is none."""
    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        hold(number)
    except OSError:  # it is being removed
        os.close(number)
        return None
    if not os.path.exists(path):  # it was, just before it was held
        os.close(number)
        return None
    return number


def remove_unless_held(path: str) -> bool:
    """Remove a file that nobody holds. Whether it is gone.

    Raises:
        OSError: It can't be removed for another reason.
    """
    try:
        if sys.platform == "win32":
            os.remove(path)
            return True
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except PermissionError:
        if sys.platform == "win32":
            return False
        raise
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        os.remove(path)
        return True
    finally:
        os.close(number)
