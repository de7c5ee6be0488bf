"""One bad example among good ones: it alone becomes a dead letter, with the bytes that it came as."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest

from edgeserve import Compute, Fate, Materialize
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetter, DeadLetterBox
from edgeserve._broker.marks import PACK, PACK_FORM
from edgeserve._consuming import Consuming
from edgeserve._core.packs import pack
from tests.broker.workers import until
from tests.operators.conftest import CAPTURE_MS, CODEC, Wire
from tests.operators.processes import Crew, number_of, numbered

COUNT, POISON, MALFORMED = 100, 50, 20
GOOD = [numbered(number) for number in range(COUNT) if number not in (POISON, MALFORMED)]
MALFORMED_BYTES = b"too short"

Letters = Callable[[], list[DeadLetter]]
Make = Callable[..., Consuming[bytes]]


@pytest.fixture
def letters(broker: str, wire: Wire) -> Iterator[Letters]:
    """Reads the dead letters of `src`, from the first one on."""
    lease = ConnectionLease(broker)

    def read() -> list[DeadLetter]:
        with closing(DeadLetterBox(lease.connection, broker, wire.src)) as box:
            return list(box.read(500))

    yield read
    lease.close()


def send_pack(wire: Wire, malformed: int | None = MALFORMED) -> Sequence[bytes]:
    """Send a message of `COUNT` examples, and return their bytes."""
    examples = [CODEC.encode(uuid.uuid4().bytes, "only", numbered(number)) for number in range(COUNT)]
    if malformed is not None:
        examples[malformed] = MALFORMED_BYTES
    entries = [(example, CAPTURE_MS + number) for number, example in enumerate(examples)]
    wire.send_raw(pack(entries), CAPTURE_MS, **{PACK: PACK_FORM})
    return examples


def fail_on_poison(only: bytes) -> bytes:
    if number_of(only) == POISON:
        raise ZeroDivisionError("poison")
    return only


def make_compute(broker: str, wire: Wire, **options: object) -> Consuming[bytes]:
    return Compute(fail_on_poison, broker, "op", topic_in=wire.src, topic_out=wire.dst, idle_timeout_ms=500, **options)  # type: ignore[arg-type]


def make_sink(broker: str, wire: Wire, **options: object) -> Consuming[bytes]:
    return Materialize(fail_on_poison, broker, topic=wire.src, sink_id="op", idle_timeout_ms=500, **options)  # type: ignore[arg-type]


def served_by(operator: Consuming[bytes]) -> list[bytes]:
    """What its steps returned, to the end."""
    with operator:
        return [value for value in operator if value is not None]


MAKERS = pytest.mark.parametrize("make", [make_compute, make_sink], ids=["compute", "sink"])


@MAKERS
@pytest.mark.parametrize("on_error", ["dead_letter", "retry"])
def test_a_poison_example_and_a_malformed_one_within_a_pack_are_dead_letters_and_the_others_are_served(
    broker: str, wire: Wire, letters: Letters, make: Make, on_error: str
) -> None:
    examples = send_pack(wire)
    operator = make(broker, wire, on_error=on_error, max_retries=2, retry_interval_ms=1)
    assert served_by(operator) == GOOD
    assert operator.stats.fates == {Fate.USED: len(GOOD), Fate.FAILED: 1, Fate.MALFORMED: 1}
    assert operator.stats.dead_letters == 2

    malformed, poison = letters()
    assert poison.data == examples[POISON]
    assert poison.error == "ZeroDivisionError: poison"
    assert poison.capture_ms == CAPTURE_MS + POISON
    assert malformed.data == MALFORMED_BYTES
    assert malformed.error.startswith("MalformedMessage: ")
    for letter in (poison, malformed):
        assert (letter.operator, letter.topic, letter.message_id) == ("op", wire.src, poison.message_id)
        assert letter.properties == {}, "it is no pack any more"
    assert served_by(make(broker, wire)) == [], "all of the pack is done with"


@MAKERS
def test_a_poison_example_that_is_skipped_is_counted_and_gone(
    broker: str, wire: Wire, letters: Letters, make: Make
) -> None:
    send_pack(wire)
    operator = make(broker, wire, on_error="skip")
    assert served_by(operator) == GOOD
    assert operator.stats.fates == {Fate.USED: len(GOOD), Fate.FAILED: 1, Fate.MALFORMED: 1}
    assert [letter.data for letter in letters()] == [MALFORMED_BYTES]
    assert served_by(make(broker, wire)) == []


@MAKERS
def test_a_poison_example_that_is_raised_leaves_its_pack_to_the_next_operator(
    broker: str, wire: Wire, make: Make
) -> None:
    send_pack(wire, malformed=None)
    with make(broker, wire) as operator:
        served = [next(operator) for _ in range(POISON)]
        with pytest.raises(ZeroDivisionError):
            next(operator)
        served += [next(operator) for _ in range(COUNT - POISON - 1)]
        assert served == [numbered(number) for number in range(COUNT) if number != POISON]
        assert operator.stats.held == 1
    successor = make(broker, wire, on_error="dead_letter")
    assert served_by(successor) == served
    assert successor.stats.fates[Fate.FAILED] == 1


@pytest.mark.parametrize("beyond", [-1, 1])
def test_a_poison_example_is_a_dead_letter_though_the_compute_is_killed_around_it(
    broker: str, wire: Wire, crew: Crew, letters: Letters, beyond: int
) -> None:
    examples = send_pack(wire)
    options = {"broker": broker, "topic_in": wire.src, "topic_out": wire.dst, "poison": POISON}
    first = crew.start("compute", work_ms=2, on_error="dead_letter", **options)
    first.until_lines(1 + POISON + beyond)  # of the numbers before it, one is malformed
    time.sleep(0.001)
    first.kill()
    second = crew.start("compute", on_error="dead_letter", **options)
    until(lambda: COUNT - 1 in second.noted("began"), "all are served")
    second.end()
    sent = {(example.id, example.payload) for example in wire.everything_sent_on()}
    assert {payload for _, payload in sent} == set(GOOD)
    assert len(sent) == len(GOOD), "a repeated run gives the same ids"
    found = [letter.data for letter in letters()]
    assert set(found) == {examples[POISON], MALFORMED_BYTES}
    assert len(found) <= 4, "each run makes each of them once"
