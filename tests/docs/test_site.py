"""The site builds without a warning, and leaves out nothing that is public."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeserve
from edgeserve import Fate, errors
from edgeserve._broker.base import MAX_MESSAGE_BYTES
from tests.docs.blocks import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    missing = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (pip install 'edgeserve[docs]')")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def public_modules() -> list[str]:
    below = [name for _, name, _ in pkgutil.iter_modules(edgeserve.__path__) if not name.startswith("_")]
    return ["edgeserve", *(f"edgeserve.{name}" for name in below if name != "cli")]


def values_of(target: str) -> dict[str, object]:
    """What a line `::: target` of a page documents: one object, or all that a module makes public."""
    if target in public_modules():
        module = importlib.import_module(target)
        return {f"{target}.{name}": getattr(module, name) for name in module.__all__}
    module_name, _, name = target.rpartition(".")
    return {target: getattr(importlib.import_module(module_name), name)}


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("**/*.md"))
    targets = re.findall(r"^::: ([\w.]+)", text, re.M)
    documented = [value for target in targets for value in values_of(target).values()]
    public = {name: value for module in public_modules() for name, value in values_of(module).items()}
    assert not [name for name, value in public.items() if not any(value is one for one in documented)]


def test_every_fate_is_explained() -> None:
    text = (DOCS / "concepts" / "delivery.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `Fate\.(\w+)` \|", text, re.M) == [fate.name for fate in Fate]


def test_every_error_is_explained() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert {name for name in errors.__all__ if f"`{name}`" not in text} == set()


def test_the_largest_message_is_as_the_table_says() -> None:
    assert f"| {MAX_MESSAGE_BYTES:,} bytes |" in (DOCS / "concepts" / "brokers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_page_is_in_the_table_of_contents(page: Path) -> None:
    table = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    assert f": {page.relative_to(DOCS).as_posix()}\n" in table


@pytest.mark.parametrize("page", sorted(DOCS.glob("concepts/*.md")), ids=lambda page: page.name)
def test_a_page_says_what_is_needed_first_and_what_it_does_not_do_last(page: Path) -> None:
    headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.M)
    assert headings[0].startswith("What ")
    assert "needs" in headings[0] or "need" in headings[0]
    assert headings[-1].startswith("What ")
    assert "not" in headings[-1]
