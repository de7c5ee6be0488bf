"""One connection for each broker and process, shared by all operators that name the same address."""

from __future__ import annotations

import os
import threading

from edgeserve._broker.base import Connection
from edgeserve.address import Address, LocalAddress, PulsarAddress, parse_address


class _Shared:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.users = 0


_lock = threading.Lock()
_open: dict[PulsarAddress | LocalAddress, _Shared] = {}


def connect(address: PulsarAddress | LocalAddress) -> Connection:
    """A connection of one's own; who opens it closes it."""
    if isinstance(address, PulsarAddress):
        from edgeserve._broker import pulsar

        return pulsar.connect(address)
    from edgeserve._broker import local

    return local.connect(address)


def is_open(pulsar_node: Address) -> bool:
    """Whether an operator of this process has a connection to this broker."""
    with _lock:
        return parse_address(pulsar_node) in _open


class ConnectionLease:
    """A part in the process's connection to a broker; the last one to close its part closes the connection."""

    def __init__(self, pulsar_node: Address) -> None:
        self.address = parse_address(pulsar_node)
        with _lock:
            shared = _open.get(self.address)
            if shared is None:
                shared = _open[self.address] = _Shared(connect(self.address))
            shared.users += 1
        self._shared = shared
        self._is_closed = False

    @property
    def connection(self) -> Connection:
        """The shared connection."""
        return self._shared.connection

    def close(self) -> None:
        """Give the part back."""
        with _lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._shared.users -= 1
            is_last = self._shared.users == 0
            if is_last and _open.get(self.address) is self._shared:
                del _open[self.address]
        if is_last:
            self._shared.connection.close()


def _forget_in_child() -> None:
    # A child of fork has copies of its parent's connections that it must neither use nor close.
    global _lock  # noqa: PLW0603 - it may have been held by another thread of the parent
    _lock = threading.Lock()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
