"""The `edgeserve` command as a user runs it: in a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from edgeserve.address import LocalAddress, PulsarAddress
from edgeserve.cli import main

# Warnings are errors there too.
_COMMAND = (sys.executable, "-W", "error", "-m", "edgeserve")


def edgeserve(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*_COMMAND, *arguments],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        env=_environment(env),
    )


def edgeserve_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end in this process, which has loaded already what it needs."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgeserve", *arguments])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main()
    return subprocess.CompletedProcess(arguments, int(end.value.code or 0), out.getvalue(), err.getvalue())


def start_edgeserve(*arguments: str) -> subprocess.Popen[str]:
    """Start the command; who does so waits for it."""
    return subprocess.Popen(
        [*_COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=_environment(None),
    )


def at(address: LocalAddress | PulsarAddress) -> list[str]:
    """The options that name a broker."""
    if isinstance(address, LocalAddress):
        return ["--pulsar", str(address)]
    return ["--pulsar", address.url, *(["--web", address.web_url] if address.web_url else [])]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONIOENCODING": "utf-8", **(extra or {})}
