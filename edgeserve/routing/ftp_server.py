"""An FTP server for a folder of payloads: read-only for others, in a thread of its own."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from edgeserve._extras import require
from edgeserve.errors import UsageError
from edgeserve.routing.folder import FolderStore
from edgeserve.routing.locks import hold
from edgeserve.routing.retention import Keep

_SLICE_S = 0.1
_END_S = 5.0
_IDLE_S = 300
_MOST_CONNECTIONS = 512
_ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound


class FtpServer:
    """Serves a folder over FTP, or over TLS, until it is closed.

    Others may list and read. A file that is being sent is held, so that no retention takes it away. Paths stay inside
    the folder, also where links lead out of it.

    Args:
        path: The folder; it is made where there is none.
        host: The address that it listens on; "0.0.0.0" for all.
        port: Its port; 0 for any that is free.
        name: The name under which others reach this node, for URLs; None for `host`, or the machine's name where that
            is all addresses.
        passive_ports: The ports that data connections use; None for any.
        user: Who may log in, with `password`; None for anybody (anonymous).
        password: Their password.
        certificate: A PEM file with this server's certificate and its key: connections must use TLS then (`ftps://`).
        allow_delete: Whether others may delete payloads, as `ftp_delete` asks for.

    Raises:
        UsageError: An argument is wrong, or the port is taken.
        MissingExtra: pyftpdlib, or what it needs for TLS, is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        host: str = "127.0.0.1",
        port: int = 2121,
        name: str | None = None,
        passive_ports: Sequence[int] | None = None,
        user: str | None = None,
        password: str | None = None,
        certificate: str | os.PathLike[str] | None = None,
        allow_delete: bool = False,
    ) -> None:
        if (user is None) is not (password is None):
            raise UsageError("user= and password= are given together, or neither is")
        servers = _part_of_pyftpdlib("servers")
        self.path = os.path.realpath(path)
        try:
            os.makedirs(self.path, exist_ok=True)
        except OSError as error:
            raise UsageError(f"no folder can be served at {self.path}: {error.strerror or error}") from error
        handler = _handler(self.path, user, password, certificate, allow_delete=allow_delete)
        handler.passive_ports = passive_ports
        # Without a handler it would set up logging by itself, to stderr.
        logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())  # noqa: TID251 - it is not ours
        loop = _part_of_pyftpdlib("ioloop").IOLoop()
        try:
            self._server = servers.FTPServer((host, port), handler, ioloop=loop)
        except (OSError, OverflowError) as error:
            loop.close()
            raise UsageError(f"no FTP server can listen at {host}:{port}: {error}") from error
        self._server.max_cons = _MOST_CONNECTIONS
        self.port: int = self._server.address[1]
        """The port that it listens on."""
        shown = name if name is not None else socket.gethostname() if host in _ANY_ADDRESS else host
        bracketed = f"[{shown}]" if ":" in shown else shown
        self.url = f"{'ftps' if certificate is not None else 'ftp'}://{bracketed}:{self.port}/"
        """Where others find the folder, without credentials."""
        self._is_closing = False
        self._thread = threading.Thread(target=self._serve, name="edgeserve-ftp", daemon=True)
        self._thread.start()

    def store(self, inside: str = "", *, keep: Keep | None = None) -> FolderStore:
        """The served folder, or one in it, as a store for `DataSource(store=...)`.

        Where a password is asked for, consumers have it from `Fetching(logins=...)`; it never travels with a message.
        """
        return FolderStore(self.path, self.url, inside=inside, keep=keep)

    def __repr__(self) -> str:
        return f"FtpServer({self.path!r} at {self.url})"

    def close(self) -> None:
        """Hang up and stop listening. Does nothing when repeated."""
        self._is_closing = True
        self._thread.join(_END_S)

    def __enter__(self) -> FtpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        try:
            while not self._is_closing:
                self._server.ioloop.loop(_SLICE_S, blocking=False)
        finally:
            self._server.close_all()


def _part_of_pyftpdlib(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of asyncore; from Python 3.12 on it brings its own
        require("pyftpdlib", "ftp", "serving payloads over FTP")
        return require(f"pyftpdlib.{name}", "ftp", "serving payloads over FTP")


def _handler(
    path: str, user: str | None, password: str | None, certificate: str | os.PathLike[str] | None, *, allow_delete: bool
) -> Any:
    """The class that handles one connection; it carries what all of them share, as pyftpdlib has it."""
    authorizers = _part_of_pyftpdlib("authorizers")
    filesystems = _part_of_pyftpdlib("filesystems")
    handlers = _part_of_pyftpdlib("handlers")

    class HoldingFilesystem(filesystems.AbstractedFS):  # type: ignore[misc, name-defined] # it has no types
        def open(self, filename: str, mode: str) -> Any:
            file = super().open(filename, mode)
            try:
                hold(file.fileno())
            except OSError:  # it is being removed
                file.close()
                raise
            return file

        def rmdir(self, path: str) -> None:
            raise filesystems.FilesystemError("Folders stay.")

    authorizer = authorizers.DummyAuthorizer()
    permissions = "elrd" if allow_delete else "elr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that anonymous may delete is what was asked for
        if user is None:
            authorizer.add_anonymous(path, perm=permissions)
        else:
            authorizer.add_user(user, password, path, perm=permissions)
    base = handlers.FTPHandler
    members: dict[str, Any] = {
        "authorizer": authorizer,
        "abstracted_fs": HoldingFilesystem,
        "banner": "edgeserve",
        "timeout": _IDLE_S,
        "log_prefix": "%(remote_ip)s",
    }
    if certificate is not None:
        require("OpenSSL", "ftps", "serving payloads over TLS")
        if not os.path.isfile(certificate):
            raise UsageError(
                f"certificate= is {os.fspath(certificate)!r}: expected a PEM file with certificate and key"
            )
        base = handlers.TLS_FTPHandler
        members |= {"certfile": os.fspath(certificate), "tls_control_required": True, "tls_data_required": True}
    return type("Handler", (base,), members)
