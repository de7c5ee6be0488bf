"""The command line's one door: which commands there are, and how an error leaves.

Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 it failed, 2 it was called wrongly, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import edgeserve
from edgeserve.cli.dead_letters import dead_letters_command
from edgeserve.cli.demo.command import demo_command
from edgeserve.cli.ftp import ftp_command
from edgeserve.cli.log import show_log
from edgeserve.cli.replay import replay_command
from edgeserve.cli.top import top_command
from edgeserve.cli.topics import topics_command
from edgeserve.errors import EdgeServeError, UsageError

app = typer.Typer(
    name="edgeserve",
    no_args_is_help=True,
    add_completion=False,
    # An unexpected error is a defect, and its plain traceback says most about it.
    pretty_exceptions_enable=False,
)
app.command("demo")(demo_command)
app.command("topics")(topics_command)
app.command("dead-letters")(dead_letters_command)
app.command("replay")(replay_command)
app.command("ftp")(ftp_command)
app.command("top")(top_command)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"edgeserve {edgeserve.__version__}")
        raise typer.Exit


@app.callback()
def edgeserve_command(
    version: Annotated[  # noqa: ARG001 - its callback is called
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Show more of the log: -v events, -vv everything.")
    ] = 0,
) -> None:
    """Predictions from live data on many machines."""
    show_log(verbose)


def main() -> None:
    """Run the command of this process's arguments, and exit."""
    try:
        app()
    except EdgeServeError as error:
        # One line, whatever the message was made of: it may quote what another program said.
        typer.echo(f"edgeserve: {' '.join(str(error).split())}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
