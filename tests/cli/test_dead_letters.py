"""`edgeserve dead-letters`: what a real operator gave up is listed, put back or deleted, and never lost by looking."""

from __future__ import annotations

import base64
import json
import signal
import uuid
from pathlib import Path
from typing import Any

import pytest

from edgeserve import Compute, Materialize
from edgeserve._broker.base import Delivery, Message, Share
from edgeserve._broker.connections import connect
from edgeserve._broker.dead_letters import DeadLetter
from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.cli.console import shown
from edgeserve.cli.dead_letters import letter_record, letters_table
from edgeserve.message_format import GraphCodec
from tests.broker.helpers import receive, rest, send
from tests.cli.command import at, edgeserve, start_edgeserve

CAPTURE_MS = 1_700_000_000_000

Address = LocalAddress | PulsarAddress


def example(number: int, payload: bytes = b"\x00\xff") -> Message:
    """An example with a key and a mark, both with more than ASCII in them."""
    data = GraphCodec().encode(uuid.UUID(int=number), "only", payload)
    return Message(data, CAPTURE_MS + number, f"{number:02x}-Ω\x01", {"mark-é": "\x00\U0001f600", "plain": ""})


def fail(only: bytes) -> bytes:
    raise ZeroDivisionError("no such\tthing")


def make_letters(address: Address, topic: str, messages: list[Message]) -> None:
    """Have a real operator give up each message."""
    connection = connect(address)
    send(connection.producer(topic), messages)
    connection.close()
    with Compute(fail, address, "worker", topic_in=topic, topic_out=f"{topic}-out", on_error="dead_letter") as compute:
        for _ in messages:
            assert next(compute) is None
        assert compute.stats.dead_letters == len(messages)


def run(address: Address, topic: str, *options: str) -> tuple[list[dict[str, Any]], str]:
    """What `--json` lists, and what it says."""
    done = edgeserve("dead-letters", topic, "--json", *options, "--pulsar", at(address)[1])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_letters_are_listed_oldest_first_with_the_reason_and_stay(address: Address, topic: str) -> None:
    messages = [example(number) for number in (1, 2, 3)]
    make_letters(address, topic, messages)
    for _ in range(2):  # looking takes nothing away
        records, said = run(address, topic)
        assert said == ""
        assert [base64.b64decode(record["data"]) for record in records] == [each.payload for each in messages]
    record = records[0]
    assert record["message_id"]
    assert {name: record[name] for name in record.keys() - {"message_id", "data"}} == {
        "error": "ZeroDivisionError: no such\tthing",
        "operator": "worker",
        "topic": topic,
        "capture_ms": CAPTURE_MS + 1,
        "size_bytes": 34,
        "key": messages[0].key,
        "properties": dict(messages[0].properties),
    }


def test_the_table_has_a_line_for_each_and_no_control_characters(address: Address, topic: str) -> None:
    make_letters(address, topic, [example(1), example(2)])
    done = edgeserve("dead-letters", topic, "--pulsar", at(address)[1])
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if topic in line]
    assert len(lines) == 2
    assert r"ZeroDivisionError: no such\tthing" in lines[0]
    assert "2023-11-14 22:13:20.001Z" in lines[0]
    assert "34 bytes" in lines[0]
    assert "\t" not in done.stdout


def test_what_is_put_back_is_served_as_it_was_first_sent(address: Address, topic: str) -> None:
    messages = [example(number) for number in (1, 2, 3)]
    make_letters(address, topic, messages)
    records, said = run(address, topic, "--put-back")
    assert (len(records), said) == (3, "put back 3\n")
    assert run(address, topic, "--wait-ms", "300")[0] == []
    connection = connect(address)
    try:
        again = receive(connection.consumer([topic], "worker", Share.STANDBY, 10), 3)
        assert [Message(each.payload, each.event_ms, each.key, dict(each.properties)) for each in again] == messages
    finally:
        connection.close()
    with Compute(
        lambda only: only, address, "worker", topic_in=topic, topic_out=f"{topic}-out", idle_timeout_ms=2000
    ) as compute:
        assert [next(compute) for _ in messages] == [b"\x00\xff"] * 3


def test_a_letter_that_fails_again_is_a_letter_again(address: Address, topic: str) -> None:
    make_letters(address, topic, [example(1)])
    run(address, topic, "--put-back")
    make_letters(address, topic, [])
    with Compute(fail, address, "worker", topic_in=topic, topic_out=f"{topic}-out", on_error="dead_letter") as compute:
        next(compute)
    (record,), _ = run(address, topic)
    assert base64.b64decode(record["data"]) == example(1).payload
    assert record["properties"] == dict(example(1).properties)


def test_what_is_deleted_is_what_was_listed(address: Address, topic: str) -> None:
    messages = [example(number) for number in (1, 2, 3)]
    make_letters(address, topic, messages)
    records, said = run(address, topic, "--delete", "--limit", "2")
    assert ([record["capture_ms"] for record in records], said) == ([CAPTURE_MS + 1, CAPTURE_MS + 2], "deleted 2\n")
    assert [record["capture_ms"] for record in run(address, topic)[0]] == [CAPTURE_MS + 3]


def test_a_limit_puts_back_the_oldest_and_leaves_the_others(address: Address, topic: str) -> None:
    make_letters(address, topic, [example(number) for number in (1, 2, 3)])
    assert [record["capture_ms"] for record in run(address, topic, "--limit", "2")[0]] == [
        CAPTURE_MS + 1,
        CAPTURE_MS + 2,
    ]
    assert run(address, topic, "--put-back", "--limit", "1")[1] == "put back 1\n"
    assert [record["capture_ms"] for record in run(address, topic)[0]] == [CAPTURE_MS + 2, CAPTURE_MS + 3]


def test_malformed_messages_are_letters_with_their_bytes(address: Address, topic: str) -> None:
    connection = connect(address)
    send(connection.producer(topic), [b"short", Message(b"\xc1", properties={"edgeserve-pack": "1"})])
    connection.close()
    with Materialize(lambda payload: payload, address, topic=topic) as sink:
        next(sink)
        next(sink)
    first, second = run(address, topic)[0]
    assert (base64.b64decode(first["data"]), first["operator"]) == (b"short", "my-sub")
    assert first["error"].startswith("MalformedMessage: a message of 5 bytes is shorter")
    assert (base64.b64decode(second["data"]), second["properties"]) == (b"\xc1", {"edgeserve-pack": "1"})


def test_a_topic_without_letters_is_said_to_have_none(address: Address, topic: str) -> None:
    connection = connect(address)
    connection.consumer([topic], "reader", Share.STANDBY, 10).close()
    connection.close()
    for options in ([], ["--put-back"], ["--delete"]):
        records, said = run(address, topic, "--wait-ms", "200", *options)
        assert records == []
        assert said.startswith(f"no dead letters of topic {topic} at ")


def test_ctrl_c_in_the_middle_loses_no_letter(address: Address, topic: str) -> None:
    make_letters(address, topic, [example(1), example(2)])
    arguments = ("dead-letters", topic, "--json", "--delete", "--wait-ms", "40000", "--pulsar", at(address)[1])
    with start_edgeserve(*arguments) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2)]
            process.send_signal(signal.SIGINT)
            _, talk = process.communicate(timeout=30)
        finally:
            process.kill()
    assert [json.loads(line)["capture_ms"] for line in lines] == [CAPTURE_MS + 1, CAPTURE_MS + 2]
    assert (process.returncode, talk) == (130, "interrupted\n")
    assert len(run(address, topic)[0]) == 2


def test_two_at_once_do_not_share_the_letters(address: Address, topic: str) -> None:
    make_letters(address, topic, [example(1)])
    connection = connect(address)
    try:
        consumer = connection.consumer([f"{topic}-dead-letters"], "dead-letters", Share.STANDBY, 10)
        receive(consumer, 1)
        done = edgeserve("dead-letters", topic, "--pulsar", at(address)[1])
        assert (done.returncode, done.stdout) == (1, "")
        assert "somebody else" in done.stderr
    finally:
        connection.close()
    assert len(run(address, topic)[0]) == 1


def test_other_subscriptions_of_the_topic_get_what_is_put_back_too(address: Address, topic: str) -> None:
    connection = connect(address)
    try:
        other = connection.consumer([topic], "other", Share.STANDBY, 10)
        make_letters(address, topic, [example(1)])
        other.acknowledge(receive(other, 1))
        run(address, topic, "--put-back")
        assert [each.payload for each in receive(other, 1)] == [example(1).payload]
        assert rest(other) == []
    finally:
        connection.close()


def test_looking_where_there_is_nothing_makes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mistyped"
    done = edgeserve("dead-letters", "room", "--pulsar", f"local://{folder}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no local broker" in done.stderr
    assert not folder.exists()


def test_a_topic_that_is_not_there_is_refused_and_not_made(tmp_path: Path) -> None:
    broker = LocalAddress(str(tmp_path))
    connection = connect(broker)
    connection.producer("room").close(1000)
    for topic, said in (("rom", "there is no topic"), ("a/b", "no topic's name"), ("", "at least one character")):
        done = edgeserve("dead-letters", topic, *at(broker))
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert edgeserve("dead-letters", "room", *at(broker)).returncode == 0
    assert [info.name for info in connection.topics()] == ["room"]
    connection.close()


@pytest.mark.parametrize("options", [["--put-back", "--delete"], ["--limit", "0"], ["--wait-ms", "0"]])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: list[str]) -> None:
    done = edgeserve("dead-letters", "room", *options, "--pulsar", f"local://{tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("capture_ms", [None, 1, (1 << 63) - 1, (1 << 64) - 1])
def test_any_capture_time_can_be_shown(capture_ms: int | None) -> None:
    delivery = Delivery(None, "t-dead-letters", "1", b"", capture_ms, 1, None, {"edgeserve-error": "[red]\x1b[31m"})
    letter = DeadLetter.of(delivery)
    assert letters_table([letter]).row_count == 1
    assert json.loads(json.dumps(letter_record(letter)))["capture_ms"] == capture_ms


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert shown("\x1b[31mé\n") == r"\x1b[31m\xe9\n"
    assert shown("é") == "é"
