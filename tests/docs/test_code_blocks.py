"""Every code block of README, docs and the other pages does what its page says.

The rules, which CONTRIBUTING.md tells authors:

- The blocks of one page run from top to bottom, in a folder and with a local broker of the page's own. Its `python`
  blocks share one namespace, as the cells of a notebook do.
- A `python` block with a file's name as its title is written to that file instead. If examples/ has a file of that
  name, the block is the same as that.
- A `bash` block that starts scripts of the page runs them at the same time, in the order in which they stand. Of any
  other command is checked what can be: that it exists, and that its options, extras, paths and services do.
- A `text` block with the title "Output" is what the block before it printed; with "NAME.py prints", what that script
  printed, and when it has, the scripts are told to end. Other `text` blocks are pictures.
- A block that needs Apache Pulsar says so in a comment before it (`blocks.py`). It is a test of its own, which is
  skipped, with the reason, where there is none.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import linecache
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ADDRESS
from tests.docs import shell
from tests.docs.blocks import REPOSITORY, Block, blocks_in, blocks_of, pages

PULSAR_IN_THE_DOCS = "pulsar://localhost:6650"

PAGES = [page for page in pages() if blocks_of(page)]
ALL = [block for page in PAGES for block in blocks_of(page)]


class Page:
    """A page that is being read: its folder, its namespace, and what the last block printed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._printed: dict[str, str] = {}

    def run(self, block: Block, after: Block | None) -> None:
        """Do what a block asks for; `after` is the one that follows it."""
        run = {"python": self._python, "bash": self._bash, "text": self._text}.get(block.language)
        assert run is not None, f"{block.place}: nobody knows what to do with {block.language!r}"
        run(block, after)

    def _python(self, block: Block, _: Block | None) -> None:
        if block.title is not None and block.title.endswith(".py"):
            example = REPOSITORY / "examples" / block.title
            if example.exists():
                assert block.code == example.read_text(encoding="utf-8"), f"{block.place} differs from {example}"
            (self._folder / block.title).write_text(block.code, encoding="utf-8")
            return
        # Empty lines before the code, so that errors name the line of the page.
        source = "\n" * (block.line - 1) + block.code
        linecache.cache[block.page] = len(source), None, source.splitlines(keepends=True), block.page
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, block.page, "exec"), self._namespace)
        self._printed = {"Output": printed.getvalue()}

    def _text(self, block: Block, _: Block | None) -> None:
        if block.title is not None:
            assert self._printed.get(block.title) == block.code, f"{block.place} shows what was not printed"

    def _bash(self, block: Block, after: Block | None) -> None:
        self._printed = {}
        scripts = []
        for command in shell.commands(block.code):
            if shell.script_of(command, self._folder) is not None:
                scripts.append(command)
            else:
                self._check(command)
        if scripts:
            shown = after if after is not None and after.language == "text" and after.title else None
            self._run_scripts(scripts, shown)

    def _check(self, command: shell.Command) -> None:
        program, words = command.words[0], command.words
        if program == "edgeserve":
            shell.check_edgeserve(words)
            if words[1] == "topics" and "--pulsar" not in words:
                done = subprocess.run(
                    [sys.executable, "-m", "edgeserve", *words[1:]], capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, done.stderr
                self._printed = {"Output": done.stdout}
        elif program == "pip":
            shell.check_pip(words)
        elif program == "pytest" and any((self._folder / word).is_file() for word in words[1:]):
            # Away from this project's settings, as a reader's project is.
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={self._folder}", *words[1:]],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        elif program == "pytest":
            shell.check_pytest(words)
        elif program == "docker":
            shell.check_docker_compose(words)
        elif program == "python" and words[1] == "-m":
            shell.check_module(words[2])
        elif program == "python":
            assert (REPOSITORY / words[1]).is_file(), f"there is no script {words[1]}"
        elif "/" in program:
            assert os.access(REPOSITORY / program, os.X_OK), f"there is no command {program}"
        else:
            shell.check_tool(words)

    def _run_scripts(self, commands: Sequence[shell.Command], shown: Block | None) -> None:
        with _started(commands, self._folder) as processes:
            if shown is None:
                for process in processes.values():
                    assert process.wait(30) == 0
                return
            name = (shown.title or "").removesuffix(" prints")
            assert name in processes, f"{shown.place}: no script {name} was started"
            output = processes[name].stdout
            assert output is not None
            lines = [output.readline() for _ in range(shown.code.count("\n"))]
            self._printed = {f"{name} prints": "".join(lines)}


@contextlib.contextmanager
def _started(commands: Sequence[shell.Command], folder: Path) -> Iterator[Mapping[str, subprocess.Popen[str]]]:
    """Scripts as processes, by name; in the end they are told to stop, and none may have failed."""
    with contextlib.ExitStack() as stack:
        processes = {}
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, "-W", "error", *command.words[1:]],
                cwd=folder,
                env={**os.environ, **command.environment},
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes[command.words[1]] = process
        yield processes
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {name: process.wait(30) for name, process in processes.items()}
        # A script that is about to exit when it is told may not catch the signal any more.
        assert set(codes.values()) <= {0, -signal.SIGTERM}, codes


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "edgeserve-home"))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    return Page(tmp_path)


@pytest.mark.parametrize("name", PAGES)
def test_the_blocks_of_a_page_do_what_it_says(name: str, page: Page) -> None:
    blocks = [block for block in blocks_of(name) if not block.needs_pulsar]
    for block, after in itertools.zip_longest(blocks, blocks[1:]):
        page.run(block, after)


@pytest.mark.parametrize("block", [block for block in ALL if block.needs_pulsar], ids=lambda block: block.place)
def test_a_block_that_needs_apache_pulsar_does_what_it_says(block: Block, page: Page) -> None:
    address = os.environ.get(ADDRESS)
    if address is None:
        pytest.skip(f"no Apache Pulsar: neither --apache-pulsar nor {ADDRESS} is given")
    assert PULSAR_IN_THE_DOCS in block.code, f"{block.place} needs Apache Pulsar and does not name {PULSAR_IN_THE_DOCS}"
    page.run(replace(block, code=block.code.replace(PULSAR_IN_THE_DOCS, address)), None)


def test_every_example_is_shown_on_a_page() -> None:
    shown = {block.title for block in ALL if block.language == "python"}
    # The longer ones are too long for a page.
    assert {example.name for example in (REPOSITORY / "examples").glob("*.py")} - {"two_cameras.py"} <= shown


def test_every_relative_link_of_the_pages_outside_docs_leads_somewhere() -> None:
    for name in (page for page in pages() if not page.startswith("docs/")):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert ((REPOSITORY / name).parent / target).exists(), f"{name} links to {target}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```\nx\n```\n", "without a language"),
        ("```python\nx\n", "no end"),
        ("<!-- sometimes -->\n```python\nx\n```\n", "nothing that is known"),
    ],
)
def test_a_block_that_would_be_passed_over_in_silence_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blocks_in(text, "page.md")


def test_a_block_is_found_with_its_line_title_and_comment() -> None:
    text = 'Text.\n\n<!-- needs Apache Pulsar -->\n\n```python title="a.py"\n1\n2\n```\n\n  ```text\n  x\n  ```\n'
    assert blocks_in(text, "page.md") == [
        Block("page.md", 6, "python", "a.py", "1\n2\n", True),
        Block("page.md", 11, "text", None, "x\n", False),
    ]


def test_a_block_whose_output_is_shown_wrongly_fails(tmp_path: Path) -> None:
    page = Page(tmp_path)
    first, second = blocks_in('```python\nprint(1)\n```\n\n```text title="Output"\n2\n```\n', "page.md")
    page.run(first, second)
    with pytest.raises(AssertionError, match="not printed"):
        page.run(second, None)


def test_the_lines_of_a_shell_block_are_told_apart() -> None:
    code = "# first\nA=1 python x.py 'a b' &\npip install \\\n  -e . && pytest  # all\n"
    found = [(command.environment, command.words) for command in shell.commands(code)]
    assert found == [
        ({"A": "1"}, ["python", "x.py", "a b"]),
        ({}, ["pip", "install", "-e", "."]),
        ({}, ["pytest"]),
    ]


@pytest.mark.parametrize("line", ["edgeserve demo --bogus", "edgeserve bogus"])
def test_a_command_that_edgeserve_does_not_have_is_found_out(line: str) -> None:
    with pytest.raises(AssertionError):
        shell.check_edgeserve(line.split())


def test_an_extra_that_does_not_exist_is_found_out() -> None:
    with pytest.raises(AssertionError, match="extras"):
        shell.check_pip(["pip", "install", ".[bogus]"])


def test_an_option_that_pytest_does_not_have_is_found_out() -> None:
    with pytest.raises(AssertionError):
        shell.check_pytest(["pytest", "--bogus"])
