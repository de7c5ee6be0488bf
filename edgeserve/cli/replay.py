"""`edgeserve replay`: what operators' replay logs say, as tables or as a page with pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeserve.cli.console import data_console, shown
from edgeserve.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from edgeserve.cli.replay_report import Report, Section


def replay_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Folders with replay logs, or their files, of one run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The numbers as one object.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one page with tables and pictures; needs the extra plots."),
    ] = None,
    operator: Annotated[str | None, typer.Option(metavar="NAME", help="One operator. Default: all.")] = None,
) -> None:
    """Show what operators with log_path= received, made and dropped, how late they were, and why.

    Logs of operators that are running still, or were killed, are read as far as they go.
    """
    from edgeserve import replay
    from edgeserve.cli.replay_report import Report

    try:
        report = Report(replay.load(paths), operator)
        if html is not None:
            _write(html, report)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(report.as_json(), default=str))
    else:
        _print(report)


def _write(path: Path, report: Report) -> None:
    from edgeserve.cli.replay_page import page

    text = page(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--html: {path} can't be written: {error.strerror or error}") from error
    typer.echo(f"wrote {path}", err=True)


def _print(report: Report) -> None:
    console = data_console()
    console.print(shown(report.heading()))
    for section in report.sections():
        console.print()
        console.print(_table(section))
    if notes := report.notes():
        console.print()
        for note in notes:
            console.print(f"- {shown(note)}")


def _table(section: Section) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=section.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for place, heading in enumerate(section.headings):
        if place < section.words:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in section.rows:
        table.add_row(*map(shown, row))
    return table
