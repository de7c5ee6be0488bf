from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own for what workers keep: they remember what ran."""
    monkeypatch.setenv("EDGESERVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The file to which scripts add a line when they run."""
    path = tmp_path / "ran"
    path.touch()
    return path
