"""The brokers that tests meet: every test that asks for `broker` runs on each of them."""

from __future__ import annotations

import enum
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from edgeserve.address import LocalAddress, PulsarAddress, parse_address
from tests.apache_pulsar import ApachePulsar, version_at

ADDRESS = "EDGESERVE_TEST_PULSAR"
WEB_ADDRESS = "EDGESERVE_TEST_PULSAR_WEB"


class Ability(enum.Enum):
    """What one broker does and another does not; a test says `@pytest.mark.needs(Ability.…)`."""

    KEEPS_A_KEY_TOGETHER_AT_A_HANDOVER = "while consumers come and go, a key is with one over all topics, not on each"


ABILITIES: dict[str, frozenset[Ability]] = {
    "local": frozenset({Ability.KEEPS_A_KEY_TOGETHER_AT_A_HANDOVER}),
    "apache": frozenset(),
}

# How long an example takes says nothing on a machine that does other things besides.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

_started = pytest.StashKey[tuple[ApachePulsar, "tempfile.TemporaryDirectory[str]"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--apache-pulsar",
        action="store_true",
        help="fetch a real Apache Pulsar, start it, and run the tests of brokers and operators on it as well "
        f"(needs Java 17 and Maven); or give the address of one in {ADDRESS}",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(ability): skip on the brokers that do not have this ability")
    # A shell that starts us in the background has Ctrl-C ignored, also by all processes that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    is_wanted = config.getoption("--apache-pulsar") and not config.getoption("--collect-only")
    if is_wanted and ADDRESS not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="edgeserve-apache-pulsar-")
        broker = ApachePulsar(Path(folder.name))
        broker.start()
        config.stash[_started] = broker, folder
        # In the environment, so that processes that run tests for this one meet the same broker.
        os.environ[ADDRESS], os.environ[WEB_ADDRESS] = broker.url, broker.web_url


def pytest_unconfigure(config: pytest.Config) -> None:
    started = config.stash.get(_started, None)
    if started is not None:
        broker, folder = started
        broker.stop()
        folder.cleanup()
        del os.environ[ADDRESS], os.environ[WEB_ADDRESS]


def pytest_report_header() -> str:
    address = os.environ.get(ADDRESS)
    if address is None:
        apache = f"none (neither --apache-pulsar nor {ADDRESS})"
    else:
        version = version_at(_web_url(address)) or "of unknown version"
        apache = f"{version} at {address}"
    return f"brokers: local on SQLite {sqlite3.sqlite_version}; Apache Pulsar {apache}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    callspec = getattr(item, "callspec", None)
    kind = callspec.params.get("broker") if callspec is not None else None
    if kind is None:
        return
    for marker in item.iter_markers("needs"):
        (ability,) = marker.args
        if ability not in ABILITIES[kind]:
            pytest.skip(f"not on {kind}: {ability.value}")


def _web_url(address: str) -> str:
    given = os.environ.get(WEB_ADDRESS)
    return given or f"http://{address.partition('://')[2].rpartition(':')[0]}:8080"


@pytest.fixture(scope="session", params=["local", "apache"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a running broker; skips, with the reason, where it cannot be had."""
    if request.param == "local":
        return f"local://{tmp_path_factory.mktemp('broker')}"
    address = os.environ.get(ADDRESS)
    if address is None:
        pytest.skip(f"no Apache Pulsar: neither --apache-pulsar nor {ADDRESS} is given")
    return address


@pytest.fixture
def address(broker: str) -> LocalAddress | PulsarAddress:
    """The same as an object, which knows the HTTP interface as well."""
    parsed = parse_address(broker)
    return PulsarAddress(parsed.url, web_url=_web_url(parsed.url)) if isinstance(parsed, PulsarAddress) else parsed


@pytest.fixture
def topic() -> str:
    """A topic that no other test and no earlier run has used."""
    return f"topic-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, which only root can make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], check=False, capture_output=True
    )
    if not made or made.returncode != 0:
        pytest.skip(f"no small disk: {made.stderr.decode().strip() if made else 'there is no mount command'}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture(autouse=True)
def loggers_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back the handlers and levels that a test, a page or a command gives to the package's loggers."""
    for logger in (logging.getLogger("edgeserve"), logging.getLogger("edgeserve.broker.pulsar.client")):
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "level", logger.level)
