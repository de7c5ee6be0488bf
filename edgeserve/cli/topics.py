"""`edgeserve topics`: what a broker holds, and for whom."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeserve._broker.base import TopicInfo
from edgeserve._broker.connections import ConnectionLease
from edgeserve.address import LocalAddress
from edgeserve.cli.console import data_console, shown
from edgeserve.cli.options import PulsarOption, WebOption, broker_address
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table


def topics_command(
    pulsar: PulsarOption = None,
    web: WebOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line, one line a topic.")] = False,
    delete: Annotated[
        str | None,
        typer.Option(metavar="TOPIC[/SUBSCRIPTION]", help="Remove a topic with all it holds, or one subscription."),
    ] = None,
) -> None:
    """Show topics, who subscribes to them, and what those have still to read."""
    address = broker_address(pulsar, web)
    # Looking makes no folder, and a name that was mistyped is no empty broker.
    if isinstance(address, LocalAddress) and address.folder is not None and not address.folder.is_dir():
        if pulsar is not None or delete is not None:
            raise UsageError(f"there is no local broker at {address}: nothing has been sent there")
        typer.echo(f"no topics at {address}", err=True)
        return
    lease = ConnectionLease(address)
    try:
        topics = lease.connection.topics()
        if delete is not None:
            topic, subscription = find_target(topics, delete)
            lease.connection.delete(topic, subscription)
    finally:
        lease.close()
    if delete is not None:
        typer.echo(f"deleted {delete}", err=True)
    elif as_json:
        for info in topics:
            typer.echo(json.dumps(topic_record(info)))
    elif topics:
        data_console().print(topics_table(topics))
    else:
        typer.echo(f"no topics at {lease.address}", err=True)


def find_target(topics: Sequence[TopicInfo], given: str) -> tuple[str, str | None]:
    """What TOPIC[/SUBSCRIPTION] means, where topics may have slashes in their names themselves.

    Returns:
        The topic, and its subscription or None.

    Raises:
        UsageError: It means nothing that is there, or two things.
    """
    meant: list[tuple[str, str | None]] = []
    for topic in topics:
        if topic.name == given:
            meant.append((topic.name, None))
        meant.extend((topic.name, one.name) for one in topic.subscriptions if f"{topic.name}/{one.name}" == given)
    if not meant:
        raise UsageError(f"there is no topic, and no subscription of one, that is named {given!r}")
    if len(meant) > 1:
        raise UsageError(f"{given!r} is a topic and also a subscription of one: it can't be told which to delete")
    return meant[0]


def topic_record(topic: TopicInfo) -> dict[str, Any]:
    """A topic as `--json` shows it: the fields of `TopicInfo`, with the subscriptions as objects."""
    return topic._asdict() | {"subscriptions": [subscription._asdict() for subscription in topic.subscriptions]}


def topics_table(topics: Sequence[TopicInfo]) -> Table:
    """A row for each subscription, under its topic."""
    from rich import box
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("topic", "subscription"):
        table.add_column(heading, overflow="fold")
    for heading in ("messages", "size", "backlog", "backlog size", "consumers"):
        table.add_column(heading, justify="right")
    for topic in topics:
        held = ("" if topic.messages is None else f"{topic.messages:,}", decimal(topic.size_bytes))
        if not topic.subscriptions:
            table.add_row(shown(topic.name), "", *held)
        for place, subscription in enumerate(topic.subscriptions):
            backlog_bytes = subscription.backlog_bytes
            table.add_row(
                shown(topic.name) if place == 0 else "",
                shown(subscription.name),
                *(held if place == 0 else ("", "")),
                f"{subscription.backlog_messages:,}",
                "" if backlog_bytes is None else decimal(backlog_bytes),
                str(subscription.consumers),
            )
    return table
