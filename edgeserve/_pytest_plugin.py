"""The pytest fixtures that come with edgeserve."""

from __future__ import annotations

import pytest

from edgeserve.testing import ManualClock, memory_broker


@pytest.fixture
def edgeserve_broker() -> str:
    """The address of a broker of the test's own, in memory: give it to operators as `pulsar_node`."""
    return memory_broker()


@pytest.fixture
def edgeserve_clock() -> ManualClock:
    """A clock that the test turns: give it to operators as `clock=`."""
    return ManualClock()
