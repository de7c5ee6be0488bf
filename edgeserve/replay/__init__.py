"""Replay logs: what was joined with what, when, how late, and what was dropped.

Operators write them with `log_path=`. `load` reads them as tables, `run` runs them again with another task or other
knobs, `grid` tries many, and `suggest` chooses.
"""

from __future__ import annotations

from edgeserve.replay._again import run
from edgeserve.replay._clocks import ClockPair
from edgeserve.replay._grid import Grid, grid
from edgeserve.replay._log import ReplayLog, load
from edgeserve.replay._operators import OperatorRun
from edgeserve.replay._suggest import Suggestion, suggest

__all__ = ["ClockPair", "Grid", "OperatorRun", "ReplayLog", "Suggestion", "grid", "load", "run", "suggest"]
