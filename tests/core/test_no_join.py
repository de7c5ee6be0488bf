from __future__ import annotations

import pytest

from edgeserve._core.clock import Now
from edgeserve._core.join import JoinPolicy, LatestJoin, NoJoin
from edgeserve._core.ledger import Ledger
from edgeserve._core.nearest_join import NearestJoin
from edgeserve._core.step import Example, Parcel

ONE = {"only": "only"}
TWO = {"left": "left", "right": "right"}


def test_what_is_served_at_once_is_what_the_join_would_decide() -> None:
    join, ledger, parcel = NoJoin(JoinPolicy(ONE)), Ledger(), Parcel("message", open_examples=3)
    examples = [
        Example(bytes([number] * 16), "only", b"", capture_ms, parcel=parcel)
        for number, capture_ms in enumerate([20, 10, 30])
    ]
    ledger.receive(examples)
    for example in examples:
        decision = join.decide(example, Now(40, 0.0))
        assert decision.job is not None
        assert decision.job.units[0] == {join.serves_at_once: example}
        assert (decision.fates, decision.wake_steady_ms) == ([], None)
        assert ledger.carry_out(decision) == []
        assert example.holds == 1, "that of the job, which is the one that it was received with"
    assert join.decide(None, Now(40, 0.0)).job is None


@pytest.mark.parametrize(
    "join",
    [
        NoJoin(JoinPolicy(ONE, min_interval_ms=1)),
        NoJoin(JoinPolicy(ONE, drop_if_older_than_ms=0)),
        LatestJoin(JoinPolicy(TWO)),
        NearestJoin(JoinPolicy(TWO)),
    ],
)
def test_what_has_something_to_decide_is_asked(join: NoJoin | LatestJoin | NearestJoin) -> None:
    assert join.serves_at_once is None
