"""Where fetched payloads lie in file mode: a folder for each host, kept within bounds, and nobody else's."""

from __future__ import annotations

import os
import threading

from edgeserve.errors import PayloadUnavailable
from edgeserve.routing.folder import lies_in
from edgeserve.routing.locks import held_open
from edgeserve.routing.retention import Keep, Retention
from edgeserve.routing.transfer import InFile
from edgeserve.routing.urls import PayloadUrl

# Says of a folder that what is in it was fetched, and may be removed again: this node's own payloads lie beside it.
_MARK = ".edgeserve-fetched"


class FetchedFiles:
    """The files that one operator fetched. Safe to use from several threads.

    Args:
        root: The folder that has one folder for each host.
        keep: How much of them is kept.
    """

    def __init__(self, root: str, keep: Keep) -> None:
        self._root = root
        self._retention = Retention(keep)
        self._lock = threading.Lock()
        self._adopted: set[str] = set()
        self._held: dict[str, int] = {}

    def place(self, url: PayloadUrl, max_bytes: int) -> InFile:
        """A file to be, for a payload.

        Raises:
            PayloadUnavailable: It can't be made, or may not be.
        """
        port = f"_{url.port}" if url.port is not None else ""
        folder = os.path.join(self._root, f"{url.host.replace(':', '_')}{port}")
        path = os.path.join(folder, *url.path)
        try:
            self._check_folder(url, folder)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if not lies_in(os.path.dirname(path), folder):
                raise PayloadUnavailable(url.public, f"a link leads out of {folder}")
            return InFile(url, max_bytes, path)
        except OSError as error:
            why = error.strerror or str(error)
            raise PayloadUnavailable(url.public, f"no file can be made for it in {folder}: {why}") from error

    def took(self, path: str, size_bytes: int) -> None:
        """Note that a file is whole; it is held until `release`."""
        self.hold(path)
        self._retention.add(path, size_bytes)

    def hold(self, path: str) -> bool:
        """Keep a file from being removed until `release`. False if it is gone."""
        with self._lock:
            if path in self._held:
                return True
            number = held_open(path)
            if number is not None:
                self._held[path] = number
            return number is not None

    def release(self) -> None:
        """Hold no file any more: the task that was given them is done."""
        with self._lock:
            held, self._held = self._held, {}
        for number in held.values():
            os.close(number)

    def _check_folder(self, url: PayloadUrl, folder: str) -> None:
        """Make a host's folder, or see that it is one.

        Raises:
            PayloadUnavailable: It is none, and has other things in it.
        """
        with self._lock:
            if folder in self._adopted:
                return
            if os.path.lexists(folder) and not lies_in(folder, self._root):
                raise PayloadUnavailable(url.public, f"a link leads out of {self._root}")
            os.makedirs(folder, exist_ok=True)
            mark = os.path.join(folder, _MARK)
            if not os.path.exists(mark):
                if os.listdir(folder):
                    raise PayloadUnavailable(
                        url.public, f"{folder} is for payloads of that host, and has other files in it: move them away"
                    )
                with open(mark, "xb"):
                    pass
            self._adopted.add(folder)
        self._retention.adopt(folder, exclude=_MARK)
