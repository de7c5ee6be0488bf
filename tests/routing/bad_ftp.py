"""An FTP server that does what no server should: it breaks off, stalls, sends too much, or says what it should not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from edgeserve._core.clock import pause_ms

Misdeed = Callable[[socket.socket, bytes], None]
"""Sends what it will of some bytes."""


class BadFtp:
    """Serves one payload to everybody, in threads; each transfer is made by the next misdeed, the last one for ever.

    Attributes:
        starts: Where each transfer began, in bytes.
        commands: The commands that came.
    """

    def __init__(self, payload: bytes, *misdeeds: Misdeed) -> None:
        self._payload = payload
        self._misdeeds = list(misdeeds)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.starts: list[int] = []
        self.commands: list[str] = []
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> BadFtp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                control, _ = self._listener.accept()
                self._open.append(control)
                threading.Thread(target=self._serve, args=(control,), daemon=True).start()

    def _serve(self, control: socket.socket) -> None:
        start, data = 0, None
        with (
            suppress(OSError, ValueError),
            control,
            control.makefile("rw", newline="\r\n", encoding="latin-1") as lines,
        ):

            def say(text: str) -> None:
                lines.write(f"{text}\n")
                lines.flush()

            say("220 hello")
            for line in lines:
                self.commands.append(line.strip())
                command, _, argument = line.strip().partition(" ")
                if command == "PASV":
                    data = socket.create_server(("127.0.0.1", 0))
                    self._open.append(data)
                    port = data.getsockname()[1]
                    say(f"227 Passive (127,0,0,1,{port >> 8},{port & 255})")
                elif command == "REST":
                    start = int(argument)
                    say("350 go on")
                elif command == "RETR" and data is not None:
                    say("150 here it comes")
                    self.starts.append(start)
                    misdeed = self._misdeeds.pop(0) if len(self._misdeeds) > 1 else self._misdeeds[0]
                    connection, _ = data.accept()
                    self._open.append(connection)
                    with connection, data:
                        misdeed(connection, self._payload[start:])
                    start = 0
                    say("226 done")
                else:
                    say("331 password" if command == "USER" else "230 ok" if command == "PASS" else "200 ok")


def all_of_it(connection: socket.socket, content: bytes) -> None:
    """What a server should do."""
    connection.sendall(content)


def the_first(count: int) -> Misdeed:
    """Break off after so many bytes."""
    return lambda connection, content: connection.sendall(content[:count])


def nothing_ever(connection: socket.socket, content: bytes) -> None:
    """Stall until the other side gives up."""
    connection.recv(1)


def without_end(connection: socket.socket, content: bytes) -> None:
    """Send for ever."""
    while True:
        connection.sendall(content or b"more" * 1000)


def drop_by_drop(connection: socket.socket, content: bytes) -> None:
    """Send everything, a byte now and then."""
    for byte in content:
        connection.sendall(bytes([byte]))
        pause_ms(10)


def other_bytes(connection: socket.socket, content: bytes) -> None:
    """Send as many bytes as there are, but others."""
    connection.sendall(bytes(len(content)))
