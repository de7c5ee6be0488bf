"""How long a sink remembers what it has served."""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve._core.checks import check_count, check_ms


@dataclass(frozen=True)
class Deduplicate:
    """How long a sink remembers what it has served; whichever bound is reached first.

    Attributes:
        max_ids: How many ids.
        max_age_ms: For how long.
    """

    max_ids: int = 1_000_000
    max_age_ms: int = 24 * 3600 * 1000

    def __post_init__(self) -> None:
        check_count("max_ids", self.max_ids)
        check_ms("max_age_ms", self.max_age_ms)
