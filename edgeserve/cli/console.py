"""Where the commands write: data on stdout, talk on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough that no table is cut or folded where it goes to a file or another program.
_UNBOUNDED = 10_000


def data_console() -> Console:
    """Stdout. Where it is no terminal, lines are as long as they need to be."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def talk_console() -> Console:
    """Stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
