"""Dead letters keep the bytes and say why; what can't be kept stays with its input."""

from __future__ import annotations

import threading

import pytest

from edgeserve import Compute, DeliveryError, Fate
from edgeserve._broker import connections
from edgeserve._broker.base import Delivery, Message, Share
from edgeserve._broker.connections import connect
from edgeserve._broker.dead_letters import DeadLetter, DeadLetterBox, DeadLetters
from edgeserve._core.packs import pack
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.testing import memory_broker
from tests.broker.helpers import receive, rest, send
from tests.manual_broker import CAPTURE_MS, ManualBroker, example

Address = LocalAddress | PulsarAddress

REFUSED = DeliveryError("the disk is full", "test://")


def kept(address: Address, topic: str, count: int) -> list[DeadLetter]:
    """The letters of a topic, which stay."""
    connection = connect(address)
    try:
        box = DeadLetterBox(connection, str(address), topic)
        letters = list(box.read(500))
        assert len(letters) == count
        return letters
    finally:
        connection.close()


def fail(only: bytes) -> bytes:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "stored"),
    [
        ("e" * 5000, "e" * 1000),
        ("\U0001f600" * 5000, "\U0001f600" * 1000),
        ("a \udcff b", "a ? b"),
        ("\x00\n\x1b", "\x00\n\x1b"),
        ("", ""),
    ],
)
def test_any_text_of_an_error_can_be_kept(address: Address, topic: str, error: str, stored: str) -> None:
    connection = connect(address)
    try:
        letters = DeadLetters(connection, str(address), "worker")
        done = threading.Event()
        delivery = Delivery(None, topic, "m-1", b"whole", 7, 8, "key", {"mark": "kept", "edgeserve-error": "old"})
        letters.send(delivery, b"\x00part\xff", 5, error, done.set)
        assert done.wait(20)
        assert letters.sent == 1
        letters.close(5000)
    finally:
        connection.close()
    (letter,) = kept(address, topic, 1)
    assert letter[1:] == (stored, "worker", topic, "m-1", 5, b"\x00part\xff")
    assert (letter.delivery.key, letter.properties) == ("key", {"mark": "kept"})


def test_an_entry_of_a_pack_is_kept_by_itself_with_its_own_capture_time(address: Address, topic: str) -> None:
    entries = [(example(name, "only", name.encode()), CAPTURE_MS + at) for at, name in enumerate(("a", "b", "c"))]
    connection = connect(address)
    marks = {"edgeserve-pack": "1", "mark": "kept"}
    send(connection.producer(topic), [Message(pack(entries), CAPTURE_MS + 2, None, marks)])
    connection.close()

    def fail_on_b(only: bytes) -> bytes:
        return only if only != b"b" else fail(only)

    with Compute(fail_on_b, address, topic_in=topic, topic_out=f"{topic}-out", on_error="dead_letter") as compute:
        assert [next(compute) for _ in entries] == [b"a", None, b"c"]
        assert compute.stats.fates == {Fate.USED: 2, Fate.FAILED: 1}
    (letter,) = kept(address, topic, 1)
    assert (letter.data, letter.capture_ms) == entries[1]
    assert letter.properties == {"mark": "kept"}, "it is no pack any more"


def test_retries_come_before_the_letter(address: Address, topic: str) -> None:
    tried: list[bytes] = []

    def fail_and_count(only: bytes) -> bytes:
        tried.append(only)
        return fail(only)

    connection = connect(address)
    send(connection.producer(topic), [Message(example("a", "only"), CAPTURE_MS)])
    connection.close()
    with Compute(
        fail_and_count, address, topic_in=topic, topic_out=f"{topic}-out", on_error="retry", retry_interval_ms=1
    ) as compute:
        assert next(compute) is None
    assert len(tried) == 4
    (letter,) = kept(address, topic, 1)
    assert letter.error == "ZeroDivisionError: "


def test_letters_are_kept_before_anybody_looks_and_after_the_operator_is_gone(address: Address, topic: str) -> None:
    connection = connect(address)
    send(connection.producer(topic), [Message(example("a", "only"), CAPTURE_MS)])
    with Compute(fail, address, topic_in=topic, topic_out=f"{topic}-out", on_error="dead_letter") as compute:
        next(compute)
    with Compute(fail, address, topic_in=topic, topic_out=f"{topic}-out", idle_timeout_ms=300) as successor:
        assert list(successor) == [], "its input is acknowledged"
    connection.close()
    for _ in range(3):
        kept(address, topic, 1)


def test_putting_back_many_keeps_their_order(address: Address, topic: str) -> None:
    connection = connect(address)
    try:
        letters = DeadLetters(connection, str(address), "worker")
        for number in range(300):
            delivery = Delivery(None, topic, str(number), b"", None, 1, None, {})
            letters.send(delivery, str(number).encode(), CAPTURE_MS, "e", lambda: None)
        letters.close(20_000)
        box = DeadLetterBox(connection, str(address), topic)
        found = list(box.read(1000))
        assert [letter.message_id for letter in found] == [str(number) for number in range(300)]
        box.put_back(found, 20_000)
        box.close()
        assert list(DeadLetterBox(connection, str(address), topic).read(300)) == []
        again = connection.consumer([topic], "reader", Share.STANDBY, 100)
        assert [each.payload for each in receive(again, 300)] == [letter.data for letter in found]
        assert rest(again) == []
    finally:
        connection.close()


@pytest.fixture
def manual(monkeypatch: pytest.MonkeyPatch) -> ManualBroker:
    broker = ManualBroker()
    monkeypatch.setattr(connections, "connect", lambda address: broker)
    return broker


@pytest.mark.parametrize("arrival", [{"source": "only"}, {"source": "only", "data": b"short"}])
def test_a_letter_that_cannot_be_stored_leaves_its_input_unacknowledged(
    manual: ManualBroker, arrival: dict[str, object]
) -> None:
    with Compute(fail, memory_broker(), on_error="dead_letter", idle_timeout_ms=10_000) as compute:
        manual.arrive("m1", **arrival)  # type: ignore[arg-type]
        assert next(compute) is None
        assert manual.acknowledged == []
        manual.confirm(REFUSED)
        with pytest.raises(DeliveryError, match="disk is full"):
            next(compute)
        assert manual.acknowledged == []
        manual.arrive("m2", **arrival)  # type: ignore[arg-type]
        next(compute)
        manual.confirm()
        assert manual.acknowledged == ["m2"]


def test_a_pack_is_acknowledged_when_the_letter_of_its_entry_is_stored_too(manual: ManualBroker) -> None:
    with Compute(fail, memory_broker(), on_error="dead_letter") as compute:
        manual.arrive_together("m1", example("a", "only"), example("b", "only"))
        next(compute)
        next(compute)
        manual.confirm()
        assert manual.acknowledged == []
        manual.confirm()
        assert manual.acknowledged == ["m1"]


def test_closing_says_what_letters_were_not_stored(manual: ManualBroker) -> None:
    compute = Compute(fail, memory_broker(), on_error="dead_letter")
    manual.arrive("m1", "only")
    next(compute)
    with pytest.raises(DeliveryError, match="not confirmed in time"):
        compute.close()
    assert manual.acknowledged == []


def test_what_could_not_be_put_back_is_kept(manual: ManualBroker) -> None:
    marks = {"edgeserve_error": "why", "edgeserve_operator": "worker", "mark": "kept"}
    for name in ("m1", "m2"):
        manual.arrive(name, "only", **marks)
    box = DeadLetterBox(manual, "test://", "src")
    letters = list(box.read(1))
    threading.Timer(0.2, lambda: (manual.confirm(REFUSED), manual.confirm())).start()
    manual.close = lambda timeout_ms=0: _wait_until_empty(manual)  # type: ignore[method-assign]
    with pytest.raises(DeliveryError, match="disk is full"):
        box.put_back(letters, 5000)
    assert manual.acknowledged == ["m2"]


def _wait_until_empty(manual: ManualBroker) -> None:
    until = threading.Event()
    for _ in range(1000):
        if not manual.unconfirmed:
            return
        until.wait(0.01)
