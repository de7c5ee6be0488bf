"""A real Apache Pulsar on loopback, for tests: `python -m tests.apache_pulsar` runs one until Ctrl-C.

It fetches the official distribution from Maven Central once, and needs Java 17 or newer, and Maven.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import platformdirs

VERSION = "4.0.8"

# One small broker, its bookie and its metadata in one process; what is not said has Pulsar's own default.
SETTINGS = {
    "clusterName": "standalone",
    "bindAddress": "127.0.0.1",
    "advertisedAddress": "127.0.0.1",
    # Bookies refuse loopback unless told otherwise.
    "allowLoopback": "true",
    # One bookie: there is nobody to make copies.
    "managedLedgerDefaultEnsembleSize": "1",
    "managedLedgerDefaultWriteQuorum": "1",
    "managedLedgerDefaultAckQuorum": "1",
    # By default a consumer that is up to date looks for new entries with 10 ms of delay.
    "managedLedgerNewEntriesCheckDelayInMillis": "0",
    # A topic that nobody has open for a minute would be removed, with its messages if it has no subscription.
    "brokerDeleteInactiveTopicsEnabled": "false",
    # Nobody to share the load with, nobody to talk HTTP sockets to.
    "loadManagerClassName": "org.apache.pulsar.broker.loadbalance.NoopLoadManager",
    "loadBalancerEnabled": "false",
    "webSocketServiceEnabled": "false",
    # 370 MB instead of gigabytes.
    "numIOThreads": "2",
    "numHttpServerThreads": "8",
    "managedLedgerCacheSizeMB": "64",
    "ledgerStorageClass": "org.apache.bookkeeper.bookie.storage.ldb.DbLedgerStorage",
    "dbStorage_writeCacheMaxSizeMb": "32",
    "dbStorage_readAheadCacheMaxSizeMb": "16",
    "dbStorage_rocksDB_blockCacheSize": "8388608",
    # The bookie's frames hold a message of 5 MiB and what Pulsar adds to it.
    "nettyMaxFrameSizeBytes": "5253120",
    # What is written outlives the process, not a power cut; waiting for a disk would measure the disk.
    "journalSyncData": "false",
    "journalMaxGroupWaitMSec": "1",
    # Tests run on disks that are nearly full, too.
    "diskUsageThreshold": "0.99",
    "diskUsageWarnThreshold": "0.99",
    "brokerShutdownTimeoutMs": "3000",
}

_ENVIRONMENT = {
    "PULSAR_MEM": "-Xms256m -Xmx512m -XX:MaxDirectMemorySize=384m",
    "PULSAR_GC": "-XX:+UseSerialGC",
    "PULSAR_GC_LOG": " ",
}
_HEALTHY_WITHIN_S = 90.0
_LAUNCHES = 5


class NotHealthyError(Exception):
    """The broker did not start; the message has the end of its log."""


class ApachePulsar:
    """One broker and its data. It can be killed and started again, at the same address.

    Attributes:
        url: Its address.
        web_url: Its HTTP address.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        web_port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._settings = {**SETTINGS, **(settings or {})}
        self._port = port if port is not None else _free_port()
        self._web_port = web_port if web_port is not None else _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"pulsar://127.0.0.1:{self._port}"
        self.web_url = f"http://127.0.0.1:{self._web_port}"

    def start(self) -> None:
        """Start on the data of the last time, if there was one, and return when it is healthy.

        Raises:
            NotHealthyError: It is not, after several launches.
        """
        home = fetch()
        for _ in range(_LAUNCHES):
            try:
                self._launch(home)
                if self._is_well():
                    return
            except BaseException:  # Ctrl-C: whoever waited for it is gone
                self.kill()
                raise
            # Started after SIGKILL, its bookie may register again and again (one start in three); the next is well.
            self.stop()
        raise NotHealthyError(f"Apache Pulsar is not healthy after {_LAUNCHES} launches:\n{self._log_end()}")

    def stop(self) -> None:
        """Let it end in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> ApachePulsar:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _log(self) -> Path:
        return self._folder / "broker.log"

    def _launch(self, home: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = {**self._settings, "brokerServicePort": str(self._port), "webServicePort": str(self._web_port)}
        if sys.platform == "linux":
            settings["listeningInterface"] = "lo"
        conf = self._folder / "standalone.conf"
        conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        environment = {
            **os.environ,
            **_ENVIRONMENT,
            "PULSAR_STANDALONE_CONF": str(conf),
            "PULSAR_LOG_DIR": str(self._folder / "logs"),
        }
        command = [
            str(home / "bin" / "pulsar"), "standalone", "--no-functions-worker", "--no-stream-storage",
            "--advertised-address", "127.0.0.1", "--metadata-dir", str(self._folder / "meta"),
            "--bookkeeper-dir", str(self._folder / "bookie"), "--bookkeeper-port", "0",
        ]  # fmt: skip
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _is_well(self) -> bool:
        """Wait until it is healthy. False if its bookie does not settle."""
        give_up_s = time.monotonic() + _HEALTHY_WITHIN_S
        while time.monotonic() < give_up_s:
            if self._process is None or self._process.poll() is not None:
                return False
            if self._registrations() >= 200:
                return False
            if self._answers():
                before = self._registrations()
                time.sleep(0.6)  # a bookie that does not settle registers hundreds of times a second
                return self._registrations() - before < 50
            time.sleep(0.1)
        return False

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.web_url}/admin/v2/brokers/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _registrations(self) -> int:
        return self._log.read_bytes().count(b"path: /ledgers/available")

    def _log_end(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def fetch() -> Path:
    """The unpacked distribution, from the user's cache or from Maven Central."""
    cache = platformdirs.user_cache_path("apache-pulsar", appauthor=False)
    home = cache / f"apache-pulsar-{VERSION}"
    if (home / "bin" / "pulsar").exists():
        return home
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as fresh:
        artifact = f"org.apache.pulsar:pulsar-server-distribution:{VERSION}:tar.gz:bin"
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        maven = shutil.which("mvn")
        if maven is None:
            raise NotHealthyError("Apache Pulsar is fetched with Maven, and there is no mvn")
        subprocess.run(
            [maven, "-q", "-B", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={fresh}"], check=True, cwd=fresh
        )
        (archive,) = Path(fresh).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            # A Python that knows filters wants to be told one, and an older one knows none.
            filters: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
            packed.extractall(fresh, **filters)
        with contextlib.suppress(OSError):  # somebody else was faster
            (Path(fresh) / home.name).rename(home)
    return home


def version_at(web_url: str) -> str | None:
    """The version that the broker with this HTTP address says it has; None if it does not say."""
    try:
        with urllib.request.urlopen(f"{web_url}/admin/v2/brokers/version", timeout=5) as answer:
            found = re.search(r"\d[\w.+-]*", answer.read().decode())
    except OSError:
        return None
    return found.group() if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run a broker until Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="keep the data here (default: a folder that is removed)")
    parser.add_argument("--port", type=int)
    parser.add_argument("--web-port", type=int)
    arguments = parser.parse_args()
    # It ends the same way however it is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(ApachePulsar(folder.absolute(), arguments.port, arguments.web_port))
        print(broker.url, flush=True)
        print(f"its HTTP interface: {broker.web_url}", file=sys.stderr, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
