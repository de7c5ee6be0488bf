"""Commands in shell blocks: what each has to be for a reader who types it."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.blocks import REPOSITORY

_OPERATORS = ("&&", "&", ";")


@dataclass
class Command:
    """One command.

    Attributes:
        words: Its program and arguments.
        environment: Variables that are set for it alone.
    """

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def commands(code: str) -> list[Command]:
    """The commands of a shell block, in order."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&;")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if word not in _OPERATORS:
                words.append(word)
            elif words:
                found.append(_command(words))
                words = []
    return found


def _command(words: list[str]) -> Command:
    environment = {}
    while re.fullmatch(r"\w+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return Command(words, environment)


def check_edgeserve(words: list[str]) -> None:
    """The real command line knows the command and its options."""
    done = subprocess.run(
        [sys.executable, "-m", "edgeserve", *words[1:], "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def check_pytest(words: list[str]) -> None:
    """Pytest takes the options, with this project's settings, and the paths are there."""
    for word in words[1:]:
        assert "/" not in word or (REPOSITORY / word.partition("::")[0]).exists(), f"there is no {word}"
    options = [word for word in words[1:] if "/" not in word]
    nothing = "tests/docs/__init__.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--collect-only", "-q", "-p", "no:cacheprovider", nothing],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode in (0, 5), done.stdout + done.stderr  # 5: there are no tests in that file


def check_pip(words: list[str]) -> None:
    """A `pip install` line names extras that there are."""
    assert words[1] == "install", words
    declared = extras_of_this_project()
    for word in words[2:]:
        found = re.fullmatch(r"(?:\.|edgeserve)\[([\w,]+)\]", word)
        assert found or word in ("-e", ".", "edgeserve"), f"{word} is nothing that this project installs"
        if found:
            assert set(found[1].split(",")) <= set(declared), f"{word}: the extras are {sorted(declared)}"


def check_tool(words: list[str]) -> None:
    """A developer's tool is one that the extra `dev` installs."""
    packages = {"lint-imports": "import-linter", "mkdocs": "mkdocs-material"}
    package = packages.get(words[0], words[0])
    extras = extras_of_this_project()
    wanted = " ".join(extras["dev"] + extras["docs"] + extras["test"])
    assert re.search(rf"(^|[ ]){re.escape(package)}\b", wanted), f"{words[0]} is not installed by edgeserve[dev]"


def check_module(name: str) -> None:
    """A `python -m` line names a module that there is."""
    assert importlib.util.find_spec(name) is not None, f"there is no module {name}"


def check_docker_compose(words: list[str]) -> None:
    """A `docker compose` line meets the file, and the services that it names."""
    assert words[1] == "compose", words
    text = (REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")
    known = {"up", "down", "logs", "config", "build"}
    services = set(re.findall(r"^  (\w+):$", text, re.M))
    for word in words[2:]:
        assert word.startswith("-") or word in known | services, f"{word} is no service of docker-compose.yml"


def extras_of_this_project() -> dict[str, list[str]]:
    """What pyproject.toml says can be installed beside the package. Python 3.10 has no reader of TOML."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = (\[.*?\])$", section, re.M | re.S)
    return {name: re.findall(r'"([^"]+)"', items) for name, items in extras}


def script_of(command: Command, folder: Path) -> Path | None:
    """The script in `folder` that a command runs; None if it runs something else."""
    if command.words[0] == "python" and len(command.words) > 1 and (folder / command.words[1]).is_file():
        return folder / command.words[1]
    return None
