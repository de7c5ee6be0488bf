"""Lazy data routing through the operators: what travels, what is fetched and when, and what becomes of it."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, DataSource, Fate, Materialize, PayloadNotStored, PayloadUnavailable, UsageError
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetterBox
from edgeserve.gates import array_in
from edgeserve.routing import Fetching, FolderStore, FtpServer, Keep
from tests.broker.workers import until
from tests.operators.conftest import Wire
from tests.routing.bad_ftp import BadFtp, nothing_ever

FRAME_BYTES = 50_000


@pytest.fixture
def served(tmp_path: Path) -> Path:
    return tmp_path / "camera"


@pytest.fixture
def camera(served: Path) -> Iterator[FtpServer]:
    """The FTP server of the node that has the camera."""
    with FtpServer(served, port=0, allow_delete=True) as server:
        yield server


@pytest.fixture
def here(tmp_path: Path) -> str:
    """The folder of payloads of the node that computes."""
    return str(tmp_path / "here")


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") + os.urandom(FRAME_BYTES - 4) for number in range(count)]


def send(broker: str, topic: str, server: FtpServer, payloads: list[bytes], name: str = "cam", **options: Any) -> None:
    with DataSource(payloads, broker, name, topic=topic, store=server.store(name), **options) as source:
        for _ in source:
            pass


def number_of(cam: bytes) -> str:
    assert len(cam) == FRAME_BYTES
    return str(int.from_bytes(cam[:4], "big"))


def test_the_url_travels_and_the_payload_is_fetched_for_the_task(
    broker: str, wire: Wire, camera: FtpServer, here: str
) -> None:
    sent = frames(20)
    send(broker, wire.src, camera, sent)
    with Compute(number_of, broker, topic_in=wire.src, topic_out=wire.dst, local_ftp_path=here) as compute:
        assert [next(compute) for _ in sent] == [str(number).encode() for number in range(20)]
        stats = compute.stats
    assert (stats.fetches.fetched, stats.fetches.fetched_bytes) == (20, 20 * FRAME_BYTES)
    assert (stats.fetches.unmoved_bytes, stats.fates) == (0, {Fate.USED: 20})
    assert stats.received_bytes < 20 * 300


def test_what_is_small_travels_whole_and_the_task_sees_no_difference(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str
) -> None:
    payloads = [b"small", bytes(2000), b"small again", bytes(3000)]
    send(broker, wire.src, camera, payloads, store_above_bytes=1000)
    assert len(list(served.rglob("*.payload"))) == 2
    with Compute(
        str, broker, inputs={"object": "cam"}, topic_in=wire.src, topic_out=wire.dst, decode=len, local_ftp_path=here
    ) as compute:
        assert [next(compute) for _ in payloads] == [b"5", b"2000", b"11", b"3000"]


@pytest.mark.parametrize("packing", [True, False])
def test_what_a_gate_drops_never_moves(broker: str, wire: Wire, camera: FtpServer, here: str, packing: bool) -> None:
    send(broker, wire.src, camera, frames(20), packing=packing)
    seen: list[bytes] = []

    def every_tenth(url: bytes) -> bytes | None:
        seen.append(url)
        return url if len(seen) % 10 == 0 else None

    with Compute(
        number_of, broker, gate_in=every_tenth, topic_in=wire.src, topic_out=wire.dst, local_ftp_path=here
    ) as compute:
        assert [out for _ in range(20) if (out := next(compute))] == [b"9", b"19"]
        fetches = compute.stats.fetches
    assert all(url.startswith(camera.url.encode()) for url in seen), "the gate sees what travelled"
    assert (fetches.fetched, fetches.unmoved_bytes) == (2, 18 * FRAME_BYTES)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("no_overlap", [True, False])
def test_a_join_of_two_cameras_whose_files_have_the_same_names_mixes_nothing_up(
    broker: str, wire: Wire, tmp_path: Path, here: str, in_memory: bool, no_overlap: bool
) -> None:
    def both(left: Any, right: Any) -> bytes:
        contents = [each if in_memory else Path(each).read_bytes() for each in (left, right)]
        return b" ".join(content[:8] for content in contents)

    with FtpServer(tmp_path / "l", port=0) as left, FtpServer(tmp_path / "r", port=0) as right:
        for number in range(15):
            for side, server in ((b"left", left), (b"right", right)):
                content = side.ljust(6, b"-") + b"%02d" % number
                (Path(server.path) / f"{number}.jpg").write_bytes(content + bytes(10_000))
                wire.send(side.decode(), f"{server.url}{number}.jpg".encode(), number)
        with Compute(
            both,
            broker,
            ftp=True,
            ftp_memory=in_memory,
            local_ftp_path=here,
            topic_in=wire.src,
            topic_out=wire.dst,
            no_overlap=no_overlap,
            max_time_diff_ms=0,
            store=None if in_memory else FolderStore(tmp_path / "out", "ftp://127.0.0.1:1/"),
        ) as compute:
            outputs = [out for _ in range(30) if (out := next(compute))]
            assert compute.stats.fates == {Fate.USED: 30}
    if in_memory:
        assert outputs == [b"left--%02d right-%02d" % (number, number) for number in range(15)]
    else:
        assert len({*outputs}) == 15


def test_a_payload_is_deleted_when_its_example_is_acknowledged_and_not_before(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str
) -> None:
    send(broker, wire.src, camera, frames(3), packing=False)
    left: list[int] = []

    def look(cam: bytes) -> str:
        left.append(len(list(served.rglob("*.payload"))))
        return number_of(cam)

    options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here}
    with Compute(look, broker, ftp=True, ftp_memory=True, ftp_delete=True, **options) as compute:
        assert [next(compute) for _ in range(3)] == [b"0", b"1", b"2"]
        until(lambda: not list(served.rglob("*.payload")), "all are deleted")
    assert left[0] == 3
    assert compute.stats.fetches.deletes_refused == 0


def test_a_pack_keeps_its_payloads_until_all_of_it_is_done(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str
) -> None:
    with DataSource(frames(10), broker, "cam", topic=wire.src, store=camera.store("cam")) as source:
        list(source)

    def fail_late(cam: bytes) -> str:
        if number_of(cam) == "9":
            raise ZeroDivisionError
        return number_of(cam)

    options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here, "ftp_delete": True}
    with Compute(fail_late, broker, **options) as compute:
        for _ in range(9):
            next(compute)
        with pytest.raises(ZeroDivisionError):
            next(compute)
    with Compute(number_of, broker, idle_timeout_ms=500, **options) as successor:
        again = [out for out in successor if out]
    assert again[-1] == b"9", "what came back with it could be fetched once more"
    assert successor.stats.fetches.failed == 0


def test_a_payload_that_is_gone_goes_the_way_of_on_error_and_the_stream_goes_on(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str
) -> None:
    send(broker, wire.src, camera, frames(3))
    sorted(served.rglob("*.payload"))[1].unlink()
    options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here}
    with Compute(number_of, broker, on_error="dead_letter", **options) as compute:
        assert [next(compute) for _ in range(3)] == [b"0", None, b"2"]
        until(lambda: compute.stats.dead_letters == 1, "it is a dead letter")
        assert compute.stats.fates == {Fate.USED: 2, Fate.FAILED: 1}
    lease = ConnectionLease(broker)
    try:
        box = DeadLetterBox(lease.connection, str(lease.address), wire.src)
        letter = next(box.read(10_000))
        assert "it is gone" in letter.error
        assert "edgeserve-url" in letter.properties, "put back, it is a URL again"
    finally:
        lease.close()


def test_by_default_a_payload_that_is_gone_raises_and_the_next_step_goes_on(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str
) -> None:
    send(broker, wire.src, camera, frames(2))
    sorted(served.rglob("*.payload"))[0].unlink()
    with Compute(number_of, broker, topic_in=wire.src, topic_out=wire.dst, local_ftp_path=here) as compute:
        with pytest.raises(PayloadUnavailable) as gone:
            next(compute)
        assert gone.value.url.startswith(camera.url)
        assert next(compute) == b"1"


def test_a_store_without_room_loses_nothing_else(broker: str, wire: Wire, small_disk: Path, here: str) -> None:
    with FtpServer(small_disk / "payloads", port=0) as server:
        payloads = [bytes(1 << 20) for _ in range(40)]
        with DataSource(payloads, broker, "cam", topic=wire.src, store=server.store()) as source:
            sent, refused = 0, 0
            while sent + refused < 40:
                try:
                    next(source)
                    sent += 1
                except PayloadNotStored:
                    refused += 1
                    if refused == 1:
                        for path in sorted((small_disk / "payloads").iterdir())[:2]:
                            path.unlink()
            assert refused
            assert source.stats.fates == {Fate.USED: sent, Fate.FAILED: refused}


def test_in_file_mode_the_output_stays_here_too_and_its_url_travels(
    broker: str, wire: Wire, camera: FtpServer, tmp_path: Path
) -> None:
    send(broker, wire.src, camera, frames(3), packing=False)
    outputs: list[Any] = ["text é", b"bytes", pytest.importorskip("numpy").arange(6.0).reshape(2, 3)]

    def task(path: str) -> Any:
        assert Path(path).stat().st_size == FRAME_BYTES
        return outputs[int.from_bytes(Path(path).read_bytes()[:4], "big")]

    with FtpServer(tmp_path / "here", port=0) as server:
        with Compute(
            task,
            broker,
            ftp=True,
            local_ftp_path=str(tmp_path / "here"),
            topic_in=wire.src,
            topic_out=wire.dst,
            inputs={"path": "cam"},
            store=server.store("out"),
        ) as compute:
            urls = [next(compute) for _ in range(3)]
        assert all(url is not None and url.startswith(f"{server.url}out/".encode()) for url in urls)
        with Materialize(lambda content: content, broker, topic=wire.dst) as sink:
            text, plain, array = (next(sink) for _ in range(3))
    assert (text, plain) == ("text é".encode(), b"bytes")
    assert (array_in(array) == outputs[2]).all()


def test_a_sink_in_file_mode_returns_the_url_of_the_file_on_this_node(
    broker: str, wire: Wire, camera: FtpServer, tmp_path: Path
) -> None:
    (Path(camera.path) / "1.jpg").write_bytes(b"frame")
    wire.send("cam", f"{camera.url}1.jpg".encode())
    paths: list[str] = []
    with Materialize(paths.append, broker, ftp=True, local_ftp_path=str(tmp_path / "here"), topic=wire.src) as sink:
        url = next(sink)
    assert Path(paths[0]).read_bytes() == b"frame"
    assert isinstance(url, str)
    with FtpServer(tmp_path / "here", port=0) as server:
        path = url.split("/", 3)[3]
        with urllib.request.urlopen(server.url + path) as answer:  # port 21 is root's
            assert answer.read() == b"frame"


def test_a_payload_that_is_reused_by_a_join_is_fetched_once(
    broker: str, wire: Wire, camera: FtpServer, here: str
) -> None:
    (Path(camera.path) / "map.bin").write_bytes(b"map")
    wire.send("slow", f"{camera.url}map.bin".encode())
    for at_ms in range(1, 6):
        wire.send("fast", b"tick", at_ms)
    with Compute(
        lambda slow, fast: slow + fast,
        broker,
        ftp=True,
        ftp_memory=True,
        local_ftp_path=here,
        topic_in=wire.src,
        topic_out=wire.dst,
    ) as compute:
        assert [out for _ in range(6) if (out := next(compute))] == [b"maptick"] * 5
        assert (compute.stats.fetches.fetched, compute.stats.fetches.cache_hits) == (1, 4)


def test_what_is_fetched_ahead_moves_once_though_no_cache_keeps_it(
    broker: str, wire: Wire, camera: FtpServer, here: str
) -> None:
    send(broker, wire.src, camera, frames(12))
    options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here}
    fetching = Fetching(cache_bytes=0)
    with Compute(number_of, broker, prefetch=4, fetching=fetching, idle_timeout_ms=1000, **options) as compute:
        assert len([out for out in compute if out]) == 12
        assert compute.stats.fetches.fetched_bytes == 12 * FRAME_BYTES


@pytest.mark.parametrize("packing", [True, False])
def test_prefetching_changes_nothing_but_the_time(
    broker: str, wire: Wire, camera: FtpServer, here: str, packing: bool
) -> None:
    send(broker, wire.src, camera, frames(30), packing=packing)
    with Compute(
        number_of, broker, topic_in=wire.src, topic_out=wire.dst, local_ftp_path=here, prefetch=4, idle_timeout_ms=1000
    ) as compute:
        outputs = [out for out in compute if out]
        assert outputs == [str(number).encode() for number in range(30)]
        assert compute.stats.fetches.fetched == 30
    with Materialize(lambda text: text, broker, topic=wire.dst, idle_timeout_ms=1000) as sink:
        assert list(sink) == outputs


def test_an_old_payload_makes_room_on_the_node_that_fetched_it(
    broker: str, wire: Wire, camera: FtpServer, here: str
) -> None:
    send(broker, wire.src, camera, frames(5))
    paths: list[str] = []
    fetching = Fetching(keep=Keep(max_bytes=2 * FRAME_BYTES))
    with Materialize(paths.append, broker, ftp=True, local_ftp_path=here, topic=wire.src, fetching=fetching) as sink:
        for _ in range(5):
            next(sink)
    assert [Path(path).exists() for path in paths] == [False] * 3 + [True] * 2


@pytest.mark.parametrize("on_error", ["dead_letter", "skip"])
def test_only_what_was_used_is_deleted(
    broker: str, wire: Wire, camera: FtpServer, served: Path, here: str, on_error: Any
) -> None:
    send(broker, wire.src, camera, frames(3), packing=False)

    def fail_in_the_middle(cam: bytes) -> str:
        if number_of(cam) == "1":
            raise ZeroDivisionError
        return number_of(cam)

    options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here}
    with Compute(fail_in_the_middle, broker, ftp_delete=True, on_error=on_error, **options) as compute:
        assert [next(compute) for _ in range(3)] == [b"0", None, b"2"]
    (left,) = served.rglob("*.payload")
    assert left.read_bytes()[:4] == (1).to_bytes(4, "big"), "put back, it can be served"


@pytest.mark.parametrize("on_error", ["raise", "dead_letter", "skip"])
def test_closing_during_a_fetch_gives_nothing_up(broker: str, wire: Wire, here: str, on_error: Any) -> None:
    with BadFtp(b"", nothing_ever) as bad:
        wire.send("cam", f"ftp://127.0.0.1:{bad.port}/x".encode())
        options: dict[str, Any] = {"topic_in": wire.src, "topic_out": wire.dst, "local_ftp_path": here, "ftp": True}
        compute = Compute(number_of, broker, on_error=on_error, close_timeout_ms=200, ftp_memory=True, **options)
        with ThreadPoolExecutor(1) as pool:
            step = pool.submit(next, compute, None)
            until(lambda: bad.starts, "it is under way")
            compute.close()
            assert step.result(10) is None
        assert compute.stats.fates == {}
    options["ftp"] = False
    with Compute(str, broker, inputs={"object": "cam"}, idle_timeout_ms=10_000, **options) as successor:
        assert next(successor), "it came again"


def test_a_sink_in_file_mode_returns_what_its_function_did_where_there_is_no_url(
    broker: str, wire: Wire, tmp_path: Path, here: str
) -> None:
    store = FolderStore(tmp_path / "shared")
    wire.send("cam", store.put(b"frame").encode())
    wire.send("cam", b"no url")
    fetching = Fetching(folders=[str(tmp_path / "shared")])
    with Materialize(len, broker, ftp=True, local_ftp_path=here, topic=wire.src, fetching=fetching) as sink:
        assert next(sink) > 10
        assert next(sink) == 6


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"store": "folder"}, "expected a store"),
        ({"store": FolderStore("/tmp")}, "file mode"),
        ({"local_ftp_path": ""}, "local_ftp_path"),
        ({"fetching": 3}, "expected a Fetching"),
        ({"prefetch": -1}, "prefetch"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Compute(number_of, "local://:memory:bad", **options)
