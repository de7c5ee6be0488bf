"""Where the commands write: data on stdout, talk on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough that nothing is cut or folded where it goes to a file or another program.
_UNBOUNDED = 10_000


def data_console() -> Console:
    """Stdout."""
    return _console(is_stderr=False)


def talk_console() -> Console:
    """Stderr."""
    return _console(is_stderr=True)


def _console(*, is_stderr: bool) -> Console:
    from rich.console import Console

    # No markup: names of topics and folders may have brackets.
    console = Console(stderr=is_stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def shown(text: str) -> str:
    """Text from elsewhere as it can be shown: it may have control characters, which no terminal should get."""
    return text if text.isprintable() else ascii(text)[1:-1]
