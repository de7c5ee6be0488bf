"""Outputs that leave together."""

from __future__ import annotations

import pytest

from edgeserve.errors import UsageError
from edgeserve.window import Window


def test_nothing_leaves_until_the_window_is_full_and_then_it_starts_anew() -> None:
    window = Window(3)
    sent = [window.gate_out(data) for data in (1, "é", b"x", None, 0, "")]
    assert sent == [b"", b"", "[1, 'é', b'x']".encode(), b"", b"", b"[None, 0, '']"]


def test_a_window_of_one_sends_every_output() -> None:
    window = Window(1)
    assert [window.gate_out(data) for data in (0, [])] == [b"[0]", b"[[]]"]


def test_two_windows_collect_for_themselves() -> None:
    one, other = Window(2), Window(2)
    assert one.gate_out("a") == b""
    assert other.gate_out("b") == b""
    assert one.gate_out("c") == b"['a', 'c']"


def test_an_output_that_cannot_be_shown_does_not_stay_in_the_next_window() -> None:
    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    window = Window(1)
    with pytest.raises(RuntimeError, match="no"):
        window.gate_out(Unshowable())
    assert window.gate_out(1) == b"[1]"


@pytest.mark.parametrize("size", [0, -1, 1.5, None, True, "3"])
def test_a_window_holds_one_or_more(size: int) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        Window(size)
