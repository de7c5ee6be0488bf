"""Consumers of one subscription that ask each other for messages: where a key can be with several of them."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import pytest

from edgeserve._broker.base import MAX_ASKED_KEY_BYTES, Connection, Consumer, Delivery, Message, Share
from edgeserve._broker.pulsar_asks import Asks, control_topic
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.errors import BrokerError, UsageError
from tests.broker.helpers import Connect, ids, keyed, numbered, rest, send
from tests.broker.workers import until

on_apache = pytest.mark.parametrize("broker", ["apache"], indirect=True)
KEYS_HELD = 200


@pytest.fixture
def topics(topic: str) -> list[str]:
    """Data and signal."""
    return [f"{topic}-data", f"{topic}-signal"]


# On a broker


@pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
@pytest.mark.parametrize("count", [1, 2])
def test_who_shares_keys_over_several_topics_of_pulsars_must_ask_and_nobody_else(
    connection: Connection, address: PulsarAddress | LocalAddress, topics: list[str], share: Share, count: int
) -> None:
    consumer = connection.consumer(topics[:count], "s", share, 10)
    is_pulsar = isinstance(address, PulsarAddress)
    assert consumer.must_ask is (is_pulsar and share is Share.KEY and count > 1)
    consumer.ask([b"key"])
    assert list(consumer.asked()) == []


@pytest.mark.parametrize("share", list(Share), ids=lambda share: share.value)
def test_how_much_may_be_held_is_known(
    connection: Connection, address: PulsarAddress | LocalAddress, topic: str, share: Share
) -> None:
    consumer = connection.consumer([topic], "s", share, 10)
    is_bounded = isinstance(address, PulsarAddress) and share is not Share.STANDBY
    assert consumer.max_unacknowledged == (50_000 if is_bounded else None)


def heard(consumer: Consumer, count: int = 1) -> set[bytes]:
    """What others ask for, until it is so many keys."""
    found: set[bytes] = set()

    def listen() -> bool:
        consumer.receive(20)
        found.update(consumer.asked())
        return len(found) >= count

    until(listen, f"{count} keys are asked for")
    return found


@on_apache
def test_an_ask_reaches_the_other_consumers_of_the_subscription_only(connect: Connect, topics: list[str]) -> None:
    asks, one, other = (connect().consumer(topics, "s s/%-ü", Share.KEY, 10) for _ in range(3))
    stranger = connect().consumer(topics, "another", Share.KEY, 10)
    asks.ask([b"a", b"\xff\x00"])
    assert heard(one, 2) == heard(other, 2) == {b"a", b"\xff\x00"}
    assert list(one.asked()) == []
    one.ask([b"back"])
    assert heard(asks) == {b"back"}, "and nothing of its own came before"
    stranger.receive(200)
    assert list(stranger.asked()) == []


@on_apache
def test_consumers_that_name_their_topics_in_other_ways_hear_each_other(connect: Connect, topics: list[str]) -> None:
    short = connect().consumer(topics, "s", Share.KEY, 10)
    full = connect().consumer([f"persistent://public/default/{each}" for each in reversed(topics)], "s", Share.KEY, 10)
    short.ask([b"key"])
    assert heard(full) == {b"key"}


@on_apache
def test_an_ask_wakes_who_waits_for_messages(connect: Connect, topics: list[str]) -> None:
    asks, waits = (connect().consumer(topics, "s", Share.KEY, 10) for _ in range(2))
    asking = threading.Timer(0.3, asks.ask, [[b"key"]])
    asking.start()
    started_s = time.monotonic()
    assert list(waits.receive(30_000)) == []
    assert time.monotonic() - started_s < 10
    asking.join()
    assert list(waits.asked()) == [b"key"]
    started_s = time.monotonic()
    assert list(waits.receive(300)) == []
    assert time.monotonic() - started_s >= 0.29, "it wakes once"


@on_apache
def test_what_is_no_ask_is_ignored(connect: Connect, connection: Connection, topics: list[str]) -> None:
    asks, hears = (connect().consumer(topics, "s", Share.KEY, 10) for _ in range(2))
    native = connection.client.create_producer(control_topic(topics, "s"))  # type: ignore[attr-defined]
    for wrong in MALFORMED:
        native.send(wrong)
    native.close()
    asks.ask([b"right"])
    assert heard(hears) == {b"right"}


@on_apache
def test_nothing_is_left_of_those_who_have_closed(connect: Connect, address: PulsarAddress, topics: list[str]) -> None:
    connection = connect()
    consumers = [connection.consumer(topics, "s", Share.KEY, 10) for _ in range(2)]
    control = control_topic(topics, "s").replace("://", "/", 1)

    def subscriptions() -> int:
        with urllib.request.urlopen(f"{address.web_url}/admin/v2/{control}/subscriptions", timeout=20) as answer:
            return len(json.loads(answer.read()))

    assert subscriptions() == 2
    consumers[0].close()
    until(lambda: subscriptions() == 1, "one is left")
    connection.close()
    until(lambda: subscriptions() == 0, "none is left")
    assert not [thread.name for thread in threading.enumerate() if thread.name == "edgeserve-pulsar-asks"]


@on_apache
def test_a_broker_that_makes_no_such_topic_is_an_error_that_says_so(
    connection: Connection, address: PulsarAddress
) -> None:
    namespace = f"public/strict-{uuid.uuid4().hex[:8]}"

    def put(path: str, method: str = "PUT", value: object = None) -> None:
        body = json.dumps(value).encode() if value is not None else b""
        request = urllib.request.Request(
            f"{address.web_url}/admin/v2/{path}", body, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=20):
            pass

    put(f"namespaces/{namespace}")
    for each in ("a", "b"):
        put(f"persistent/{namespace}/{each}")
    put(f"namespaces/{namespace}/autoTopicCreation", "POST", {"allowAutoTopicCreation": False})
    names = [f"persistent://{namespace}/{each}" for each in ("a", "b")]
    with pytest.raises(
        BrokerError, match=r"non-persistent.*'s' of several topics|'s' of several topics.*non-persistent"
    ):
        connection.consumer(names, "s", Share.KEY, 10)
    connection.consumer(names, "s", Share.STANDBY, 10).close()


class Replica:
    """Holds the data of each key until its signal comes, asks for what it misses, and gives back what others ask for.

    Attributes:
        met: The keys of which it had both.
        waiting: The signals whose data is not here.
    """

    def __init__(self, consumer: Consumer, data: str) -> None:
        self.consumer = consumer
        self.met: list[str] = []
        self.waiting: dict[str, Delivery] = {}
        self._data = data
        self._held: dict[str, Delivery] = {}

    @property
    def holds(self) -> int:
        """How many messages it holds that wait for a signal."""
        return len(self._held)

    def receive(self) -> None:
        for each in self.consumer.receive(20):
            (self._held if each.topic == self._data else self.waiting)[str(each.key)] = each
        for key in self.waiting.keys() & self._held.keys():
            self.consumer.acknowledge([self._held.pop(key), self.waiting.pop(key)])
            self.met.append(key)

    def exchange(self) -> None:
        self.consumer.ask([key.encode() for key in self.waiting])
        wanted = [key.decode() for key in self.consumer.asked()]
        self.consumer.give_back([self._held.pop(key) for key in wanted if key in self._held])


def test_messages_of_one_key_on_two_topics_meet_where_they_were_parted(connect: Connect, topics: list[str]) -> None:
    data, signal = topics
    connection = connect()
    older = Replica(connection.consumer(topics, "s", Share.KEY, 1000), data)
    keys = [f"key-{number}" for number in range(KEYS_HELD)]
    send(connection.producer(data), [Message(b"data", key=key) for key in keys])
    until(lambda: older.receive() or older.holds == KEYS_HELD, "it holds all data")
    newer = Replica(connect().consumer(topics, "s", Share.KEY, 1000), data)
    send(connection.producer(signal), [Message(b"signal", key=key) for key in keys])

    def met(*, exchanging: bool) -> list[str]:
        for each in (older, newer):
            each.receive()
            if exchanging:
                each.exchange()
        return older.met + newer.met

    until(lambda: len(met(exchanging=False)) + len(newer.waiting) == KEYS_HELD, "all signals have come")
    # On Pulsar they are parted, or this test would show nothing.
    assert (len(newer.waiting) > KEYS_HELD // 10) is older.consumer.must_ask
    until(lambda: len(met(exchanging=True)) >= KEYS_HELD, "all have met")
    assert sorted(older.met + newer.met) == sorted(keys)
    for each in (older, newer):
        assert rest(each.consumer) == []
        each.consumer.close()
    assert rest(connection.consumer(topics, "s", Share.KEY, 1000)) == []


@on_apache
def test_a_subscription_goes_on_when_its_topics_are_moved(
    connect: Connect, address: PulsarAddress, topics: list[str]
) -> None:
    asks, hears = (connect().consumer(topics, "s", Share.KEY, 10) for _ in range(2))
    control = control_topic(topics, "s").replace("://", "/", 1)
    request = urllib.request.Request(f"{address.web_url}/admin/v2/{control}/unload", method="PUT")
    with urllib.request.urlopen(request, timeout=20):
        pass
    found: set[bytes] = set()

    def is_heard() -> bool:
        asks.ask([b"again"])  # one may be lost, as it may at any time
        hears.receive(50)
        found.update(hears.asked())
        return bool(found)

    until(is_heard, "an ask is heard")
    send(connect().producer(topics[0]), keyed(numbered(20)))
    got = [*rest(asks), *rest(hears)]
    assert sorted(ids(got)) == numbered(20)


# Without one


@pytest.mark.parametrize(
    ("topics", "subscription", "expected"),
    [
        (["b", "a"], "s", "non-persistent://public/default/a-s-asked"),
        (["persistent://public/default/a", "b"], "s", "non-persistent://public/default/a-s-asked"),
        (["z/y/x", "persistent://z/y/w"], "s", "non-persistent://z/y/w-s-asked"),
        (["a"], "my-sub/ü %", "non-persistent://public/default/a-my%2Dsub%2F%C3%BC%20%25-asked"),
    ],
)
def test_the_topic_for_asking_is_one_for_a_subscription(topics: list[str], subscription: str, expected: str) -> None:
    assert control_topic(topics, subscription) == expected


def test_no_two_subscriptions_have_one_topic_for_asking() -> None:
    assert control_topic(["a-b"], "c") != control_topic(["a"], "b-c")


SENDER = b"12345678"
MALFORMED = [
    b"",
    b"\xc1",
    b"\x92",
    msgpack.packb(1),
    msgpack.packb([SENDER]),
    msgpack.packb({"a": 1, "b": 2}),
    msgpack.packb([SENDER, b"wrong"]),
    msgpack.packb([SENDER, ["wrong"]]),
    msgpack.packb([SENDER, [b"wrong", 1]]),
    msgpack.packb([b"short", [b"wrong"]]),
    msgpack.packb([SENDER, [b"x" * (MAX_ASKED_KEY_BYTES + 1)]]),
    msgpack.packb([SENDER, [b"x" * 900] * 80]),
    msgpack.packb([SENDER, [b"wrong"]]) + b"more",
    b"\xd9\x02\xff\xff",
    b"\x91" * 2000,
    b"\x92\xdd\xff\xff\xff\xff",
]


class Wire:
    """Control messages by hand: what is sent, and what arrives."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.arrives: queue.Queue[bytes] = queue.Queue()
        self.acknowledged = 0

    def send(self, message: Message, settled: Callable[[Any, Any], None]) -> None:
        self.sent.append(message.payload)

    def receive(self, timeout_ms: int) -> Delivery | None:
        try:
            payload = self.arrives.get(timeout=timeout_ms / 1000)
        except queue.Empty:
            return None
        return Delivery(0, "asked", 0, payload, None, 0, None, {})

    def acknowledge(self, message_id: object) -> None:
        self.acknowledged += 1

    def close(self, limit_ms: int = 0) -> None:
        pass


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def asks(wire: Wire) -> Iterator[Asks]:
    made = Asks("asked", wire, wire, lambda: 0)
    yield made
    made.close()


def arrive(wire: Wire, payloads: Sequence[bytes]) -> None:
    """Have these arrive, and wait until they are taken."""
    before = wire.acknowledged
    for payload in payloads:
        wire.arrives.put(payload)
    # The one after them, so that they are done with.
    wire.arrives.put(b"")
    until(lambda: wire.acknowledged == before + len(payloads) + 1, "they are taken")


@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_ask_is_dropped(wire: Wire, asks: Asks, payload: bytes) -> None:
    arrive(wire, [payload, msgpack.packb([SENDER, [b"right", b"x" * MAX_ASKED_KEY_BYTES]])])
    assert list(asks.asked()) == [b"right", b"x" * MAX_ASKED_KEY_BYTES]


def test_what_nobody_takes_does_not_pile_up(wire: Wire, asks: Asks) -> None:
    arrive(
        wire,
        [msgpack.packb([SENDER, [b"%d" % n for n in range(turn * 3000, turn * 3000 + 3000)]]) for turn in range(5)],
    )
    assert list(asks.asked()) == [b"%d" % n for n in range(10_000)]
    assert list(asks.asked()) == []


def test_one_does_not_hear_oneself(wire: Wire, asks: Asks) -> None:
    asks.ask([b"own"])
    arrive(wire, [*wire.sent, msgpack.packb([SENDER, [b"other", b"other"]])])
    assert list(asks.asked()) == [b"other"]


@pytest.mark.parametrize("size", [1, 16, MAX_ASKED_KEY_BYTES])
def test_many_keys_are_asked_for_in_messages_that_others_take(wire: Wire, asks: Asks, size: int) -> None:
    keys = [number.to_bytes(4, "big")[-size:].rjust(size, b"x") for number in range(250)]
    asks.ask(keys * (10_000 // len(keys)))
    other_wire = Wire()
    other = Asks("asked", other_wire, other_wire, lambda: 0)
    arrive(other_wire, wire.sent)
    assert list(other.asked()) == keys
    other.close()


def test_a_key_that_is_too_long_is_refused(wire: Wire, asks: Asks) -> None:
    with pytest.raises(UsageError, match="1025"):
        asks.ask([b"x" * (MAX_ASKED_KEY_BYTES + 1)])
    assert wire.sent == []
