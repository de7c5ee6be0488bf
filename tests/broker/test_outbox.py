"""What leaves when: group commit, its bounds, and what a failure does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgeserve._broker.base import MAX_MESSAGE_BYTES, Message
from edgeserve._broker.in_flight import InFlight
from edgeserve._broker.marks import PACK
from edgeserve._broker.outbox import Outbox
from edgeserve._core.packs import MAX_BYTES, MAX_EXAMPLES, unpack
from edgeserve.errors import BrokerError, DeliveryError, PayloadTooLarge, UsageError
from tests.manual_broker import CAPTURE_MS, ManualBroker

REFUSED = DeliveryError("the disk is full", "test://")


@pytest.fixture
def manual() -> ManualBroker:
    return ManualBroker()


class Sends:
    """An outbox on a manual broker, and what it reported."""

    def __init__(self, manual: ManualBroker, **options: Any) -> None:
        self.confirmed: list[int] = []
        self.outbox: Outbox[int] = Outbox(manual, "test://", self.confirmed.extend, **options)

    def send(self, *numbers: int, size: int = 10) -> None:
        for number in numbers:
            data, capture_ms, _, _ = message(number, size)
            self.outbox.send((data, capture_ms or 0), number)


def message(number: int, size: int = 10, **options: Any) -> Message:
    return Message(number.to_bytes(4, "big").ljust(size, b"\0"), CAPTURE_MS + number, **options)


def numbers(left: Message) -> list[int]:
    """Which examples are in a message that left."""
    entries = unpack(left.payload) if PACK in left.properties else [(left.payload, left.event_ms)]
    found = [int.from_bytes(data[:4], "big") for data, _ in entries]
    assert [capture_ms for _, capture_ms in entries] == [CAPTURE_MS + number for number in found]
    return found


def left(manual: ManualBroker) -> list[list[int]]:
    return [numbers(message) for message, _ in manual.unconfirmed]


@pytest.fixture
def outbox(manual: ManualBroker) -> Iterator[Callable[..., Sends]]:
    made: list[Sends] = []

    def make(*, packing: bool = True, **limits: int) -> Sends:
        made.append(Sends(manual, packing=packing, limits=InFlight(**limits) if limits else None))
        return made[-1]

    yield make
    for sends in made:
        sends.outbox.stop()


def test_examples_leave_at_once_until_four_are_under_way_and_then_together(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox()
    sends.send(*range(10))
    assert left(manual) == [[0], [1], [2], [3]]
    manual.confirm()
    assert left(manual) == [[1], [2], [3], [4, 5, 6, 7, 8, 9]], "without a further send"
    assert sends.confirmed == [0]
    assert (sends.outbox.sent, sends.outbox.unconfirmed) == (10, 9)
    for _ in range(4):
        manual.confirm()
    assert sends.confirmed == list(range(10))
    assert sends.outbox.unconfirmed == 0


def test_beyond_the_first_few_only_full_packs_leave_before_a_confirmation(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=4)
    sends.send(*range(8))
    for _ in range(4):
        manual.confirm()
    assert left(manual) == [[4, 5, 6, 7]]
    sends.send(8, *range(9, 9 + MAX_EXAMPLES - 1))
    assert left(manual) == [[4, 5, 6, 7], [8]], "two are under way, and what waits is no full pack yet"
    sends.send(1000)
    assert left(manual)[2:] == [[*range(9, 9 + MAX_EXAMPLES - 1), 1000]]
    sends.send(*range(2000, 2003), size=MAX_BYTES // 2)
    assert left(manual)[3:] == [[2000]], "full of bytes"
    sends.send(*range(3000, 3000 + 2 * MAX_EXAMPLES))
    assert len(manual.unconfirmed) == 4, "and no more than so many"


def test_what_fills_no_pack_leaves_when_but_one_send_is_unconfirmed(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox()
    sends.send(*range(4), *range(100, 100 + 2 * MAX_EXAMPLES + 1))
    unconfirmed = []
    while 100 + 2 * MAX_EXAMPLES not in [number for packed in left(manual) for number in packed]:
        unconfirmed.append(len(manual.unconfirmed))
        manual.confirm()
    assert unconfirmed == [6, 5, 4, 3, 2]
    assert left(manual)[-1] == [100 + 2 * MAX_EXAMPLES]


def test_a_lone_example_is_a_message_as_it_is_and_has_no_mark(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=1)
    sends.send(1, 2)
    manual.confirm()
    ((lone, _),) = manual.unconfirmed
    assert lone == message(2)


def test_a_pack_has_bounds_of_number_and_of_bytes(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_sends=1)
    sends.send(*range(MAX_EXAMPLES + 3))
    manual.confirm()
    assert left(manual) == [list(range(1, MAX_EXAMPLES + 1))]
    sends.send(1000, 1001, 1002, size=MAX_BYTES // 2 - 20)
    manual.confirm()
    assert left(manual) == [[MAX_EXAMPLES + 1, MAX_EXAMPLES + 2, 1000]]
    assert len(manual.unconfirmed[0][0].payload) <= MAX_BYTES
    manual.confirm()
    assert left(manual) == [[1001, 1002]]
    assert len(manual.unconfirmed[0][0].payload) <= MAX_BYTES
    sends.send(2000, size=MAX_BYTES * 2)
    manual.confirm()
    assert left(manual) == [[2000]], "what is larger than a pack leaves alone"


def test_what_has_a_key_or_marks_is_not_packed_and_keeps_its_place(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=1)
    sends.send(0, 1)
    sends.outbox.send(message(2, key="k"), 2)
    sends.outbox.send(message(3, properties={"mark": "1"}), 3)
    sends.send(4, 5)
    seen = []
    while manual.unconfirmed:
        seen.append(left(manual)[0])
        manual.confirm()
    assert seen == [[0], [1], [2], [3], [4, 5]]
    assert sends.confirmed == [0, 1, 2, 3, 4, 5]


def test_messages_of_their_own_leave_at_once_within_the_bounds(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=1, max_examples=100)
    for number in range(100):
        sends.outbox.send(message(number, key="k"), number)
    assert left(manual) == [[number] for number in range(100)]


def test_what_more_follows_leaves_together_with_it(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_examples=4)
    for number in range(3):
        sends.outbox.send((message(number).payload, CAPTURE_MS + number), number, more_follows=number < 2)
    assert left(manual) == [[0, 1, 2]]


def test_what_waits_for_more_leaves_when_there_is_no_room_for_that(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_examples=2)

    def send_all() -> None:
        for number in range(5):
            sends.outbox.send((message(number).payload, CAPTURE_MS + number), number, more_follows=number < 4)

    sender = threading.Thread(target=send_all)
    sender.start()
    while len(sends.confirmed) < 5:
        if manual.unconfirmed:
            manual.confirm()
    sender.join()
    assert sends.confirmed == [0, 1, 2, 3, 4]


def test_without_packing_each_is_a_message_and_what_waited_leaves_together(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(packing=False)
    sends.send(*range(8))
    assert left(manual) == [[0], [1], [2], [3]]
    manual.confirm()
    assert left(manual) == [[number] for number in range(1, 8)]
    for _ in range(6):
        manual.confirm()
    assert sends.confirmed == [0, 1, 2, 3]
    manual.confirm()
    assert sends.confirmed == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_refused_pack_is_said_with_the_number_of_its_examples_and_what_follows_goes_on(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=1)
    sends.send(0, 1, 2)
    manual.confirm()
    sends.send(3)
    manual.confirm(REFUSED)
    assert left(manual) == [[3]]
    with pytest.raises(DeliveryError, match=r"disk is full \(2 examples in all\)"):
        sends.outbox.raise_failure()
    sends.outbox.raise_failure()  # once
    manual.confirm()
    assert sends.confirmed == [0, 3]


def test_a_pack_that_this_broker_finds_too_large_leaves_in_parts(
    manual: ManualBroker, outbox: Callable[..., Sends], monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, limit = manual.send, 1000

    def send(message: Message, confirmed: Callable[[BrokerError | None], None]) -> None:
        if len(message.payload) > limit:
            raise PayloadTooLarge(len(message.payload), None, "t")
        accept(message, confirmed)

    monkeypatch.setattr(manual, "send", send)
    sends = outbox(max_sends=1)
    sends.send(*range(10), size=300)
    seen = []
    while manual.unconfirmed:
        seen += numbers(manual.unconfirmed[0][0])
        manual.confirm()
    assert seen == sends.confirmed == list(range(10))


@pytest.mark.parametrize("limits", [{"max_examples": 2}, {"max_bytes": 20}])
def test_a_send_waits_while_too_much_is_on_its_way(
    manual: ManualBroker, outbox: Callable[..., Sends], limits: dict[str, int]
) -> None:
    sends = outbox(**limits)
    sends.send(1, 2)
    third = threading.Thread(target=sends.send, args=(3,))
    third.start()
    third.join(0.1)
    assert third.is_alive()
    assert left(manual) == [[1], [2]]
    manual.confirm()
    third.join(10)
    assert not third.is_alive()
    assert (sends.outbox.sent, sends.outbox.unconfirmed) == (3, 2)


def test_one_example_may_be_larger_than_all_that_may_be_on_its_way(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    outbox(max_bytes=10).send(1, size=1000)
    assert left(manual) == [[1]]


def test_what_no_broker_takes_is_refused_before_it_waits(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_sends=1)
    sends.send(1)
    with pytest.raises(PayloadTooLarge):
        sends.send(2, size=MAX_MESSAGE_BYTES + 1)
    assert (sends.outbox.sent, sends.outbox.unconfirmed) == (1, 1)


def test_a_send_that_waits_gives_up_when_it_is_told_to(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_examples=1)
    sends.send(1)
    errors: list[Exception] = []

    def send() -> None:
        try:
            sends.send(2)
        except DeliveryError as error:
            errors.append(error)

    waiting = threading.Thread(target=send)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    sends.outbox.stop()
    waiting.join(10)
    assert len(errors) == 1
    assert sends.outbox.sent == 1


def test_a_send_that_is_refused_at_once_takes_no_room(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_examples=1)
    send, manual.send = manual.send, lambda message, confirmed: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        sends.send(1)
    manual.send = send  # type: ignore[method-assign]
    sends.send(2)
    assert (sends.outbox.sent, sends.outbox.unconfirmed) == (1, 1)
    sends.outbox.raise_failure()


def test_closing_says_how_many_had_not_left_or_were_not_confirmed(
    manual: ManualBroker, outbox: Callable[..., Sends]
) -> None:
    sends = outbox(max_sends=1)
    sends.send(1, 2, 3)
    with pytest.raises(DeliveryError, match=r"\(3 examples in all\)"):
        sends.outbox.close(20)
    assert (sends.confirmed, sends.outbox.unconfirmed) == ([], 0)


def test_closing_lets_what_waits_leave_first(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_sends=1)
    sends.send(1, 2, 3)
    closing = threading.Thread(target=sends.outbox.close, args=(10_000,))
    closing.start()
    manual.confirm()
    while not manual.unconfirmed:
        pass
    manual.confirm()
    closing.join(10)
    assert sends.confirmed == [1, 2, 3]


@pytest.mark.parametrize("limits", [{"max_sends": 0}, {"max_examples": 0}, {"max_bytes": -1}])
def test_bounds_are_whole_numbers_from_one_on(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected a whole number, 1 or more"):
        InFlight(**limits)


def test_closing_waits_for_what_was_taken_out_to_be_sent(manual: ManualBroker, outbox: Callable[..., Sends]) -> None:
    sends = outbox(max_sends=1)
    sends.send(1, 2)
    is_leaving, may_leave = threading.Event(), threading.Event()
    accept = manual.send

    def slow_send(message: Message, confirmed: Callable[[BrokerError | None], None]) -> None:
        is_leaving.set()
        assert may_leave.wait(10)
        accept(message, confirmed)

    manual.send = slow_send  # type: ignore[method-assign]
    confirming = threading.Thread(target=manual.confirm)
    confirming.start()
    assert is_leaving.wait(10)
    closed_with: list[int] = []
    manual.close = lambda timeout_ms=0: closed_with.append(len(manual.unconfirmed))  # type: ignore[method-assign]
    closing = threading.Thread(target=sends.outbox.close, args=(10_000,))
    closing.start()
    closing.join(0.1)
    assert closed_with == []
    may_leave.set()
    closing.join(10)
    confirming.join(10)
    assert closed_with == [1], "the producer was closed with the message in its hands"
