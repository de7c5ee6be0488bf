"""Scripts for workers: sent, made by hand, altered, and what became of them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeserve import CodeSource, Worker
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetter, DeadLetterBox
from edgeserve._core.clock import wall_ms
from edgeserve._core.signed import Signer, unpack_signed
from tests.operators.conftest import CODEC, Sent, Wire

KEY = bytes(range(32))


def adding(path: Path, line: str = "ran") -> str:
    """A script that says that it ran."""
    return f"with open({str(path)!r}, 'a') as file:\n    file.write({line!r} + chr(10))\n"


def send(broker: str, topic: str, *scripts: str, **options: Any) -> None:
    with CodeSource(scripts, broker, topic=topic, **{"key": KEY, **options}) as source:
        assert len(list(source)) == len(scripts)


def worker(broker: str, topic: str, **options: Any) -> Worker:
    return Worker(broker, topic, **{"key": KEY, "idle_timeout_ms": 2000, **options})


def refused(broker: str, topic: str, count: int = 1) -> list[DeadLetter]:
    """The dead letters of a topic."""
    lease = ConnectionLease(broker)
    try:
        box = DeadLetterBox(lease.connection, str(lease.address), topic)
        letters = []
        for letter in box.read(10_000):
            letters.append(letter)
            if len(letters) == count:
                break
        box.close()
    finally:
        lease.close()
    assert len(letters) == count
    return letters


def signed(topic: str, script: str) -> Sent:
    """A script as its source would send it."""
    now_ms, script_id = wall_ms(), uuid.uuid4()
    packed = Signer(KEY).signed(topic, script_id.bytes, now_ms, script.encode()).packed()
    return Sent(script_id, "any", packed, now_ms)


def store(wire: Wire, one: Sent, topic: str | None = None) -> None:
    """Store an example on `dst`."""
    wire.send_raw(CODEC.encode(one.id, one.source, one.payload), wall_ms(), wire.dst if topic is None else topic)


def with_script(one: Sent, script: str) -> Sent:
    """The same with another script."""
    return one._replace(payload=replace(unpack_signed(one.payload), script=script.encode()).packed())
