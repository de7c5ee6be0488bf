from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import xxhash

from edgeserve import PayloadUnavailable, UsageError
from edgeserve.routing import Fetching, FolderStore, FtpServer, Keep, PayloadUrl, register_store
from edgeserve.routing.fetching import Fetcher, Stopped
from edgeserve.routing.ftp import FtpClient
from edgeserve.routing.locks import hold
from edgeserve.routing.store import Write
from edgeserve.routing.urls import parse_payload_url
from tests.broker.workers import until
from tests.routing.bad_ftp import BadFtp, all_of_it, drop_by_drop, nothing_ever, other_bytes, the_first, without_end

PAYLOAD = os.urandom(300_000)
QUICK = Fetching(timeout_ms=500, retry_interval_ms=10)

MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def fetcher(here: Path) -> Iterator[MakeFetcher]:
    made: list[Fetcher] = []

    def make(fetching: Fetching = QUICK, *, in_memory: bool = True, root: Path = here) -> Fetcher:
        made.append(Fetcher(fetching, str(root), in_memory=in_memory))
        return made[-1]

    yield make
    for each in made:
        each.close(1000)


def url_at(port: int, payload: bytes = PAYLOAD) -> str:
    return f"ftp://127.0.0.1:{port}/x#size={len(payload)}&xxh3={xxhash.xxh3_64_hexdigest(payload)}"


def why(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(PayloadUnavailable) as refused:
        fetcher.fetch([url])
    return refused.value.reason


def test_a_payload_is_fetched_as_bytes_or_as_a_file_under_its_hosts_name(
    server: FtpServer, here: Path, fetcher: MakeFetcher
) -> None:
    url = server.store("cam").put(PAYLOAD)
    assert fetcher().fetch([url]) == [PAYLOAD]
    (path,) = fetcher(in_memory=False).fetch([url])
    assert Path(str(path)).read_bytes() == PAYLOAD
    assert Path(str(path)).parent == here / f"127.0.0.1_{server.port}" / "cam"


def test_two_nodes_with_files_of_one_name_are_kept_apart(tmp_path: Path, fetcher: MakeFetcher) -> None:
    with FtpServer(tmp_path / "a", port=0) as a, FtpServer(tmp_path / "b", port=0) as b:
        for node, content in ((a, b"of a"), (b, b"of b")):
            (Path(node.path) / "1.jpg").write_bytes(content)
        files = fetcher(in_memory=False).fetch([f"{a.url}1.jpg", f"{b.url}1.jpg"])
        assert [Path(str(path)).read_bytes() for path in files] == [b"of a", b"of b"]


def test_a_payload_of_this_nodes_own_folder_is_used_where_it_is(server: FtpServer, fetcher: MakeFetcher) -> None:
    url = server.store("cam").put(PAYLOAD)
    files, memory = fetcher(in_memory=False, root=Path(server.path)), fetcher(root=Path(server.path))
    (path,) = files.fetch([url])
    assert Path(str(path)).parent == Path(server.path) / "cam"
    assert memory.fetch([url]) == [PAYLOAD]
    assert [(each.stats.local, each.stats.fetched) for each in (files, memory)] == [(1, 0), (1, 0)]


def test_a_payload_that_is_used_again_is_not_fetched_again_within_the_caches_bytes(
    server: FtpServer, fetcher: MakeFetcher
) -> None:
    store, small = server.store(), fetcher(Fetching(cache_bytes=2 * len(PAYLOAD)))
    urls = [store.put(PAYLOAD) for _ in range(3)]
    for url in [urls[0], urls[1], urls[0], urls[2], urls[0], urls[1]]:
        small.fetch([url])
    assert (small.stats.fetched, small.stats.cache_hits) == (4, 2)


def test_those_who_ask_for_one_payload_at_a_time_share_one_fetch(fetcher: MakeFetcher) -> None:
    arrived = threading.Event()

    def slowly(connection: object, content: bytes) -> None:
        assert arrived.wait(10)
        all_of_it(connection, content)  # type: ignore[arg-type]

    with BadFtp(PAYLOAD, slowly) as bad, ThreadPoolExecutor(5) as pool:
        one = fetcher(Fetching())
        asked = [pool.submit(one.fetch, [url_at(bad.port)]) for _ in range(5)]
        until(lambda: bad.starts, "the first one is under way")
        arrived.set()
        assert [each.result(20) for each in asked] == [[PAYLOAD]] * 5
        assert bad.starts == [0]


def test_all_that_is_missing_is_fetched_at_once(fetcher: MakeFetcher) -> None:
    both = threading.Barrier(2, timeout=10)

    def together(connection: object, content: bytes) -> None:
        both.wait()
        all_of_it(connection, content)  # type: ignore[arg-type]

    with BadFtp(b"left", together) as left, BadFtp(b"right", together) as right:
        urls = [url_at(left.port, b"left"), url_at(right.port, b"right")]
        assert fetcher(Fetching()).fetch(urls) == [b"left", b"right"]


def test_a_payload_that_is_fetched_ahead_is_there_when_it_is_asked_for(server: FtpServer, fetcher: MakeFetcher) -> None:
    url, ahead = server.store().put(PAYLOAD), fetcher()
    ahead.prefetch(url, 4)
    until(lambda: ahead.stats.fetched == 1, "it is there")
    assert ahead.fetch([url]) == [PAYLOAD]
    assert (ahead.stats.fetched, ahead.stats.cache_hits) == (1, 0)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_broke_off(fetcher: MakeFetcher, in_memory: bool) -> None:
    with BadFtp(PAYLOAD, the_first(100_000), the_first(50_000), all_of_it) as bad:
        one = fetcher(in_memory=in_memory)
        (got,) = one.fetch([url_at(bad.port)])
        assert (got if isinstance(got, bytes) else Path(got).read_bytes()) == PAYLOAD
        assert bad.starts == [0, 100_000, 150_000]
        assert one.stats.fetched_bytes == len(PAYLOAD)


def test_a_payload_that_was_changed_between_two_parts_is_fetched_anew(fetcher: MakeFetcher) -> None:
    with BadFtp(PAYLOAD, the_first(100_000), other_bytes, all_of_it) as bad:
        assert fetcher().fetch([url_at(bad.port)]) == [PAYLOAD]
        assert bad.starts == [0, 100_000, 0]


@pytest.mark.parametrize(
    ("misdeed", "reason"),
    [
        (other_bytes, "not those that its URL was made for"),
        (the_first(10), "10 bytes came of the 300,000"),
        (nothing_ever, "timed out"),
        (without_end, "more of it than 300,000 bytes"),
    ],
)
def test_a_server_that_misbehaves_makes_a_payload_unavailable_and_leaves_nothing(
    here: Path, fetcher: MakeFetcher, misdeed: Callable[..., None], reason: str
) -> None:
    with BadFtp(PAYLOAD, misdeed) as bad:
        fetching = Fetching(timeout_ms=100, max_retries=1, retry_interval_ms=1)
        url = url_at(bad.port)
        if misdeed is not nothing_ever and reason.startswith("10"):
            bad._misdeeds.append(the_first(0))
        assert reason in why(fetcher(fetching, in_memory=False), url)
        assert reason in why(fetcher(fetching), url) or reason.startswith("10")
    assert [path for path in here.rglob("*") if path.is_file() and path.name != ".edgeserve-fetched"] == []


def test_what_trickles_in_is_given_up_at_the_limit_and_hung_up_on(here: Path) -> None:
    with BadFtp(PAYLOAD, drop_by_drop, all_of_it) as bad:
        slow = Fetcher(Fetching(timeout_ms=500, retry_interval_ms=0), str(here), in_memory=True, limit_ms=300)
        assert "it was not here after 300 ms, which is the limit" in why(slow, url_at(bad.port))
        until(lambda: not slow._under_way, "the transfer was ended")
        assert slow.fetch([url_at(bad.port)]) == [PAYLOAD]
        slow.close(1000)


def test_what_is_gone_or_too_large_or_not_allowed_says_so(server: FtpServer, fetcher: MakeFetcher) -> None:
    url = server.store().put(PAYLOAD)
    assert "it is gone" in why(fetcher(), f"{server.url}nothing")
    assert "over the limit of 1,000" in why(fetcher(Fetching(max_bytes=1000)), url)
    assert "more of it than 1,000 bytes" in why(fetcher(Fetching(max_bytes=1000)), url.partition("#")[0])
    assert "none of those allowed, node-1" in why(fetcher(Fetching(hosts=["node-1"])), url)
    assert "its scheme is none of those allowed" in why(fetcher(), "gopher://node-1/x")
    assert "no store is registered" in why(fetcher(Fetching(schemes=["gopher"])), "gopher://node-1/x")
    assert "its scheme is none of those allowed" in why(fetcher(), "s3://bucket/x")
    assert fetcher(Fetching(hosts=["127.0.0.1"])).fetch([url]) == [PAYLOAD]


def test_a_server_that_started_again_is_met_on_a_new_connection(served: Path, fetcher: MakeFetcher) -> None:
    one = fetcher()
    with FtpServer(served, port=0) as first:
        port, urls = first.port, [first.store().put(PAYLOAD) for _ in range(2)]
        one.fetch([urls[0]])
    assert "refused" in why(one, urls[1])
    with FtpServer(served, port=port):
        assert one.fetch([urls[1]]) == [PAYLOAD]


SERVE = """
import sys, time
from edgeserve.routing import FtpServer
with FtpServer(sys.argv[1], port=int(sys.argv[2])) as server:
    print(server.port, flush=True)
    time.sleep(60)
"""


def test_a_server_that_is_killed_in_the_middle_and_comes_back_completes_the_transfer(
    served: Path, fetcher: MakeFetcher
) -> None:
    def start(port: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(served), str(port)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        ports.append(int(process.stdout.readline()))
        return process

    ports: list[int] = []
    large = os.urandom(1 << 20) * 64
    first = start(0)
    url = FolderStore(served, f"ftp://127.0.0.1:{ports[0]}/").put(large)
    one, begun = fetcher(Fetching(max_retries=100, retry_interval_ms=20)), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        store = one._stores.of(PayloadUrl("ftp", "127.0.0.1", ("x",), ports[0]))
        fetch = store.fetch

        def watched(which: PayloadUrl, write: Write, start: int) -> None:
            def note(piece: bytes) -> None:
                begun.set()
                write(piece)

            fetch(which, note, start)

        store.fetch = watched  # type: ignore[method-assign]
        asked = pool.submit(one.fetch, [url])
        assert begun.wait(10)
        first.kill()
        first.communicate()
        second = start(ports[0])
        try:
            assert asked.result(30) == [large]
        finally:
            second.kill()
            second.communicate()


def test_fifty_at_a_time_get_what_is_theirs(server: FtpServer, fetcher: MakeFetcher) -> None:
    store = server.store()
    payloads = [os.urandom(20_000) for _ in range(50)]
    urls = [store.put(payload) for payload in payloads]
    with ThreadPoolExecutor(50) as pool:
        found = pool.map(lambda url: fetcher(Fetching()).fetch([url])[0], urls)
        assert list(found) == payloads


def test_closing_ends_a_fetch_that_waits(fetcher: MakeFetcher) -> None:
    with BadFtp(PAYLOAD, nothing_ever) as bad, ThreadPoolExecutor(1) as pool:
        one = fetcher(Fetching(timeout_ms=60_000))
        asked = pool.submit(one.fetch, [url_at(bad.port)])
        until(lambda: bad.starts, "it is under way")
        one.stop()
        with pytest.raises(Stopped):
            asked.result(10)


def test_a_password_is_taken_from_the_logins_and_shown_to_nobody(served: Path, fetcher: MakeFetcher) -> None:
    with FtpServer(served, port=0, user="me", password="se cret") as server:
        url = server.store().put(PAYLOAD)
        assert "se cret" not in url
        reason = why(fetcher(Fetching(max_retries=0)), url)
        assert "refuses" in reason
        logins = Fetching(logins={f"ftp://127.0.0.1:{server.port}": ("me", "se cret")})
        assert "se cret" not in repr(logins)
        assert fetcher(logins).fetch([url]) == [PAYLOAD]
        wrong = url.replace("//", "//me:guess-4711@")
        assert "4711" not in why(fetcher(Fetching(max_retries=0)), wrong)


def test_a_payload_is_deleted_where_it_is_kept_if_the_server_lets(served: Path, fetcher: MakeFetcher) -> None:
    for allow_delete, refused in ((False, 1), (True, 0)):
        with FtpServer(served, port=0, allow_delete=allow_delete) as server:
            url, one = server.store().put(PAYLOAD), fetcher()
            one.fetch([url])
            one.delete_later(url)
            one.delete_later(f"{server.url}nothing" if allow_delete else url)
            one.close(10_000)
            assert (one.stats.deletes_refused > 0) is bool(refused)
            assert (served / url.partition("#")[0].rpartition("/")[2]).exists() is not allow_delete


def test_what_was_fetched_into_files_is_kept_within_bounds_but_never_taken_from_under_a_reader(
    server: FtpServer, here: Path, fetcher: MakeFetcher
) -> None:
    store = server.store()
    one = fetcher(Fetching(keep=Keep(max_bytes=2 * len(PAYLOAD))), in_memory=False)

    def fetched(count: int) -> list[Path]:
        return [Path(str(path)) for path in one.fetch([store.put(PAYLOAD) for _ in range(count)])]

    paths = fetched(3)
    assert all(path.exists() for path in paths), "a task may be using them"
    one.release()
    with paths[0].open("rb") as read:
        hold(read.fileno())
        paths += fetched(1)
        assert [path.exists() for path in paths] == [True, False, False, True]


def test_no_url_reaches_what_lies_beside_the_fetched_files(tmp_path: Path, here: Path, fetcher: MakeFetcher) -> None:
    own = [tmp_path / "precious.db", here / "cam-1" / "1.payload"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PAYLOAD)
        os.utime(path, (1, 1))
    fetching = Fetching(keep=Keep(max_bytes=1, max_age_ms=1), timeout_ms=100, max_retries=0)
    for host in ("..", ".", "cam-1", "CAM-1", "a..b", "-", "_"):
        why(fetcher(fetching, in_memory=False), f"ftp://{host}/1.payload")
    assert [path.exists() for path in own] == [True, True]
    assert "other files in it" in why(fetcher(fetching, in_memory=False), "ftp://cam-1/1.payload")


@pytest.mark.parametrize("option", ["hosts", "folders", "schemes"])
def test_a_text_is_no_list(option: str) -> None:
    with pytest.raises(UsageError, match="expected a list"):
        Fetching(**{option: "ftp"})  # type: ignore[arg-type]


def test_connections_that_died_in_silence_cost_no_try(fetcher: MakeFetcher, served: Path) -> None:
    with FtpServer(served, port=0) as server:
        urls = [server.store().put(PAYLOAD) for _ in range(9)]
        one = fetcher(Fetching(max_retries=0))
        one.fetch(urls[:8])
        client = one._stores.of(parse_payload_url(urls[0]))
        assert isinstance(client, FtpClient)
        assert len(client._idle) > 1
        for ftp in client._idle:
            assert ftp.sock is not None
            ftp.sock.shutdown(socket.SHUT_WR)  # the server hangs up; nobody has looked yet
            ftp.sock = _Silent(ftp.sock)  # type: ignore[assignment]
        assert one.fetch(urls[8:]) == [PAYLOAD]


class _Silent:
    """A dead socket that gives no sign of it until it is used."""

    def __init__(self, dead: socket.socket) -> None:
        self._dead = dead
        self._quiet, self._other = socket.socketpair()

    def fileno(self) -> int:
        return self._quiet.fileno()

    def __getattr__(self, name: str) -> object:
        return getattr(self._dead, name)

    def close(self) -> None:
        for each in (self._dead, self._quiet, self._other):
            each.close()


def test_a_store_that_can_not_be_opened_makes_its_payloads_unavailable(fetcher: MakeFetcher) -> None:
    def refuse(url: PayloadUrl, timeout_ms: float) -> object:
        raise TimeoutError("nobody there")

    register_store("nowhere", refuse)  # type: ignore[arg-type]
    assert "nobody there" in why(fetcher(), "nowhere://x/y")


def test_what_was_fetched_ahead_comes_once_though_it_fits_in_no_cache(server: FtpServer, fetcher: MakeFetcher) -> None:
    url, ahead = server.store().put(PAYLOAD), fetcher(Fetching(cache_bytes=0))
    ahead.prefetch(url, 4)
    ahead.prefetch(url, 4)
    assert ahead.fetch([url]) == [PAYLOAD]
    assert ahead.stats.fetched == 1


def test_a_link_leads_out_of_no_folder(server: FtpServer, tmp_path: Path, here: Path, fetcher: MakeFetcher) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (Path(server.path) / "link").symlink_to(tmp_path / "secret")
    assert "secret" not in why(fetcher(), f"{server.url}link")
    here.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (here / f"127.0.0.1_{server.port}").symlink_to(tmp_path / "elsewhere")
    url = server.store().put(PAYLOAD)
    assert "a link leads out" in why(fetcher(in_memory=False), url)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_of_this_machine_is_read_only_where_that_was_allowed(tmp_path: Path, fetcher: MakeFetcher) -> None:
    store = FolderStore(tmp_path / "shared")
    url = store.put(PAYLOAD)
    assert url.startswith("file:///")
    assert "none of the folders" in why(fetcher(), url)
    assert "none of the folders" in why(fetcher(), "file:///etc/hostname")
    allowed = Fetching(folders=[str(tmp_path / "shared")])
    assert fetcher(allowed).fetch([url]) == [PAYLOAD]
    (path,) = fetcher(allowed, in_memory=False).fetch([url])
    assert Path(str(path)).parent == tmp_path / "shared"
    (tmp_path / "shared" / "link").symlink_to("/etc/hostname")
    assert "none of the folders" in why(fetcher(allowed), f"file://{tmp_path}/shared/link")


def test_a_store_of_ones_own_is_used_for_its_scheme(fetcher: MakeFetcher) -> None:
    class Shelf:
        scheme = "shelf"

        def __init__(self, url: PayloadUrl, timeout_ms: float) -> None:
            pass

        def put(self, payload: object) -> str:
            return "shelf://top/1"

        def fetch(self, url: PayloadUrl, write: Write, start: int) -> None:
            write(f"{url.host}/{url.path[0]}".encode()[start:])

        def delete(self, url: PayloadUrl) -> None:
            raise FileNotFoundError

        def close(self) -> None:
            pass

    register_store("shelf", Shelf)
    assert fetcher().fetch(["shelf://top/1"]) == [b"top/1"]
    with pytest.raises(UsageError, match="have a store already"):
        register_store("ftp", Shelf)


def test_a_file_that_was_fetched_ahead_and_is_gone_again_is_brought_once_more(
    server: FtpServer, fetcher: MakeFetcher
) -> None:
    url, one = server.store().put(PAYLOAD), fetcher(in_memory=False)
    one.prefetch(url, 4)
    until(lambda: one.stats.fetched == 1, "it is there")
    one.release()  # the end of the step that fetched it ahead
    for path in Path(server.path).parent.rglob("here/*/*.payload"):
        path.unlink()
    (path_again,) = one.fetch([url])
    assert Path(str(path_again)).read_bytes() == PAYLOAD
    assert one.stats.fetched == 2
