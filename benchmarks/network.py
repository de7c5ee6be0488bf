"""Lazy routing over a network: two cameras, a broker and a node that computes, each link at 100 Mbit/s.

    python -m benchmarks.network [--repeats 5]

Each node is a network namespace of this machine; each link is a `tc tbf` with a burst of 2 KB in both directions. It
needs root, `ip` and `tc`, and starts an Apache Pulsar of its own inside a namespace (Java 17 or newer, and Maven). The
reference is a plain transfer of the same files: one FTP connection for each camera, both at a time. The tables are
written to benchmarks/results/network.md.
"""

from __future__ import annotations

import asyncio
import ftplib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import options_of, progress, publish, ratios, spread, table

FPS = 30
BROKER_PORT, FTP_PORT = 6650, 2121
NODES = {"broker": "10.77.0.1", "left": "10.77.0.2", "right": "10.77.0.3", "node": "10.77.0.4"}
CAMERAS = ("left", "right")
HUB = "es-hub"
FULL, SLOW, SLOWEST = "100mbit", "20mbit", "1mbit"
JPEG_BYTES, RAW_BYTES = 240_000, 1920 * 1080 * 3


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def shape(node: str, rate: str) -> None:
    """Limit a node's link in both directions."""
    for where, device in ((f"es-{node}", "eth0"), (HUB, f"to-{node}")):
        limit = ("rate", rate, "burst", "2kb", "latency", "200ms")
        sh("ip", "netns", "exec", where, "tc", "qdisc", "replace", "dev", device, "root", "tbf", *limit)


@contextmanager
def network() -> Iterator[None]:
    """The nodes, joined by a bridge."""
    try:
        sh("ip", "netns", "add", HUB)
        sh("ip", "-n", HUB, "link", "add", "bridge", "type", "bridge")
        sh("ip", "-n", HUB, "link", "set", "bridge", "up")
        for node, address in NODES.items():
            namespace = f"es-{node}"
            sh("ip", "netns", "add", namespace)
            sh("ip", "link", "add", f"to-{node}", "netns", HUB, "type", "veth", "peer", "eth0", "netns", namespace)
            sh("ip", "-n", HUB, "link", "set", f"to-{node}", "master", "bridge", "up")
            sh("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", namespace, "link", "set", "eth0", "up")
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
            shape(node, FULL)
        yield
    finally:
        for namespace in (HUB, *(f"es-{node}" for node in NODES)):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


class Role:
    """A process on one of the nodes, which prints `ready`, waits for a line, and prints what it found."""

    def __init__(self, node: str, *arguments: object) -> None:
        command = ["ip", "netns", "exec", f"es-{node}", sys.executable, "-m", "benchmarks.network", "--role"]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.expect("ready")

    def expect(self, word: str) -> list[str]:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().split()
        if said[:1] != [word]:
            raise RuntimeError(f"{self.process.args}: said {said}, not {word}")
        return said[1:]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


# The roles.


def say(*words: object) -> None:
    print(*words, flush=True)


def broker_role(folder: str) -> None:
    """An Apache Pulsar on this node's loopback, and a line to it from the network."""
    from tests.apache_pulsar import ApachePulsar

    listener = f"internal:pulsar://{NODES['broker']}:{BROKER_PORT}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # it has not started yet
            writer.close()
            return
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_server(relay, NODES["broker"], BROKER_PORT)
        async with server:
            await server.serve_forever()

    # Before the broker, which says that it is healthy when it has met itself at this address.
    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    with ApachePulsar(Path(folder), port, settings={"advertisedListeners": listener}):
        say("ready")
        sys.stdin.read()


def camera_role(name: str, folder: str, count: str, size: str, topic: str, way: str) -> None:
    """Send frames at 30 a second, in one of the ways; or serve the files that are there already (`plain`)."""
    from edgeserve import DataSource
    from edgeserve.routing import FtpServer

    content = os.urandom(int(size))

    def frames() -> Iterator[bytes]:
        started_s = time.monotonic()
        for number in range(int(count)):
            time.sleep(max(0.0, started_s + number / FPS - time.monotonic()))
            yield number.to_bytes(4, "big") + content[4:]

    def captured_ms(frame: bytes) -> int:
        return 1_700_000_000_000 + int.from_bytes(frame[:4], "big") * 1000 // FPS

    with FtpServer(folder, host=NODES[name], port=FTP_PORT) as server:
        if way == "plain":
            say("ready")
            sys.stdin.read()
            return
        with DataSource(
            frames(),
            f"pulsar://{NODES['broker']}:{BROKER_PORT}",
            name,
            topic=topic,
            event_time=captured_ms,
            store=server.store() if way == "lazy" else None,
            close_timeout_ms=600_000,
        ) as source:
            say("ready")
            input()
            for _ in source:
                pass
        sys.stdin.read()


def node_role(count: str, topic: str, join: str) -> None:
    """Join the frames of both cameras; done when the last ones were used."""
    from edgeserve import Compute

    used = dict.fromkeys(CAMERAS, 0)

    def both(left: bytes, right: bytes) -> bytes:
        for name, frame in (("left", left), ("right", right)):
            used[name] = max(used[name], 1 + int.from_bytes(frame[:4], "big"))
        return b""

    with Compute(
        both,
        f"pulsar://{NODES['broker']}:{BROKER_PORT}",
        topic_in=topic,
        topic_out=f"{topic}-out",
        join="nearest" if join == "nearest" else "latest",
        max_time_diff_ms=1000 if join == "latest" else 10,
        max_wait_ms=600_000,
        local_ftp_path=tempfile.mkdtemp(),
        prefetch=4,
    ) as compute:
        say("ready")
        while min(used.values()) < int(count):
            next(compute)
        say("done", compute.stats.received_bytes, compute.stats.fetches.fetched_bytes)


def plain_role(folder_of_left: str, folder_of_right: str) -> None:
    """Fetch all files of both cameras, each over one connection."""

    def fetch(name: str, folder: str) -> None:
        with ftplib.FTP() as ftp:
            ftp.connect(NODES[name], FTP_PORT)
            ftp.login()
            for path in sorted(Path(folder).iterdir()):
                ftp.retrbinary(f"RETR {path.name}", len, 1 << 18)

    say("ready")
    input()
    threads = [
        threading.Thread(target=fetch, args=pair)
        for pair in zip(CAMERAS, (folder_of_left, folder_of_right), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("done")


# The experiments.


def plain_s(count: int, size: int) -> float:
    with ExitStack() as stack:
        folders = {name: stack.enter_context(tempfile.TemporaryDirectory()) for name in CAMERAS}
        for folder in folders.values():
            for number in range(count):
                (Path(folder) / f"{number:06d}").write_bytes(os.urandom(size))
        for name in CAMERAS:
            role = Role(name, "camera", name, folders[name], count, size, "", "plain")
            stack.callback(role.end)
        node = Role("node", "plain", *folders.values())
        stack.callback(node.end)
        start_s = time.monotonic()
        node.go()
        node.expect("done")
        return time.monotonic() - start_s


def routed_s(count: int, size: int, way: str, join: str = "nearest") -> tuple[float, float]:
    """How long it took until the last frames were used, and the bytes a frame through the broker."""
    topic = f"cameras-{os.urandom(4).hex()}"
    with ExitStack() as stack:
        node = Role("node", "node", count, topic, join)
        stack.callback(node.end)
        cameras = []
        for name in CAMERAS:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            cameras.append(Role(name, "camera", name, folder, count, size, topic, way))
            stack.callback(cameras[-1].end)
        start_s = time.monotonic()
        for camera in cameras:
            camera.go()
        received_bytes, _ = node.expect("done")
        return time.monotonic() - start_s, int(received_bytes) / (2 * count)


def measured(count: int, size: int, repeats: int, joins: Sequence[str]) -> list[list[str]]:
    plain: list[float] = []
    lazy: dict[str, list[tuple[float, float]]] = {join: [] for join in joins}
    for repeat in range(repeats):
        plain.append(plain_s(count, size))
        for join, found in lazy.items():
            found.append(routed_s(count, size, "lazy", join))
        progress(f"repeat {repeat + 1}: plain {plain[-1]:.2f} s, lazy {[found[-1] for found in lazy.values()]}")
    bar = "at most 1.05" if size == JPEG_BYTES else "at most 1.02"
    rows = [["plain FTP", spread(plain), "1.00", "", ""]]
    for join, found in lazy.items():
        seconds = [each[0] for each in found]
        rows.append(
            [
                f"lazy, join={join!r}",
                spread(seconds),
                ratios(seconds, plain, 3),
                bar,
                spread([each[1] for each in found], 0),
            ]
        )
    return rows


HEAD = ["", "s", "ratio", "bar", "bytes a frame through the broker"]


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(__doc__, arguments)
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("tc"):
        progress("skipped: it needs root, ip and tc")
        return
    count, raw = (30, 6) if options.quick else (150, 30)
    parts = [f"{options.repeats} repeats in which what is compared takes turns; minimum / median / maximum."]
    with tempfile.TemporaryDirectory() as folder, network():
        broker = Role("broker", "broker", folder)
        try:
            rows = measured(count, JPEG_BYTES, options.repeats, ("nearest", "latest"))
            title = f"## {count} frames of {JPEG_BYTES:,} bytes of each camera at {FPS} a second"
            parts += [title, table(HEAD, rows)]

            rows = measured(raw, RAW_BYTES, min(3, options.repeats), ("nearest",))
            parts += [f"## {raw} frames of {RAW_BYTES:,} bytes of each camera", table(HEAD, rows)]

            unlimited, limited, eager = [], [], []
            for repeat in range(min(3, options.repeats)):
                unlimited.append(routed_s(count, JPEG_BYTES, "lazy")[0])
                shape("broker", SLOWEST)
                limited.append(routed_s(count, JPEG_BYTES, "lazy")[0])
                shape("broker", SLOW)
                eager.append(routed_s(count, JPEG_BYTES, "eager")[0])
                shape("broker", FULL)
                progress(f"repeat {repeat + 1}: {unlimited[-1]:.2f} s, {limited[-1]:.2f} s, eager {eager[-1]:.2f} s")
            rows = [
                [f"lazy, {FULL}", spread(unlimited), "1.00", ""],
                [f"lazy, {SLOWEST}", spread(limited), ratios(limited, unlimited, 3), "at most 1.05"],
                [f"eager, {SLOW}", spread(eager), ratios(eager, unlimited), ""],
            ]
            parts += ["## The broker's link", table(["", "s", "ratio", "bar"], rows)]
        finally:
            broker.process.communicate()  # the end of its input is its end
    publish("network", "Lazy routing over links of 100 Mbit/s", parts, options)


ROLES = {"broker": broker_role, "camera": camera_role, "node": node_role, "plain": plain_role}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        ROLES[sys.argv[2]](*sys.argv[3:])
    else:
        main()
