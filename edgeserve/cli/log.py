"""What the commands show of the log: warnings, and with `-v` more."""

from __future__ import annotations

import logging

import typer

from edgeserve._logging import logger

_LEVELS = (logging.CRITICAL, logging.WARNING, logging.INFO, logging.DEBUG)


class _Talk(logging.Handler):
    """Writes to what stderr is at the moment, which a display of progress takes the place of."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            typer.echo(self.format(record), err=True)
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


_talk = _Talk()
_talk.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


def show_log(verbosity: int) -> None:
    """Show warnings on stderr; with 1 events, too, with 2 or more everything.

    Pulsar's client is one step behind: what it complains of, a command says itself, in a line.
    """
    package = logger()
    package.addHandler(_talk)
    package.setLevel(_LEVELS[min(verbosity + 1, 3)])
    logger("broker.pulsar.client").setLevel(_LEVELS[min(verbosity, 3)])
