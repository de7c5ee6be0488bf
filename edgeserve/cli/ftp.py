"""`edgeserve ftp`: let others at the payloads of this node."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from edgeserve._core.clock import steady_ms
from edgeserve.errors import UsageError
from edgeserve.routing.ftp_server import FtpServer
from edgeserve.routing.retention import Keep, Retention

_GIB = 1 << 30
_HOUR_MS = 3_600_000
_TRIM_S = 1.0

PASSWORD_VARIABLE = "EDGESERVE_FTP_PASSWORD"  # noqa: S105 - its name, not the password


def ftp_command(
    path: Annotated[Path, typer.Argument(help="The folder to serve; it is made where there is none.")],
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for any.", min=0, max=65535)] = 2121,
    name: Annotated[
        str | None, typer.Option(help="The name under which others reach this node. Default: HOST.")
    ] = None,
    passive_ports: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="The ports of data connections. Default: any.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help=f"Who may log in, with the password in ${PASSWORD_VARIABLE}. Default: anybody.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="A PEM file with certificate and key: serve over TLS (ftps://).")
    ] = None,
    allow_delete: Annotated[
        bool, typer.Option("--allow-delete", help="Let others delete payloads, as ftp_delete=True asks for.")
    ] = False,
    keep_gib: Annotated[
        float | None, typer.Option(help="Remove the oldest payloads beyond so many GiB. Default: never.", min=0)
    ] = None,
    keep_hours: Annotated[
        float | None, typer.Option(help="Remove payloads that are older. Default: never.", min=0)
    ] = None,
) -> None:
    """Serve a folder of payloads, read-only, until it is interrupted.

    With --keep-gib or --keep-hours every file in the folder counts, whoever wrote it.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    if user is not None and password is None:
        raise UsageError(f"--user needs a password in the environment variable {PASSWORD_VARIABLE}")
    is_over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_over.set())
    with FtpServer(
        path,
        host=host,
        port=port,
        name=name,
        passive_ports=_ports(passive_ports),
        user=user,
        password=password if user is not None else None,
        certificate=certificate,
        allow_delete=allow_delete,
    ) as server:
        typer.echo(server.url)
        keep = _keep(keep_gib, keep_hours)
        pause_s = _TRIM_S
        while not is_over.wait(pause_s):
            if keep is not None:
                started_ms = steady_ms()
                Retention(keep).adopt(server.path)
                # Looking through a large folder takes no more than a twentieth of the time.
                pause_s = max(_TRIM_S, 20 * (steady_ms() - started_ms) / 1000)


def _ports(text: str | None) -> range | None:
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 1 << 16):
        raise UsageError(f"--passive-ports is {text!r}: expected two ports, like 50000-50100")
    return range(int(first), int(last) + 1)


def _keep(gib: float | None, hours: float | None) -> Keep | None:
    if gib is None and hours is None:
        return None
    most = Keep(max_bytes=1 << 62, max_age_ms=1 << 62)
    return Keep(
        max_bytes=max(1, int(gib * _GIB)) if gib is not None else most.max_bytes,
        max_age_ms=int(hours * _HOUR_MS) if hours is not None else most.max_age_ms,
    )
