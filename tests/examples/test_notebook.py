"""The notebook runs from top to bottom, and the repository's has the outputs that it should have."""

from __future__ import annotations

import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.examples.execute_notebook import NOTEBOOK, executed, read

# Where people keep things, and what a run calls its topics and its examples.
PATHS_AND_IDS = re.compile(
    r"(?<![\w<.])/(?:home|root|tmp|Users|private|var|usr|opt|mnt)/|[A-Za-z]:\\|edgeserve-demo-|\b[0-9a-f]{32}\b"
)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: NotebookNode) -> Iterator[str]:
    """What a cell said in words."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (text for kind, text in output.data.items() if kind.startswith("text/"))


def shape(cell: NotebookNode) -> list[tuple[str, ...]]:
    """Which kinds of outputs a cell has."""
    return [
        ("stream", output.name) if output.output_type == "stream" else (output.output_type, *sorted(output.data))
        for output in cell.outputs
    ]


def traces(notebook: NotebookNode) -> list[str]:
    """What tells where it was executed."""
    said = "\n".join(text for cell in code_cells(notebook) for text in texts(cell))
    written = "\n".join(cell.source for cell in notebook.cells)
    here = [str(Path.home()), tempfile.gettempdir(), sys.prefix]
    # As a word of its own; that of a machine with the name of a sensor tells nothing.
    host = socket.gethostname()
    found = set(re.findall(r"[\w.-]+", said)) - set(re.findall(r"[\w.-]+", written))
    return [*PATHS_AND_IDS.findall(said), *(path for path in here if path in said), *({host} & found)]


@pytest.mark.timeout(300)  # ten seconds are streamed, a forest is asked 600 times
def test_the_notebook_runs_and_says_what_the_repositorys_says(tmp_path: Path) -> None:
    committed, now = read(), executed(tmp_path)
    assert [shape(cell) for cell in code_cells(committed)] == [shape(cell) for cell in code_cells(now)]
    assert ("stream", "stderr") not in [kind for cell in code_cells(now) for kind in shape(cell)]
    # These cells print what is the same in every run.
    stable = [place for place, cell in enumerate(code_cells(now)) if "stable" in cell.metadata.get("tags", ())]
    assert len(stable) >= 5
    for place in stable:
        assert list(texts(code_cells(committed)[place])) == list(texts(code_cells(now)[place]))
    assert traces(now) == []


def test_the_repositorys_notebook_was_executed_in_order_and_does_not_tell_where() -> None:
    notebook = read()
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert traces(notebook) == []
    assert {key for cell in notebook.cells for key in cell.metadata} <= {"tags"}
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert NOTEBOOK.stat().st_size < 400_000
