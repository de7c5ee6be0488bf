"""Where the demo's replay logs are kept: the last few runs', each in a folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeserve._core.clock import wall_ms
from edgeserve.address import data_folder

_KEPT = 5


def new_log_folder(run_id: str) -> Path:
    """A folder for the logs of a run that begins now; those of all but the last few runs are removed."""
    runs = data_folder() / "demo-logs"
    if runs.is_dir():
        for old in sorted(each for each in runs.iterdir() if each.is_dir())[: 1 - _KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    # So that names sort by time.
    return runs / f"{wall_ms()}-{run_id}"
