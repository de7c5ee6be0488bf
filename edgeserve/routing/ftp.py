"""Payloads over FTP, from any node that serves some.

Connections are kept open and used again, for greeting, logging in and saying in which form bytes travel take FTP
several round trips.
"""

from __future__ import annotations

import ftplib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from edgeserve.errors import UsageError
from edgeserve.routing.store import Write
from edgeserve.routing.urls import PayloadUrl

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PIECE_BYTES = 256 * 1024
# Idle connections to one server that are kept.
_MOST_IDLE = 8


class _StaleConnection(ConnectionError):
    """A connection that had been idle turned out to be dead.

    The server has started again, without a word to those who were idle; so all others are as dead.
    """


class FtpClient:
    """What another node serves over FTP, as a store that can be read. Logs in as anonymous where the URL has no user.

    Args:
        url: Any URL of that server.
        timeout_ms: How long a connection may be silent.
    """

    def __init__(self, url: PayloadUrl, timeout_ms: float) -> None:
        self.scheme = url.scheme
        self._url = url
        self._timeout_s = timeout_ms / 1000
        self._lock = threading.Lock()
        self._idle: list[ftplib.FTP] = []
        # Connections on which somebody waits, to hang up on, and those of their transfers.
        self._connections: set[ftplib.FTP] = set()
        self._busy: set[socket.socket] = set()
        self._is_closed = False

    def put(self, payload: Buffer) -> str:
        """Raise UsageError: others' stores are only read."""
        raise UsageError("a store of another node is only read: make a FolderStore for a folder of this node")

    def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
        """Read a payload, over a connection of its own while it lasts. See `PayloadStore`."""
        has_begun = False

        def begun(piece: bytes) -> None:
            nonlocal has_begun
            has_begun = True
            write(piece)

        try:
            with self._connection() as ftp:
                self._retrieve(ftp, url, begun, start)
        except _StaleConnection:
            if has_begun:
                raise
            self._hang_up()
            with self._connection() as ftp:
                self._retrieve(ftp, url, write, start)

    def _retrieve(self, ftp: ftplib.FTP, url: PayloadUrl, write: Write, start: int) -> None:
        with ftp.transfercmd(f"RETR {_name(url)}", start or None) as data:
            self._busy.add(data)
            try:
                while piece := data.recv(_PIECE_BYTES):
                    write(piece)
            finally:
                self._busy.discard(data)
            if isinstance(data, ssl.SSLSocket):
                with suppress(OSError):
                    data.unwrap()
        ftp.voidresp()

    def delete(self, url: PayloadUrl) -> None:
        """Ask the server to remove a payload. See `PayloadStore`."""
        try:
            with self._connection() as ftp:
                ftp.delete(_name(url))
        except _StaleConnection:
            self._hang_up()
            with self._connection() as ftp:
                ftp.delete(_name(url))

    @contextmanager
    def _connection(self) -> Iterator[ftplib.FTP]:
        """A connection that is logged in; it is kept if nothing goes wrong with it."""
        ftp = self._idle_one()
        failure = _StaleConnection if ftp is not None else ConnectionError
        is_well = False
        try:
            if ftp is None:
                ftp = self._connected()
            self._connections.add(ftp)
            yield ftp
            is_well = True
        except ftplib.error_perm as error:
            is_well = str(error).startswith("550")
            raise _translated(error) from error
        except (ftplib.Error, EOFError, ValueError, ConnectionError, TimeoutError) as error:
            raise failure(f"the FTP server at {self._url.origin}: {error or 'it hung up'}") from error
        finally:
            if ftp is not None:
                self._connections.discard(ftp)
                self._keep_or_close(ftp, is_well=is_well)

    def _idle_one(self) -> ftplib.FTP | None:
        with self._lock:
            ftp = self._idle.pop() if self._idle else None
        if ftp is not None and not _is_alive(ftp):
            ftp.close()
            return None
        return ftp

    def _keep_or_close(self, ftp: ftplib.FTP, *, is_well: bool) -> None:
        with self._lock:
            if is_well and not self._is_closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(ftp)
                return
        ftp.close()

    def _connected(self) -> ftplib.FTP:
        url = self._url
        if url.scheme == "ftps":
            ftp: ftplib.FTP = ftplib.FTP_TLS(context=ssl.create_default_context(), timeout=self._timeout_s)  # noqa: S321
        else:
            ftp = ftplib.FTP(timeout=self._timeout_s)  # noqa: S321 - what the URL asks for
        self._connections.add(ftp)
        try:
            ftp.connect(url.host, url.port or 21)
            ftp.login(url.user or "anonymous", url.password or ("" if url.user else "edgeserve@"))
            if isinstance(ftp, ftplib.FTP_TLS):
                ftp.prot_p()
            ftp.voidcmd("TYPE I")
            sock = ftp.sock
            if sock is not None:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            ftp.close()
            raise
        finally:
            self._connections.discard(ftp)
        return ftp

    def close(self) -> None:
        """Hang up, also where a server is talking, or a transfer is under way: nobody waits for it any more."""
        self._is_closed = True
        self._hang_up()
        for sock in [*self._busy, *(ftp.sock for ftp in list(self._connections))]:
            with suppress(OSError):
                if sock is not None:
                    sock.shutdown(socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for ftp in idle:
            ftp.close()


def _name(url: PayloadUrl) -> str:
    # The parser let no control character through; a line break here would be another command.
    return "/".join(url.path)


def _is_alive(ftp: ftplib.FTP) -> bool:
    """Whether an idle connection has been silent: what a server says unasked is that it hangs up."""
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(ftp.sock, selectors.EVENT_READ)  # type: ignore[arg-type] # it is connected
            return not selector.select(0)
        except (ValueError, OSError):
            return False


def _translated(error: ftplib.error_perm) -> OSError:
    """An answer of the server's, as what it means for a payload."""
    text = str(error)
    if text.startswith("550"):
        # Servers use one number for what is not there and for what may not be had.
        denied = any(word in text.lower() for word in ("denied", "permission", "not allowed", "privilege"))
        return PermissionError(text) if denied else FileNotFoundError(text)
    return PermissionError(text)
