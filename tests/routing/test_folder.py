from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from edgeserve import PayloadNotStored, UsageError
from edgeserve.routing import FolderStore, FtpServer, Keep
from edgeserve.routing.ftp import FtpClient
from edgeserve.routing.urls import parse_payload_url
from edgeserve.util import ftp_fetch, local_to_global_path

KEPT = 1000
PAYLOAD = bytes(KEPT)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_payload_is_a_file_that_any_ftp_client_can_read(server: FtpServer, served: Path) -> None:
    url = server.store("cam").put(b"frame")
    assert url.startswith(f"{server.url}cam/")
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"frame"
    assert names(served / "cam") == [url.partition("#")[0].rpartition("/")[2]]


def test_the_oldest_go_first_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, keep=Keep(max_bytes=3 * KEPT))
    urls = [parse_payload_url(store.put(PAYLOAD)).path[-1] for _ in range(5)]
    assert (names(tmp_path), store.removed) == (sorted(urls[2:]), 2)


def test_a_folder_reads_and_deletes_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store", inside="cam")
    url, pieces = parse_payload_url(store.put(b"frame")), list[bytes]()
    store.fetch(url, pieces.append, 2)
    assert pieces == [b"ame"]
    other = parse_payload_url(FolderStore(tmp_path / "other").put(b"other"))
    for refuse in (store.delete, lambda each: store.fetch(each, pieces.append, 0)):
        with pytest.raises(FileNotFoundError):
            refuse(other)
    store.delete(url)
    assert names(tmp_path / "store") == []


def test_what_is_too_old_goes_and_so_does_what_an_earlier_run_left(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    left = parse_payload_url(FolderStore(tmp_path).put(PAYLOAD)).path[-1]
    os.utime(tmp_path / left, (1, 1))
    store = FolderStore(tmp_path, keep=Keep(max_age_ms=60_000))
    assert (names(tmp_path), store.removed) == (["notes.txt"], 1)


def test_what_is_being_sent_is_not_taken_away(served: Path) -> None:
    with FtpServer(served, port=0) as server:
        store = server.store(keep=Keep(max_bytes=8 << 20))
        first = parse_payload_url(store.put(os.urandom(1 << 20) * 8))
        client, pieces = FtpClient(first, 10_000), []

        def take(piece: bytes) -> None:
            if not pieces:
                store.put(PAYLOAD)
                assert store.removed == 0, "the larger one is held"
            pieces.append(piece)

        client.fetch(first, take, 0)
        assert sum(map(len, pieces)) == first.size_bytes
        client.close()


DYING = """
import os, sys
from edgeserve.routing import FolderStore
store = FolderStore(sys.argv[1])
replace = os.replace
def die(*_):
    os.kill(os.getpid(), 9)
os.replace = die
store.put(b"half")
"""


def test_a_write_that_was_interrupted_is_not_there_under_its_name(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], check=False)
    (left,) = names(tmp_path)
    assert left.endswith(".part")


def test_a_disk_without_room_is_a_clear_error_and_leaves_nothing(small_disk: Path) -> None:
    store = FolderStore(small_disk / "payloads")

    def fill() -> None:
        for _ in range(1000):
            store.put(bytes(1 << 20))

    with pytest.raises(PayloadNotStored, match="no room left"):
        fill()
    assert not [name for name in names(small_disk / "payloads") if name.endswith(".part")]
    for path in (small_disk / "payloads").iterdir():
        path.unlink()
    store.put(PAYLOAD)


@pytest.mark.parametrize(("url", "inside"), [("ftp://h", ".."), ("h", ""), ("ftp://h/?", ""), ("ftp://h", "a/../b")])
def test_what_is_no_url_of_a_folder_is_refused(tmp_path: Path, url: str, inside: str) -> None:
    with pytest.raises(UsageError, match="is none"):
        FolderStore(tmp_path, url, inside=inside)


def test_a_password_in_a_stores_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="travel with every message"):
        FolderStore(tmp_path, "ftp://me:secret@node-1/")


def test_a_server_for_all_addresses_has_a_url_that_others_can_use(tmp_path: Path) -> None:
    with FtpServer(tmp_path, host="127.0.0.1", port=0, name="camera-node") as server:
        assert server.url == f"ftp://camera-node:{server.port}/"


def test_who_may_delete_payloads_can_not_remove_the_stores_folder(tmp_path: Path) -> None:
    with FtpServer(tmp_path, port=0, allow_delete=True) as server:
        url = parse_payload_url(server.store("cam").put(PAYLOAD))
        client = FtpClient(url, 10_000)
        client.delete(url)
        with client._connection() as ftp, pytest.raises(Exception, match=r"^550"):
            ftp.rmd("cam")
        client.close()


def test_others_can_read_and_no_more(server: FtpServer, served: Path) -> None:
    url = parse_payload_url(server.store().put(b"frame"))
    client = FtpClient(url, 10_000)
    with client._connection() as ftp:
        for command in ("DELE x", "MKD x", "STOR x", "RNFR x", "SITE CHMOD 777 x"):
            assert ftp.sendcmd("NOOP").startswith("200")
            with pytest.raises(Exception, match=r"^(550|500|501|502|504)"):
                ftp.sendcmd(command)
    client.close()


def test_the_prototypes_helpers(server: FtpServer, served: Path, tmp_path: Path) -> None:
    (served / "a b").mkdir()
    (served / "a b" / "1.jpg").write_bytes(b"frame")
    assert local_to_global_path(str(served / "a b" / "1.jpg"), str(served)).endswith("/a%20b/1.jpg")
    assert ftp_fetch(f"{server.url}a%20b/1.jpg", str(tmp_path)) == b"frame"
    path = ftp_fetch(f"{server.url}a%20b/1.jpg", str(tmp_path), memory=False)
    assert Path(str(path)).read_bytes() == b"frame"
    with pytest.raises(UsageError, match="is not in"):
        local_to_global_path("/etc/hostname", str(served))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"user": "me"}, "given together"),
        ({"host": "no.such.host.invalid"}, "can listen"),
        ({"certificate": "nothing.pem"}, "PEM file"),
    ],
)
def test_a_server_that_cannot_be_says_why(tmp_path: Path, options: dict[str, str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        FtpServer(tmp_path, port=0, **options)  # type: ignore[arg-type]
