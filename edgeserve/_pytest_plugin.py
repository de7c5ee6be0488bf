"""The pytest fixtures that come with edgeserve."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from edgeserve.errors import UsageError
from edgeserve.testing import ManualClock, end_memory_broker, memory_broker


@pytest.fixture
def edgeserve_broker() -> Iterator[str]:
    """The address of a broker of the test's own, in memory: give it to operators as `pulsar_node`.

    It ends with the test, unless the test leaves an operator open; then it ends with the process.
    """
    address = memory_broker()
    yield address
    with suppress(UsageError):
        end_memory_broker(address)


@pytest.fixture
def edgeserve_clock() -> ManualClock:
    """A clock that the test turns: give it to operators as `clock=`."""
    return ManualClock()
