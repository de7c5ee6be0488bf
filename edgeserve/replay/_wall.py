"""The steady clock of a run, told in ms since the epoch."""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve._log.reading import Block

# Clocks are read in whole ms: below this, two blocks differ by nothing but that.
SAME_CLOCK_MS = 2.0


@dataclass
class Wall:
    """Tells steady times in ms since the epoch.

    Attributes:
        offset_ms: What is added to them.
    """

    offset_ms: float | None = None

    def meet(self, block: Block) -> float:
        """The offset at a block: the largest there was, as clocks are read rounded down, unless the clock was set."""
        offset_ms = block.wall_ms - block.steady_ms
        known = self.offset_ms
        if known is None or abs(offset_ms - known) > SAME_CLOCK_MS or offset_ms > known:
            self.offset_ms = known = offset_ms
        return known
