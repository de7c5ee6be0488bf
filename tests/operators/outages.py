"""A broker that can be out of reach for a while, and somebody who reads what arrives there all the same."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod

from edgeserve._broker.base import Share
from edgeserve._broker.connections import ConnectionLease
from tests.operators.conftest import examples_in
from tests.operators.processes import number_of


class Line:
    """What is between a client and a server's port of this machine: a TCP proxy that can be cut.

    Attributes:
        port: Where clients connect.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._lock = threading.Lock()
        self._is_cut = False
        self._flows = threading.Event()
        self._flows.set()
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and each new one at once."""
        with self._lock:
            self._is_cut = True
            ends, self._ends = self._ends, []
        for end in ends:
            _close(end)

    def stop(self) -> None:
        """Keep all connections and take new ones, but pass nothing on, like a network that loses every packet."""
        self._flows.clear()

    def restore(self) -> None:
        """Let clients connect again, and pass on what was held up."""
        with self._lock:
            self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        self.cut()
        self._flows.set()
        _close(self._server)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self._connect(near)

    def _connect(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self._target_port))
        except OSError:
            _close(near)
            return
        with self._lock:
            is_cut = self._is_cut
            if not is_cut:
                self._ends += [near, far]
        if is_cut:
            _close(near)
            _close(far)
            return
        for here, there in ((near, far), (far, near)):
            threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(1 << 16):
                self._flows.wait()
                there.sendall(data)
        self._flows.wait()
        _close(here)
        _close(there)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
    end.close()


class Reading:
    """Reads a topic on a thread; what is there already by its id is passed over.

    Attributes:
        numbers: Those of the examples that came, in order.
    """

    def __init__(self, address: str, topic: str) -> None:
        self.numbers: list[int] = []
        self._lease = ConnectionLease(address)
        self._consumer = self._lease.connection.consumer([topic], "the-reader", Share.STANDBY, queue_size=100)
        self._may_read = threading.Event()
        self._may_read.set()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        known = set()
        while not self._is_closing:
            self._may_read.wait()
            arrived = self._consumer.receive(50)
            for example in (example for delivery in arrived for example in examples_in(delivery)):
                if example.id not in known:
                    known.add(example.id)
                    self.numbers.append(number_of(example.payload))
            self._consumer.acknowledge(arrived)

    def pause(self) -> None:
        self._may_read.clear()

    def go_on(self) -> None:
        self._may_read.set()

    def close(self) -> None:
        self._is_closing = True
        self._may_read.set()
        self._thread.join()
        self._consumer.close()
        self._lease.close()


class Outage(ABC):
    """A topic that sources can't reach from `begin` to `end`.

    Attributes:
        address: The broker's.
        topic: The topic.
        reading: What has arrived there.
    """

    def __init__(self, address: str, topic: str) -> None:
        self.address = address
        self.topic = topic
        self.reading = Reading(address, topic)

    @abstractmethod
    def begin(self) -> None: ...

    @abstractmethod
    def end(self) -> None: ...

    def close(self) -> None:
        self.end()
        self.reading.close()


class FullTopic(Outage):
    """A topic of the local broker that is at its cap, as nobody reads it."""

    def begin(self) -> None:
        self.reading.pause()

    def end(self) -> None:
        self.reading.go_on()


class CutLine(Outage):
    """A topic of a broker that no connection leads to."""

    def __init__(self, address: str, topic: str, line: Line) -> None:
        super().__init__(address, topic)
        self._line = line

    def begin(self) -> None:
        self._line.cut()

    def end(self) -> None:
        self._line.restore()


class SilentLine(CutLine):
    """A topic of a broker from which nothing is heard, though connections to it look well."""

    def begin(self) -> None:
        self._line.stop()
