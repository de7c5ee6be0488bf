"""What tests of brokers share: connections that are closed, and processes that are ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve._broker import connections
from edgeserve._broker.base import Connection
from edgeserve.address import LocalAddress, PulsarAddress
from tests.broker.helpers import Connect
from tests.broker.workers import Workers


@pytest.fixture
def connect(address: LocalAddress | PulsarAddress) -> Iterator[Connect]:
    """Opens connections, each one's own, which the test's end closes."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        opened.append(connections.connect(address))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(connect: Connect) -> Connection:
    """One connection."""
    return connect()


@pytest.fixture
def workers(address: LocalAddress | PulsarAddress, tmp_path: Path) -> Iterator[Workers]:
    """Processes that share a subscription."""
    workers = Workers(address, tmp_path)
    yield workers
    workers.end()
