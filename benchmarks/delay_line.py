"""A wire of some length in user space: what a TCP connection carries arrives later, in order, at full speed.

    python -m benchmarks.delay_line TARGET_PORT DELAY_MS

It listens on a free port of the loopback interface, prints the port, and ends with its input. Opening a connection
takes no longer; every byte takes DELAY_MS in each direction.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

HOST = "127.0.0.1"
# So that a slow reader stops the sender, and the length of the line does not.
BUFFER_BYTES = 16 * 1024 * 1024


class End(asyncio.Protocol):
    """One end of a connection; what it reads leaves at the other end later."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(BUFFER_BYTES)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._delay(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._delay(None)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def _delay(self, data: bytes | None) -> None:
        self._under_way.append((self._loop.time() + self._delay_s, data))
        if len(self._under_way) == 1:
            self._loop.call_at(self._under_way[0][0], self._pass_on)

    def _pass_on(self) -> None:
        now_s = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now_s:
            _, data = self._under_way.popleft()
            if self.other is None or self.other.transport is None:
                continue
            if data is None:
                self.other.transport.close()
            else:
                self.other.transport.write(data)
        if self._under_way:
            self._loop.call_at(self._under_way[0][0], self._pass_on)


class NearEnd(End):
    """The end of whoever connects; it opens the far one."""

    def __init__(self, target_port: int, delay_s: float) -> None:
        super().__init__(delay_s)
        self._target_port = target_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        assert self.transport is not None
        far = End(self._delay_s)
        far.other, self.other = self, far
        try:
            await self._loop.create_connection(lambda: far, HOST, self._target_port)
        except OSError:
            self.transport.close()
        else:
            self.transport.resume_reading()


async def serve(target_port: int, delay_s: float) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: NearEnd(target_port, delay_s), HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def main() -> None:
    target_port, delay_ms = sys.argv[1:]
    asyncio.run(serve(int(target_port), float(delay_ms) / 1000))


if __name__ == "__main__":
    main()
