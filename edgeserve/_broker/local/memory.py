"""Brokers in memory: folders that live as long as this process, where possible on a disk that is memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from edgeserve._at_exit import Stage, at_exit
from edgeserve._broker.local.locks import is_held
from edgeserve._broker.local.session import Lifeline

_PREFIX = "edgeserve-memory-"
_ALIVE = "alive"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - each process makes a folder of its own in it
# Containers often have 64 MB of shared memory, too little for a topic or two.
_ENOUGH_BYTES = 1 << 30

_lock = threading.Lock()
_root: Path | None = None
_lifeline: Lifeline | None = None


def memory_folder(name: str) -> Path:
    """The folder of the broker called `name` in this process."""
    global _root, _lifeline  # noqa: PLW0603 - one for the process
    with _lock:
        if _root is None:
            base = _base()
            _sweep(base)
            _root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
            (_root / _ALIVE).mkdir()
            _lifeline = Lifeline(_root / _ALIVE)
            at_exit(Stage.FOLDERS, partial(_remove, _root, os.getpid()))
        return _root / name.encode().hex()


def end_memory_folder(name: str) -> None:
    """Remove the broker called `name`, with all it holds; nothing may have it open."""
    with _lock:
        if _root is not None:
            shutil.rmtree(_root / name.encode().hex(), ignore_errors=True)


def _base() -> Path:
    if os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free >= _ENOUGH_BYTES:
        return _SHARED_MEMORY
    return Path(tempfile.gettempdir())


def _sweep(base: Path) -> None:
    """Remove what processes left that had no time to."""
    for left in base.glob(_PREFIX + "*"):
        with suppress(OSError):  # another user's
            signs = list((left / _ALIVE).glob("*.lock"))
            if signs and not any(is_held(sign) for sign in signs):
                shutil.rmtree(left, ignore_errors=True)


def _remove(root: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(root, ignore_errors=True)


def _forget_in_child() -> None:
    global _lock, _root, _lifeline
    _lock, _root, _lifeline = threading.Lock(), None, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
