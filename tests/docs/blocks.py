"""The code blocks of a Markdown page, and what is to be done with each.

A block that talks to an Apache Pulsar has this comment on a line of its own before it, and runs where a test may use
one:

    <!-- needs Apache Pulsar -->

A block without a language, with one that no test knows, or with any other comment before it fails: no block is passed
over in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,})(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)(?P=fence) *$", re.M | re.S
)
_COMMENT = re.compile(r"<!-- (.+?) -->\s*\Z", re.S)
_TITLE = re.compile(r'title="([^"]*)"')
_NEEDS_PULSAR = "needs Apache Pulsar"


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: The file, as a path from the repository.
        line: The line of its first line of code, from 1.
        language: The first word after the fence.
        title: What `title="…"` says; None without.
        code: What is in it.
        needs_pulsar: Whether it talks to an Apache Pulsar.
    """

    page: str
    line: int
    language: str
    title: str | None
    code: str
    needs_pulsar: bool

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page for users and contributors, as a path from the repository."""
    found = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("examples/**/*.md")]
    return sorted(page.relative_to(REPOSITORY).as_posix() for page in found)


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        ValueError: A fence has no end, a block no language, or a comment before it says something unknown.
    """
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return blocks_in(text, page)


def blocks_in(text: str, page: str) -> list[Block]:
    """The blocks of a text that stands for `page`."""
    fences = list(_FENCE.finditer(text))
    if len(re.findall(r"^ *```", text, re.M)) != 2 * len(fences):
        raise ValueError(f"{page}: a code block has no end")
    found = []
    for fence in fences:
        line = text.count("\n", 0, fence.start()) + 2
        words = fence["info"].split()
        if not words:
            raise ValueError(f"{page}:{line}: a code block without a language")
        title = _TITLE.search(fence["info"])
        said = _COMMENT.search(text, 0, fence.start())
        comment = said[1] if said else None
        if comment not in (None, _NEEDS_PULSAR):
            raise ValueError(f"{page}:{line}: <!-- {comment} --> says nothing that is known")
        found.append(
            Block(
                page,
                line,
                words[0],
                title[1] if title else None,
                re.sub(f"^{fence['indent']}", "", fence["code"], flags=re.M),
                comment == _NEEDS_PULSAR,
            )
        )
    return found
