"""A gate that sends several outputs as one."""

from __future__ import annotations

from edgeserve.errors import UsageError

__all__ = ["Window"]


class Window:
    """Collects outputs and lets them leave together, as the text of a Python list.

    Give its `gate_out` to an operator. It keeps what it has collected in memory, for one operator, and a
    window that is not full when the operator stops is not sent.

    Args:
        size: How many outputs make a window, 1 or more.

    Raises:
        UsageError: `size` is below 1 or not a whole number.
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"the size of a window is a whole number, 1 or more, not {size!r}")
        self.size = size
        self._collected: list[object] = []

    def gate_out(self, data: object) -> bytes:
        """Take one output.

        Returns:
            b"" (which sends nothing) until there are `size` of them, then `str()` of their list in UTF-8.
        """
        self._collected.append(data)
        if len(self._collected) < self.size:
            return b""
        full, self._collected = self._collected, []
        return str(full).encode("utf-8")
