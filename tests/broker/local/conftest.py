"""What tests of the local broker share: a folder of one's own, and connections to it that are closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeserve._broker import local
from edgeserve._broker.base import Connection
from edgeserve.address import LocalAddress

Open = Callable[..., Connection]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a broker; nothing is in it."""
    return tmp_path / "broker"


@pytest.fixture
def open_broker(folder: Path) -> Iterator[Open]:
    """Opens connections, to `folder` unless told otherwise; the test's end closes them."""
    opened: list[Connection] = []

    def open_one(path: Path | str = folder, **options: int | bool) -> Connection:
        opened.append(local.connect(LocalAddress(str(path), **options)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def connection(open_broker: Open) -> Connection:
    """One connection to `folder`."""
    return open_broker()
