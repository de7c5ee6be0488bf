"""The page of `edgeserve replay --html`: tables and pictures in one file, which needs nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING

from edgeserve._extras import require
from edgeserve.cli.console import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from edgeserve.cli.replay_report import Report, Section
    from edgeserve.replay._operators import LoggedOperator

_DPI = 144
_WIDE, _USUAL = (10.0, 4.0), (6.4, 4.8)

_STYLE = """\
:root { color-scheme: light dark; --edge: #8884; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --quiet: #aaa; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
p.quiet, footer { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--edge); padding: .25rem .8rem .25rem 0; text-align: left; white-space: pre; }
th { font-weight: 600; } .number { text-align: right; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
img { background: #fff; border: 1px solid var(--edge); border-radius: 6px; height: auto; max-width: 100%; }
"""


def page(report: Report) -> str:
    """The page, as text.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    title = f"Replay logs of {', '.join(each.name for each in report.operators)}"
    parts = [f"<h1>{_text(title)}</h1>", f'<p class="quiet">{_text(report.heading())}</p>']
    if notes := report.notes():
        parts.append(f"<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>")
    parts += [_section(section) for section in report.sections()]
    parts += [_pictures(report, each) for each in report.joining]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    def cells(tag: str, texts: Iterable[str]) -> str:
        made = []
        for place, text in enumerate(texts):
            number = ' class="number"' if place >= section.words else ""
            made.append(f"<{tag}{number}>{_text(text)}</{tag}>")
        return f"<tr>{''.join(made)}</tr>"

    rows = "\n".join(cells("td", row) for row in section.rows)
    return (
        f'<h2>{_text(section.title)}</h2>\n<div class="wide"><table>\n<thead>{cells("th", section.headings)}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _pictures(report: Report, of: LoggedOperator) -> str:
    log, name = report.log, of.name
    images = [
        _image(f"Time line of {name}", _WIDE, lambda ax: log.plot_timeline(name, ax=ax)),
        _image(f"Drops of {name} over time", _USUAL, lambda ax: log.plot_drops(name, ax)),
    ]
    if len(of.rows(log.predictions)):
        images.insert(1, _image(f"Latencies of {name}", _USUAL, lambda ax: log.plot_latencies(name, ax)))
    return f'<h2>{_text(name)}</h2>\n<div class="pictures">\n{chr(10).join(images)}\n</div>'


def _image(words: str, size_inches: tuple[float, float], draw: Callable[[Axes], Axes]) -> str:
    """A picture as part of the page."""
    figures = require("matplotlib.figure", "plots", "edgeserve replay --html")
    # Not of pyplot, which looks for a screen.
    figure = figures.Figure(figsize=size_inches, layout="constrained")
    data = BytesIO()
    with warnings.catch_warnings():
        # A name may have letters that the font has not: a box is drawn for each.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        draw(figure.add_subplot())
        figure.savefig(data, format="png", dpi=_DPI)
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    width = round(96 * size_inches[0])
    return f'<img alt="{_text(words)}" width="{width}" src="data:image/png;base64,{encoded}">'


def _text(text: str) -> str:
    """Text from anywhere, as it stands in the page."""
    return html.escape(shown(text))
