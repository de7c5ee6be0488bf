"""The stores besides a folder and plain FTP, each on the real thing."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve import MissingExtra, PayloadUnavailable
from edgeserve.routing import Fetching, FtpServer, register_store
from edgeserve.routing.fetching import Fetcher
from edgeserve.routing.object_store import ObjectStore
from edgeserve.routing.redis import RedisStore

PAYLOAD = os.urandom(200_000)


def fetched(url: str, here: Path, fetching: Fetching | None = None) -> bytes | str:
    fetcher = Fetcher(fetching or Fetching(max_retries=0, timeout_ms=5000), str(here), in_memory=True)
    try:
        return fetcher.fetch([url])[0]
    finally:
        fetcher.close(1000)


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A certificate with its key for this machine, which is trusted in this test."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "node.pem"
    pem.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    return pem


def test_over_tls_a_payload_comes_from_a_server_that_is_trusted_and_from_no_other(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FtpServer(tmp_path / "served", port=0, certificate=certificate, user="me", password="pw") as server:
        assert server.url.startswith("ftps://")
        url = server.store().put(PAYLOAD)
        logins = Fetching(logins={server.url.rstrip("/"): ("me", "pw")}, max_retries=0, timeout_ms=5000)
        assert fetched(url, tmp_path, logins) == PAYLOAD
        with pytest.raises(PayloadUnavailable):
            fetched(url.replace("ftps", "ftp", 1), tmp_path, logins)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(PayloadUnavailable, match="certificate"):
            fetched(url, tmp_path, logins)


def test_what_fsspec_can_reach_is_a_store(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    register_store("memory", ObjectStore)
    store = ObjectStore("memory://bucket/frames")
    url = store.put(PAYLOAD)
    assert fetched(url, tmp_path) == PAYLOAD
    with pytest.raises(PayloadUnavailable, match="it is gone"):
        fetched("memory://bucket/nothing", tmp_path)
    fetcher = Fetcher(Fetching(), str(tmp_path), in_memory=True)
    fetcher.delete_later(url)
    fetcher.close(5000)
    assert fetcher.stats.deletes_refused == 0
    with pytest.raises(PayloadUnavailable, match="it is gone"):
        fetched(url, tmp_path)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis of the test's own."""
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        pytest.skip("there is no redis-server")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"redis://127.0.0.1:{port}/frames"
        finally:
            process.kill()


def test_a_redis_is_a_store(redis_url: str, tmp_path: Path) -> None:
    store = RedisStore(redis_url)
    allowed = Fetching(schemes=["redis"], max_retries=20, retry_interval_ms=100)
    url = store.put(PAYLOAD)
    assert fetched(url, tmp_path, allowed) == PAYLOAD
    store.close()


def test_a_redis_that_is_not_there_says_so(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    with pytest.raises(PayloadUnavailable, match="refused"):
        fetched("redis://127.0.0.1:1/x", tmp_path, Fetching(schemes=["redis"], max_retries=0))


def test_a_store_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises((MissingExtra, ImportError)):
        ObjectStore("s3://bucket/frames")


def test_the_command_serves_a_folder_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(2 << 20))
    os.utime(tmp_path / "old", (1, 1))
    command = [sys.executable, "-m", "edgeserve", "ftp", str(tmp_path), "--port", "0", "--keep-hours", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            (tmp_path / "1.jpg").write_bytes(b"frame")
            with urllib.request.urlopen(f"{url}1.jpg") as answer:
                assert answer.read() == b"frame"
            from tests.broker.workers import until

            until(lambda: not (tmp_path / "old").exists(), "what is too old is gone")
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=20) == ("", "")
            assert process.returncode == 0
        finally:
            process.kill()
    assert (tmp_path / "1.jpg").exists()


@pytest.mark.parametrize(
    ("options", "said"), [(["--user", "me"], "EDGESERVE_FTP_PASSWORD"), (["--passive-ports", "5"], "two ports")]
)
def test_the_command_refuses_what_cannot_be(tmp_path: Path, options: list[str], said: str) -> None:
    command = [sys.executable, "-m", "edgeserve", "ftp", str(tmp_path), "--port", "0", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, said in done.stderr) == (2, True)
