"""What is Apache Pulsar's own: its client's errors, its silence, and a broker that dies and comes back."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from functools import partial
from itertools import chain

import pytest

from edgeserve import Fate, Materialize
from edgeserve._broker import connections, pulsar_errors
from edgeserve._broker.base import Connection, Consumer, Message, Share
from edgeserve._broker.dead_letters import DeadLetterBox
from edgeserve._broker.pulsar_admin import Admin
from edgeserve._core.clock import steady_ms
from edgeserve.address import PulsarAddress
from edgeserve.errors import BrokerError, BrokerUnreachable, PayloadTooLarge, UsageError
from edgeserve.message_format import GraphCodec
from tests.apache_pulsar import ApachePulsar
from tests.broker.helpers import Connect, ids, numbered, receive, send
from tests.broker.workers import ROOT, until

pulsar = pytest.importorskip("pulsar")
TIMEOUT_MS = 1500
on_apache = pytest.mark.parametrize("broker", ["apache"], indirect=True)


# Errors


@contextlib.contextmanager
def nothing_there() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listen(): connections are refused, and nobody else gets the port
        yield f"pulsar://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def silence() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"pulsar://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def another_protocol() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"pulsar://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def no_such_host() -> Iterator[str]:
    yield "pulsar://broker.invalid:6650"


@pytest.mark.parametrize("there", [nothing_there, silence, another_protocol, no_such_host], ids=lambda of: of.__name__)
@pytest.mark.parametrize("share", [None, *Share], ids=str)
def test_a_broker_that_does_not_answer_is_an_error_in_time(there: object, share: Share | None) -> None:
    assert callable(there)
    with there() as url:
        connection = connections.connect(PulsarAddress(url, connection_timeout_ms=TIMEOUT_MS))
        ask = partial(connection.consumer, ["t", "u"], "s", share, 10) if share else partial(connection.producer, "t")
        started_ms = steady_ms()
        with pytest.raises(BrokerUnreachable) as unreachable:
            ask()
        waited_ms = steady_ms() - started_ms
        connection.close()
    assert waited_ms <= TIMEOUT_MS + 1000
    assert unreachable.value.address == url
    assert unreachable.value.waited_ms <= waited_ms + 1
    for hint in (url, "running", "pulsar_node=None"):
        assert hint in str(unreachable.value)
    assert unreachable.value.__cause__ is not None


@pytest.mark.parametrize("name", sorted(n for n in vars(pulsar.exceptions) if not n.startswith("_")))
def test_every_error_of_the_client_has_a_place(name: str) -> None:
    assert issubclass(getattr(pulsar, name), Exception)
    assert name in pulsar_errors.KINDS
    if pulsar_errors.KINDS[name] is not pulsar_errors.Kind.INTERRUPTED:
        error = pulsar_errors.translated("a producer", name, "pulsar://host:1", 10)
        assert isinstance(error, (UsageError, BrokerError))
    assert isinstance(pulsar_errors.delivery_error("t", name, "pulsar://host:1"), BrokerError)


def test_every_result_of_the_client_has_a_place() -> None:
    assert set(pulsar.Result.__members__) - {"Ok"} <= pulsar_errors.KINDS.keys()


@on_apache
def test_a_namespace_that_is_not_there_is_named(connection: Connection) -> None:
    with pytest.raises(BrokerError, match=r"persistent://public/no-such/t.*TopicNotFound"):
        connection.producer("persistent://public/no-such/t")


@on_apache
def test_a_topic_that_stores_nothing_is_refused(connection: Connection) -> None:
    with pytest.raises(UsageError, match="stores nothing"):
        connection.producer("non-persistent://public/default/t")


@on_apache
def test_a_wrong_http_address_is_an_error_that_says_how_to_give_another(broker: str, topic: str) -> None:
    with nothing_there() as url:
        connection = connections.connect(PulsarAddress(broker, web_url=url.replace("pulsar", "http")))
        for ask in (connection.topics, lambda: connection.delete(topic, None)):
            with pytest.raises(BrokerError, match="web_url"):
                ask()
        connection.close()


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b'{"a": ', b"[" * 100_000])
def test_another_http_server_is_said_to_be_none_of_pulsars(body: bytes) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        admin = Admin(PulsarAddress("pulsar://localhost", web_url=f"http://127.0.0.1:{server.server_port}"))
        try:
            with pytest.raises(BrokerError, match="is not Pulsar's HTTP interface"):
                admin.topics()
        finally:
            server.shutdown()


@on_apache
@pytest.mark.parametrize("marked", ["key", "name", "value"])
def test_a_key_or_mark_that_is_no_text_makes_a_dead_letter_and_the_next_message_is_served(
    broker: str, topic: str, marked: str
) -> None:
    import _pulsar

    own = pulsar.Client(broker, logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull))
    producer = own.create_producer(topic)
    message = _pulsar.MessageBuilder()
    message.content(b"first")
    if marked == "key":
        message.partition_key(b"\xff")
    else:
        message.property(*((b"\xff", "x") if marked == "name" else ("x", b"\xff")))
    producer._producer.send(message.build())
    producer.send(GraphCodec().encode(uuid.UUID(int=1), "any", b"second"))
    own.close()
    with Materialize(lambda payload: payload, broker, topic=topic) as sink:
        assert [next(sink), next(sink)] == [None, b"second"]
        assert sink.stats.fates == {Fate.MALFORMED: 1, Fate.USED: 1}
    connection = connections.connect(PulsarAddress(broker))
    try:
        (letter,) = DeadLetterBox(connection, broker, topic).read(1000)
        assert letter.data == b"first"
        assert "are not UTF-8 text" in letter.error
    finally:
        connection.close()


@on_apache
def test_a_full_name_and_a_short_one_are_one_topic(connection: Connection, topic: str) -> None:
    full = f"persistent://public/default/{topic}"
    send(connection.producer(topic), ["m"])
    (got,) = receive(connection.consumer([full], "s", Share.MESSAGE, 10), 1)
    assert got.topic == full
    assert topic in {info.name for info in connection.topics()}


@on_apache
@pytest.mark.parametrize("suffix", [" a b", "ü", "?#%2F", "\\*"])
def test_topics_with_odd_names_are_listed_and_removed(connection: Connection, topic: str, suffix: str) -> None:
    name = topic + suffix
    connection.producer(name).close(1000)
    assert name in {info.name for info in connection.topics()}
    connection.delete(name, None)
    assert name not in {info.name for info in connection.topics()}


# What a process shows


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )


USE = """
import sys, threading
from edgeserve._broker.base import Message, Share
from edgeserve._broker.connections import connect
from edgeserve.address import PulsarAddress
url, topic = sys.argv[1:]
connection = connect(PulsarAddress(url))
producer = connection.producer(topic)
done = threading.Event()
producer.send(Message(b"m"), lambda error: done.set())
assert done.wait(20)
active = connection.consumer([topic, topic + "-2"], "s", Share.STANDBY, 10)
assert active.receive(20_000)
standby = connect(PulsarAddress(url)).consumer([topic, topic + "-2"], "s", Share.STANDBY, 10)
assert not standby.receive(100)
"""


@on_apache
@pytest.mark.parametrize(
    "end",
    ["", "connection.close()", "threading.Thread(target=standby.receive, args=(10_000,), daemon=True).start()"],
    ids=["left open", "closed", "while a thread waits"],
)
def test_a_process_ends_well_and_without_a_word(broker: str, topic: str, end: str) -> None:
    code = USE + "threading.excepthook = lambda _: None\n" + end
    ended = run_python(code, broker, topic)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_an_unreachable_broker_makes_no_noise_but_the_error() -> None:
    code = """
import sys
from edgeserve._broker.connections import connect
from edgeserve.address import PulsarAddress
from edgeserve.errors import BrokerUnreachable
try:
    connect(PulsarAddress(sys.argv[1], connection_timeout_ms=1000)).producer("t")
except BrokerUnreachable:
    sys.exit(3)
"""
    with nothing_there() as url:
        ended = run_python(code, url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


@on_apache
@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="there is no fork on this platform")
def test_a_child_of_fork_leaves_its_copy_alone_and_can_have_a_connection_of_its_own(broker: str, topic: str) -> None:
    code = (
        USE
        + """
import os, warnings
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    for of_parent in (active, standby, connection):
        of_parent.close()
    producer.close(1000)
    own = connect(PulsarAddress(url))
    own.producer(topic)
    own.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
producer.send(Message(b"m"), lambda error: done.set())
assert active.receive(20_000)
"""
    )
    ended = run_python(code, broker, topic)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_without_the_client_the_error_says_how_to_install_it() -> None:
    code = """
import sys
sys.modules["pulsar"] = None
from edgeserve._broker.connections import connect
from edgeserve.address import PulsarAddress
from edgeserve.errors import MissingExtra
try:
    connect(PulsarAddress("pulsar://127.0.0.1:6650"))
except MissingExtra as error:
    print(error)
"""
    ended = run_python(code)
    assert "pip install pulsar-client" in ended.stdout
    assert ended.stderr == ""


# A connection that is lost


def unload(address: PulsarAddress, topic: str) -> None:
    """Have the broker drop everybody who uses the topic, as it does when it moves the topic to another broker."""
    url = f"{address.web_url}/admin/v2/persistent/public/default/{topic}/unload"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=20):
        pass


class Reading:
    """Threads that receive and acknowledge on one subscription each, and what each got."""

    def __init__(self, consumers: list[Consumer]) -> None:
        self.got: list[list[str]] = [[] for _ in consumers]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, args=(consumer, got))
            for consumer, got in zip(consumers, self.got, strict=True)
        ]

    @property
    def all(self) -> set[str]:
        """What has arrived at any of them."""
        return set(chain.from_iterable(self.got))

    def _read(self, consumer: Consumer, got: list[str]) -> None:
        while not self._stop.is_set():
            arrived = consumer.receive(50)
            got += ids(arrived)
            consumer.acknowledge(arrived)

    def __enter__(self) -> Reading:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@on_apache
@pytest.mark.parametrize("topics", [1, 2])
def test_stand_bys_whose_topic_is_moved_lose_nothing_and_one_is_active(
    connect: Connect, address: PulsarAddress, topic: str, topics: int
) -> None:
    names = [f"{topic}-{number}" for number in range(topics)]
    consumers = [connect().consumer(names, "s", Share.STANDBY, 100) for _ in range(3)]
    producers = [connect().producer(name) for name in names]
    sent: list[str] = []
    with Reading(consumers) as reading:
        for turn in range(8):
            for number, producer in enumerate(producers):
                part = numbered(50, f"{turn}-{number}-")
                send(producer, part)
                sent += part
            unload(address, names[turn % topics])
        until(lambda: reading.all >= set(sent), "everything has arrived")
        until(lambda: sum(consumer.is_active for consumer in consumers) == 1, "one is active")
        send(producers[0], ["last"])
        until(lambda: "last" in reading.all, "the last one has arrived")
        assert sum("last" in got for got in reading.got) == 1


@pytest.fixture(scope="module")
def own_pulsar(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApachePulsar]:
    """A broker that a test may kill, and that takes messages of up to 1 MiB."""
    if not request.config.getoption("--apache-pulsar"):
        pytest.skip("it starts and kills an Apache Pulsar: only with --apache-pulsar")
    settings = {"maxMessageSize": str(1 << 20)}
    with ApachePulsar(tmp_path_factory.mktemp("own-pulsar"), settings=settings) as broker:
        yield broker


@pytest.fixture
def own_connect(own_pulsar: ApachePulsar) -> Iterator[Connect]:
    """Opens connections to it."""
    opened: list[Connection] = []

    def open_one() -> Connection:
        address = PulsarAddress(own_pulsar.url, web_url=own_pulsar.web_url, connection_timeout_ms=5000)
        opened.append(connections.connect(address))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


def test_a_broker_with_a_lower_limit_refuses_what_is_over_it(own_connect: Connect, topic: str) -> None:
    connection = own_connect()
    producer, confirmed = connection.producer(topic), list[BrokerError | None]()
    with pytest.raises(PayloadTooLarge, match="2,000,000"):
        producer.send(Message(bytes(2_000_000)), confirmed.append)
    assert confirmed == []
    send(producer, ["next"])
    assert ids(receive(connection.consumer([topic], "s", Share.STANDBY, 10), 1)) == ["next"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
def test_what_is_confirmed_arrives_when_the_broker_is_killed_and_comes_back(
    own_pulsar: ApachePulsar, own_connect: Connect, topic: str, share: Share
) -> None:
    connection = own_connect()
    producer = connection.producer(topic)
    names = [topic, f"{topic}-silent"]
    consumers = [own_connect().consumer(names, "s", share, 100) for _ in range(2)]
    sent, confirmed, failed = 0, set[str](), list[BrokerError]()
    stop = threading.Event()

    def note(name: str, error: BrokerError | None) -> None:
        if error is None:
            confirmed.add(name)
        else:
            failed.append(error)

    def keep_sending() -> None:
        nonlocal sent
        while not stop.is_set():
            if sent - len(confirmed) - len(failed) < 500:
                name = f"m{sent:06d}"
                producer.send(Message(name.encode(), key=name[-1]), partial(note, name))
                sent += 1
            time.sleep(0.002)  # the pace of a sensor

    sending = threading.Thread(target=keep_sending)
    with Reading(consumers) as reading:
        sending.start()
        until(lambda: len(confirmed) > 200, "it works")
        own_pulsar.kill()
        own_pulsar.start()
        before = len(confirmed)
        until(lambda: len(confirmed) > before + 200, "it works again", 60)
        stop.set()
        sending.join()
        until(lambda: len(confirmed) == sent, "everything is confirmed", 60)
        until(lambda: reading.all >= confirmed, "everything has arrived", 60)
    assert failed == []
    until(lambda: not consumers[0].must_ask or is_heard(*consumers), "one hears again what the other asks for")


def is_heard(one: Consumer, other: Consumer) -> bool:
    one.ask([b"key"])
    other.receive(20)
    return b"key" in other.asked()


@pytest.mark.timeout(240)
def test_everything_closes_in_time_while_the_broker_is_away(
    own_pulsar: ApachePulsar, own_connect: Connect, topic: str
) -> None:
    connection = own_connect()
    producer, confirmed = connection.producer(topic), list[BrokerError | None]()
    consumers = [connection.consumer([topic], f"s-{share.value}", share, 10) for share in Share]
    standby = connection.consumer([topic], f"s-{Share.STANDBY.value}", Share.STANDBY, 10)
    asks = connection.consumer([topic, f"{topic}-b"], "s-asks", Share.KEY, 10)
    own_pulsar.kill()
    try:
        for each in numbered(20):
            producer.send(Message(each.encode()), confirmed.append)
        until(lambda: not any(each.is_active for each in (consumers[1], standby)), "the loss is seen")
        assert list(standby.receive(200)) == []
        started_ms = steady_ms()
        for _ in range(1000):
            asks.ask([b"key"])
        assert list(asks.receive(200)) == []
        assert steady_ms() - started_ms < 2000, "an ask waits for nobody"
        started_ms = steady_ms()
        producer.close(500)
        assert [type(error).__name__ for error in confirmed] == ["DeliveryError"] * 20
        connection.close()
        assert steady_ms() - started_ms < 20_000
    finally:
        own_pulsar.start()
