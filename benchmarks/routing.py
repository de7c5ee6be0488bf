"""What lazy routing costs and saves on one machine: fetches, the same host, unused payloads, and when it pays.

    python -m benchmarks.routing [pulsar://127.0.0.1:6650] [--repeats 5]

Four tables: one payload over loopback beside ftplib on an open connection; frames of 6.2 MB on the same host beside
FTP; bytes moved when one frame in ten is used; and eager beside lazy by the size of the payload, over the broker (an
Apache Pulsar if there is one), where all is used. They are written to benchmarks/results/routing.md.
"""

from __future__ import annotations

import ftplib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.harness import apache_pulsar, broker_at, options_of, progress, publish, ratios, spread, table
from edgeserve import Compute, DataSource
from edgeserve.routing import Fetching, FolderStore
from edgeserve.routing.fetching import Fetcher
from edgeserve.routing.urls import parse_payload_url

JPEG_BYTES = 240_000
RAW_BYTES = 1920 * 1080 * 3
SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20)
EVERY = 10


@contextmanager
def ftp_server(path: str) -> Iterator[str]:
    """The URL of an FTP server in a process of its own, as on another node."""
    command = [sys.executable, "-m", "edgeserve", "ftp", path, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def elapsed_ms(function: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    function()
    return (time.perf_counter() - start_s) * 1e3


def bare(ftp: ftplib.FTP, path: str) -> bytes:
    pieces: list[bytes] = []
    ftp.retrbinary(f"RETR {path}", pieces.append, 256 * 1024)
    return b"".join(pieces)


def fetches(count: int) -> tuple[float, float]:
    """The medians of a bare RETR on an open connection, and of a fetch, in ms; the two take turns."""
    with tempfile.TemporaryDirectory() as folder, ftp_server(folder) as url, tempfile.TemporaryDirectory() as here:
        store = FolderStore(folder, url)
        urls = [store.put(os.urandom(JPEG_BYTES)) for _ in range(count)]
        parsed = parse_payload_url(urls[0])
        fetcher = Fetcher(Fetching(cache_bytes=0), here, in_memory=True)
        with ftplib.FTP() as ftp:
            ftp.connect(parsed.host, parsed.port or 21)
            ftp.login()
            by_hand, ours = [], []
            for each in urls:
                path = "/".join(parse_payload_url(each).path)
                by_hand.append(elapsed_ms(lambda path=path: bare(ftp, path)))
                ours.append(elapsed_ms(lambda each=each: fetcher.fetch([each])))
        fetcher.close(0)
    return statistics.median(by_hand), statistics.median(ours)


def same_host(count: int, *, in_memory: bool) -> tuple[float, float]:
    """Frames a second over FTP on loopback, and read where they are; every byte is summed on both sides.

    In memory a frame comes as bytes, else as a file, which is mapped. All files are in memory, where there is a folder
    for that.
    """
    import numpy as np

    def summed(fetcher: Fetcher, urls: Sequence[str]) -> float:
        start_s = time.perf_counter()
        for url in urls:
            (frame,) = fetcher.fetch([url])
            pixels = np.frombuffer(frame, np.uint8) if isinstance(frame, bytes) else np.memmap(frame, np.uint8, "r")
            pixels.sum()
            fetcher.release()
        return len(urls) / (time.perf_counter() - start_s)

    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(dir=where) as folder,
        tempfile.TemporaryDirectory(dir=where) as here,
        ftp_server(folder) as url,
    ):
        urls = [FolderStore(folder, url).put(os.urandom(RAW_BYTES)) for _ in range(count)]
        files = [FolderStore(folder).put(os.urandom(RAW_BYTES)) for _ in range(count)]
        over_ftp = Fetcher(Fetching(cache_bytes=0), here, in_memory=in_memory)
        in_place = Fetcher(Fetching(cache_bytes=0, folders=[folder]), here, in_memory=in_memory)
        found = summed(over_ftp, urls), summed(in_place, files)
        over_ftp.close(0)
        in_place.close(0)
    return found


def moved(count: int) -> float:
    """Bytes moved for each byte used by a rate-limited join of two cameras whose gate passes one frame in ten."""
    used: dict[bytes, int] = {}

    def both(left: bytes, right: bytes) -> str:
        used.update({frame[:16]: len(frame) for frame in (left, right)})  # once for each, however often it is used
        return ""

    seen = {"left": 0, "right": 0}

    def every(name: str) -> Callable[[bytes], bytes | None]:
        def gate(url: bytes) -> bytes | None:
            seen[name] += 1
            return url if seen[name] % EVERY == 0 else None

        return gate

    with (
        broker_at(None) as broker,
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as here,
        ftp_server(folder) as url,
    ):
        for name in seen:
            store = FolderStore(folder, url, inside=name)
            frames = (os.urandom(JPEG_BYTES) for _ in range(count))
            with DataSource(frames, broker, name, topic="in", store=store) as source:
                for _ in source:
                    pass
        with Compute(
            both,
            broker,
            gate_in={name: every(name) for name in seen},
            topic_in="in",
            topic_out="out",
            local_ftp_path=here,
            min_interval_ms=5,
            idle_timeout_ms=1000,
        ) as compute:
            for _ in compute:
                pass
            return compute.stats.fetches.fetched_bytes / sum(used.values())


def by_size(address: str | None, size_bytes: int, count: int, *, is_lazy: bool) -> float:
    """Payloads a second from a source to a task that uses all of them, each in a process or thread of its own."""
    with broker_at(address) as broker, tempfile.TemporaryDirectory() as folder, ftp_server(folder) as url:
        topic = f"benchmark-{os.urandom(6).hex()}"
        code = _SOURCE.format(broker=broker, topic=topic, folder=folder, url=url if is_lazy else None)
        with (
            tempfile.TemporaryDirectory() as here,
            Compute(
                lambda source: str(len(source)), broker, topic_in=topic, topic_out=f"{topic}-out", local_ftp_path=here
            ) as compute,
        ):
            command = [sys.executable, "-c", code, str(size_bytes), str(count)]
            with subprocess.Popen(command) as source:
                next(compute)
                start_s = time.perf_counter()
                for _ in range(count - 1):
                    next(compute)
                rate = (count - 1) / (time.perf_counter() - start_s)
                source.wait()
    return rate


_SOURCE = """
import os, sys
from edgeserve import DataSource
from edgeserve.routing import FolderStore
size, count = map(int, sys.argv[1:])
payload = os.urandom(size)
store = FolderStore({folder!r}, {url!r}) if {url!r} else None
with DataSource((payload for _ in range(count)), {broker!r}, "source", topic={topic!r}, store=store,
                store_above_bytes=0) as source:
    for _ in source:
        pass
"""


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments)
    scale = 10 if options.quick else 1
    repeats = range(options.repeats)
    parts = [f"{options.repeats} repeats in which what is compared takes turns; minimum / median / maximum."]

    found = [fetches(200 // scale) for _ in repeats]
    by_hand, ours = ([pair[at] for pair in found] for at in (0, 1))
    rows = [
        ["ftplib, open connection", spread(by_hand), "1.00", ""],
        ["a fetch", spread(ours), ratios(ours, by_hand), "at most 1.5"],
    ]
    parts += [f"## One payload of {JPEG_BYTES:,} bytes over loopback", table(["", "p50 ms", "ratio", "bar"], rows)]
    progress("fetches done")

    rows = []
    for in_memory in (False, True):
        rates = [same_host(60 // scale, in_memory=in_memory) for _ in repeats]
        over_ftp, in_place = ([pair[at] for pair in rates] for at in (0, 1))
        form = "as bytes" if in_memory else "as files, mapped"
        rows.append([f"FTP over loopback, {form}", spread(over_ftp, 0), "1.00", ""])
        bar = "" if in_memory else "at least 3"
        rows.append([f"where they are, {form}", spread(in_place, 0), ratios(in_place, over_ftp), bar])
    parts += [f"## Frames of {RAW_BYTES:,} bytes on one host", table(["", "frames/s", "ratio", "bar"], rows)]
    progress("same host done")

    shares = [moved(200 // scale) for _ in repeats]
    parts += [
        "## A rate-limited join of two cameras, whose gates pass one frame in ten",
        table(["bytes moved for each byte used", "bar"], [[spread(shares), "at most 1.1"]]),
    ]
    progress("moved done")

    rows = []
    with apache_pulsar(options) as address:
        for size_bytes in SIZES:
            count = max(20, min(2000, (64 << 20) // size_bytes)) // scale
            pairs = [[by_size(address, size_bytes, count, is_lazy=lazy) for lazy in (False, True)] for _ in repeats]
            eager, lazy = ([pair[at] for pair in pairs] for at in (0, 1))
            rows.append([f"{size_bytes:,}", spread(eager, 0), spread(lazy, 0), ratios(lazy, eager)])
            progress(f"{rows[-1]}")
    head = ["payload bytes", "eager: payloads/s", "lazy: payloads/s", "lazy / eager"]
    where = "Apache Pulsar" if options.pulsar or options.apache_pulsar else "the local broker"
    parts += [f"## When it pays: all payloads used, over {where}", table(head, rows)]
    publish("routing", "Lazy routing on one machine", parts, options)


if __name__ == "__main__":
    main()
