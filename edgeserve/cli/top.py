"""`edgeserve top`: what the operators of this machine are doing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._status import LOOK_S, SWITCH, ask, read_statuses, status_folder
from edgeserve.cli.console import data_console, shown
from edgeserve.errors import EdgeServeError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# A process looks once whether it is watched, and has a rate when it looks again.
_FIRST_MS = 2500 * LOOK_S
_EVERY_MS = 1000 * LOOK_S
_SILENT_S = 3 * LOOK_S

_HEADINGS = (
    "operator",
    "class",
    "pid",
    "topics",
    "received/s",
    "sent/s",
    "step p50",
    "step p99",
    "e2e p50",
    "e2e p99",
    "queue",
    "held",
    "unconfirmed",
    "fates",
)
# Where the terminal is narrow, several stand in one column, one above the other.
_STACKED = (
    ("operator", "class", "pid"),
    ("topics", "fates"),
    ("received/s", "sent/s"),
    ("step p50", "step p99"),
    ("e2e p50", "e2e p99"),
    ("queue", "held", "unconfirmed"),
)
_WIDE_COLUMNS = 150
_CLASS_COLUMNS = len("BatchCompute")
_TEXTS = ("operator", "class", "pid", "topics", "fates")


def top_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="One object a line, one line an operator; once, and then end.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once, after some seconds, and end.")] = False,
) -> None:
    """Show the operators of this user on this machine: rates, durations, queues, and what became of the inputs.

    It goes on until it is interrupted; where stdout is no terminal, it shows them once.
    """
    try:
        console = data_console()
        if as_json or once or not console.is_terminal:
            _show_once(console, as_json=as_json)
        else:
            _show_live(console)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


def _show_once(console: Console, *, as_json: bool) -> None:
    until_ms = steady_ms() + _FIRST_MS
    while (left_ms := until_ms - steady_ms()) > 0:
        _ask()
        pause_ms(min(_EVERY_MS, left_ms))
    operators = read_statuses()
    if as_json:
        for operator in operators:
            typer.echo(json.dumps(operator))
    elif operators:
        console.print(operators_table(operators, console.width))
    else:
        typer.echo(_nobody(), err=True)


def _show_live(console: Console) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:
        while True:
            _ask()
            operators = read_statuses()
            live.update(operators_table(operators, console.width) if operators else _nobody(), refresh=True)
            pause_ms(_EVERY_MS)


def _ask() -> None:
    try:
        ask()
    except OSError as error:
        raise EdgeServeError(f"the operators can't be asked through {status_folder()}: {error}") from error


def _nobody() -> str:
    return f"no operator is open in a process of this user's that has {status_folder().parent}, and not {SWITCH}=off"


def operators_table(operators: Sequence[Mapping[str, Any]], width: int) -> Table:
    """A row for each operator, as wide as the terminal has columns."""
    from rich import box
    from rich.table import Table

    groups: Sequence[Sequence[str]] = [(each,) for each in _HEADINGS] if width >= _WIDE_COLUMNS else _STACKED
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for group in groups:
        is_text = group[0] in _TEXTS
        table.add_column(
            "\n".join(group),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
            min_width=_CLASS_COLUMNS if "class" in group else None,
        )
    for operator in operators:
        cells = _cells(operator)
        table.add_row(*("\n".join(cells[heading] for heading in group) for group in groups))
    return table


def _cells(operator: Mapping[str, Any]) -> dict[str, str]:
    name = shown(operator["operator"])
    if operator["silent_s"] > _SILENT_S:
        name += f" (silent for {operator['silent_s']:.0f} s)"
    return {
        "operator": name,
        "class": operator["class"],
        "pid": str(operator["pid"]),
        "topics": shown(_topics(operator)),
        "received/s": _rate(operator["received_per_s"]),
        "sent/s": _rate(operator["sent_per_s"]),
        "step p50": _duration(operator["step_p50_ms"]),
        "step p99": _duration(operator["step_p99_ms"]),
        "e2e p50": _duration(operator["end_to_end_p50_ms"]),
        "e2e p99": _duration(operator["end_to_end_p99_ms"]),
        "queue": f"{operator['queued']:,}",
        "held": f"{operator['held']:,}",
        "unconfirmed": f"{operator['unconfirmed']:,}",
        "fates": ", ".join(f"{count:,} {fate}" for fate, count in operator["fates"].items()),
    }


def _topics(operator: Mapping[str, Any]) -> str:
    ends = [", ".join(operator["topics_in"]), ", ".join(operator["topics_out"])]
    return " → ".join(end for end in ends if end) if all(ends) or ends[0] else f"→ {ends[1]}"


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return ""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:,.1f}"


def _duration(duration_ms: float | None) -> str:
    """To two digits, as histograms know no more."""
    if duration_ms is None:
        return ""
    for unit, size_ms in (("s", 1000.0), ("ms", 1.0)):
        if duration_ms >= size_ms:
            return f"{_two_digits(duration_ms / size_ms)} {unit}"
    return f"{_two_digits(duration_ms * 1000)} µs"


def _two_digits(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{float(f'{number:.2g}'):,.0f}"
