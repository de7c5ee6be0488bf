from __future__ import annotations

import pytest

from edgeserve import Fate, Materialize
from tests.operators.conftest import Wire


def test_a_sink_returns_what_its_callable_returned_in_order(broker: str, wire: Wire) -> None:
    with Materialize(lambda payload: payload * 2, broker, topic=wire.src) as sink:
        for payload in (b"1", b"2", b"3"):
            wire.send("any", payload)
        assert [next(sink) for _ in range(3)] == [b"11", b"22", b"33"]
    assert sink.stats.fates == {Fate.USED: 3}


def test_the_gate_and_decode_make_the_argument(broker: str, wire: Wire) -> None:
    with Materialize(
        lambda number: number, broker, lambda p: None if p == b"no" else p, topic=wire.src, decode=int
    ) as sink:
        wire.send("any", b"no")
        wire.send("any", b"0")
        assert [next(sink), next(sink)] == [None, 0]
    assert sink.stats.fates == {Fate.GATED: 1, Fate.USED: 1}


def test_the_subscription_is_durable_and_starts_at_the_first_example(broker: str, wire: Wire) -> None:
    wire.send("any", b"1")
    with Materialize(lambda payload: payload, broker, topic=wire.src) as sink:
        assert next(sink) == b"1"
    wire.send("any", b"2")
    with Materialize(lambda payload: payload, broker, topic=wire.src) as sink:
        assert next(sink) == b"2"


def test_two_sinks_with_names_of_their_own_both_see_everything(broker: str, wire: Wire) -> None:
    wire.send("any", b"1")
    with (
        Materialize(lambda payload: payload, broker, topic=wire.src, sink_id="screen") as screen,
        Materialize(lambda payload: payload, broker, topic=wire.src, sink_id="disk") as disk,
    ):
        assert [next(screen), next(disk)] == [b"1", b"1"]


def test_an_example_whose_callable_raises_comes_back_after_a_restart(broker: str, wire: Wire) -> None:
    def refuse(payload: bytes) -> None:
        raise OSError("disk full")

    wire.send("any", b"1")
    with Materialize(refuse, broker, topic=wire.src) as sink:
        with pytest.raises(OSError, match="disk full"):
            next(sink)
        assert sink.stats.held == 1
    with Materialize(lambda payload: payload, broker, topic=wire.src) as sink:
        assert next(sink) == b"1"


def test_a_stand_by_takes_over_when_the_active_sink_is_closed(broker: str, wire: Wire) -> None:
    def keep(payload: bytes) -> bytes:
        return payload

    with Materialize(keep, broker, topic=wire.src) as active, Materialize(keep, broker, topic=wire.src) as standby:
        wire.send("any", b"1")
        assert next(active) == b"1"
        active.close()
        wire.send("any", b"2")
        assert next(standby) == b"2"
