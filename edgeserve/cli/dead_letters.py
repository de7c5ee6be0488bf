"""`edgeserve dead-letters`: what operators gave up on a topic, and why."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetter, DeadLetterBox, dead_letter_topic
from edgeserve._broker.local.names import topic_name
from edgeserve.address import LocalAddress
from edgeserve.cli.console import data_console, shown
from edgeserve.cli.options import PulsarOption, broker_address
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

_PUT_BACK_MS = 30_000


def dead_letters_command(
    topic: Annotated[str, typer.Argument(help="The topic whose messages failed.")],
    pulsar: PulsarOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, the bytes as base64.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to list at most.")] = 100,
    put_back: Annotated[
        bool,
        typer.Option(
            "--put-back",
            help="Send what is listed to TOPIC again, as it was. All operators that read TOPIC get it again, with the "
            "same id: also those that have served it.",
        ),
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    wait_ms: Annotated[int, typer.Option(min=1, help="How long to wait for a further one.")] = 1000,
) -> None:
    """List the messages that could not be served, oldest first, and why.

    They stay unless they are put back or deleted. What is put back reaches every subscription of the topic: other
    operators that read it see it again, with the same id.
    """
    if put_back and delete:
        raise UsageError("--put-back and --delete exclude each other: what is put back is removed here")
    address = broker_address(pulsar, None)
    # Looking makes no folder, as in `edgeserve topics`.
    if isinstance(address, LocalAddress) and address.folder is not None and not address.folder.is_dir():
        raise UsageError(f"there is no local broker at {address}: nothing has been sent there")
    try:
        with ExitStack() as closing:
            lease = ConnectionLease(address)
            closing.callback(lease.close)
            if isinstance(address, LocalAddress) and not _has_letters(lease, topic):
                letters: Sequence[DeadLetter] = ()
            else:
                box = DeadLetterBox(lease.connection, str(address), topic)
                closing.callback(box.close)
                letters = _list(box, limit, wait_ms, as_json=as_json)
            if not letters:
                typer.echo(f"no dead letters of topic {topic} at {address}", err=True)
            elif put_back:
                box.put_back(letters, _PUT_BACK_MS)
                typer.echo(f"put back {len(letters)}", err=True)
            elif delete:
                box.delete(letters)
                typer.echo(f"deleted {len(letters)}", err=True)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


def _has_letters(lease: ConnectionLease, topic: str) -> bool:
    """Whether a topic of the local broker has ever had dead letters.

    Raises:
        UsageError: There is no such topic.
    """
    names = {info.name for info in lease.connection.topics()}
    if topic_name(dead_letter_topic(topic)) in names:
        return True
    if topic_name(topic) not in names:
        raise UsageError(f"there is no topic {topic!r} at {lease.address}")
    return False


def _list(box: DeadLetterBox, limit: int, wait_ms: int, *, as_json: bool) -> Sequence[DeadLetter]:
    """Show the letters, and return what was shown."""
    letters: list[DeadLetter] = []
    for letter in islice(box.read(wait_ms), limit):
        letters.append(letter)
        if as_json:
            typer.echo(json.dumps(letter_record(letter)))
    if letters and not as_json:
        data_console().print(letters_table(letters))
    return letters


def letter_record(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as `--json` shows it."""
    return {
        "error": letter.error,
        "operator": letter.operator,
        "topic": letter.topic,
        "message_id": letter.message_id,
        "capture_ms": letter.capture_ms,
        "size_bytes": len(letter.data),
        "key": letter.delivery.key,
        "properties": dict(letter.properties),
        "data": base64.b64encode(letter.data).decode("ascii"),
    }


def letters_table(letters: Sequence[DeadLetter]) -> Table:
    """A row for each letter."""
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("error", "operator", "topic", "message", "captured"):
        table.add_column(heading, overflow="fold")
    table.add_column("size", justify="right")
    for letter in letters:
        texts = (letter.error, letter.operator, letter.topic, letter.message_id)
        table.add_row(*map(shown, texts), _moment(letter.capture_ms), decimal(len(letter.data)))
    return table


def _moment(capture_ms: int | None) -> str:
    """A capture time in UTC; as the number it is, where no calendar goes so far."""
    if capture_ms is None:
        return ""
    try:
        moment = datetime.datetime.fromtimestamp(capture_ms / 1000, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{capture_ms} ms"
    return moment.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + "Z"
