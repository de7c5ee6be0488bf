"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from edgeserve.address import LocalAddress, PulsarAddress, parse_address
from edgeserve.errors import UsageError

PulsarOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="pulsar://HOST:PORT or local://PATH. Default: the local broker."),
]
WebOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Pulsar's HTTP interface. Default: port 8080 of the same host."),
]


def broker_address(pulsar: str | None, web: str | None) -> PulsarAddress | LocalAddress:
    """The broker that `--pulsar` and `--web` name.

    Raises:
        UsageError: It is no address, or `--web` is given for a broker that has none.
    """
    address = parse_address(pulsar)
    if web is None:
        return address
    if not isinstance(address, PulsarAddress):
        raise UsageError(f"--web is for Apache Pulsar; the broker is {address}")
    return PulsarAddress(address.url, web_url=web)
