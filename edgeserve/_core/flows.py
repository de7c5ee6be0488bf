"""A cascade's examples by flow: the data that waits, and the signals that ask about it.

A signal is a cheaper model's question about one flow; what that model was sure of is never asked about. The only clock
by which waiting data grows old is the newest signal's capture time: so a cheap model that lags, or starts again, makes
nothing too old. Pure: time comes in with each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeserve._core.asking import FIRST_MS, HELLO, Ask, Asking, Horizon
from edgeserve._core.batches import Batcher, Batching
from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Now
from edgeserve._core.step import Decision, Example, Fate
from edgeserve._core.waiting import Waiting

DATA = "data"
SIGNAL = "signal"

MAX_FLOWS = 20_000
MAX_BYTES = 256 * 1024 * 1024


def message_key(flow_id: bytes) -> str | None:
    """What messages of a flow are shared by: its id as text, or in hexadecimal where it is none."""
    try:
        return flow_id.decode("utf-8") or None
    except UnicodeDecodeError:
        return flow_id.hex()


# From the ask of that number on, it may be that data is held up by one who does not read it; how long that then reads.
_STRONG_ASK = 3
_WANTED_MS = 2000
# In that time a signal that came to the wrong replica has asked, and its data was given back; in the shorter one, a
# replica that joins has said that it is there. How often it says so, and how long it is believed to be.
_GRACE_MS = 2000
_SHORT_GRACE_MS = 200
_HELLO_MS = 3000
_PEERS_MS = 10_000
_NOTHING: frozenset[str] = frozenset()
_DATA, _SIGNAL, _BOTH = frozenset((DATA,)), frozenset((SIGNAL,)), frozenset((DATA, SIGNAL))


@dataclass(frozen=True)
class FlowPolicy:
    """What a join of flows is told.

    Attributes:
        has_signal: Whether data waits for a signal; else it is served as it comes.
        max_time_diff_ms: How far the signals may be past data before it counts as not asked about, and how far apart
            the captures of a signal and its data may lie.
        max_flows: How many examples of data may wait, and how many signals.
        max_bytes: How many bytes of data may wait, as they travelled.
    """

    has_signal: bool
    max_time_diff_ms: int = 10_000
    max_flows: int = MAX_FLOWS
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        check_ms("max_time_diff_ms", self.max_time_diff_ms)
        check_count("max_waiting_flows", self.max_flows)
        check_count("max_waiting_bytes", self.max_bytes)


class FlowJoin:
    """Serves a flow's data when a signal asks about it, in whichever order they come; without signals, as it comes.

    Each example of data is served once. Of several of one flow, a signal is about the one that was captured nearest: a
    `Model` gives its signals the capture time of its data. So a signal waits while data comes that was captured before
    it, but not for long.

    Args:
        policy: What waits, and how long.
        batching: How what is to be served becomes batches.

    Attributes:
        slot_of: Where a signal and its data can be with two replicas, what is always with one, by flow id; None where
            that can't be. A signal that asks is then given back itself, as either may be with the wrong one, and who is
            asked gives back the whole slot, of which the rest is held up else.
    """

    serves_at_once = None

    def __init__(self, policy: FlowPolicy, batching: Batching) -> None:
        self._policy = policy
        self._batcher = Batcher(batching)
        self.slot_of: Callable[[bytes], int] | None = None
        self._data = Waiting()
        self._signals = Waiting(keeps_newest=True)
        self._asking = Asking(policy.max_time_diff_ms, policy.max_flows)
        self._newest_data_ms: int | None = None
        self._newest_signal_ms: int | None = None
        self._data_came_ms = -math.inf
        # The ids of signals that were served, as a cheap model that was killed may send them again.
        self._served: dict[bytes, None] = {}
        self._wanted_until_ms = -math.inf
        self._peers_until_ms = -math.inf
        self._hello_ms = -math.inf
        # How far the signals are, here and, as far as they have asked, at other replicas.
        self._passed_ms = Horizon(_GRACE_MS)
        self.full = _NOTHING
        """See `Join`."""

    def decide(self, arrival: Example | None, now: Now) -> Decision:
        """Take one example, or a moment that was waited for."""
        decision = Decision()
        if arrival is not None:
            if not self._policy.has_signal:
                self._batcher.put({DATA: arrival}, now, arrival.header)
            elif arrival.source == DATA:
                self._offer_data(arrival, now, decision)
            else:
                self._offer_signal(arrival, now, decision)
        if self._signals.count:
            self._look_at_signals(now, decision)
        if self.slot_of is not None:
            self._say_hello(now, decision)
        self._batcher.take(now, decision)
        self._note_full(now, decision)
        return decision

    def _offer_data(self, example: Example, now: Now, decision: Decision) -> None:
        capture_ms, reach_ms = example.capture_ms, self._policy.max_time_diff_ms
        self._data_came_ms = now.steady_ms
        if self._newest_data_ms is None or capture_ms > self._newest_data_ms:
            self._newest_data_ms = capture_ms
        if self._signals.count:
            signal = self._signals.take_nearest(example.header, capture_ms, reach_ms, latest_ms=capture_ms)
            if signal is not None:
                self._match(example, signal, now)
                return
        if self._newest_signal_ms is not None and capture_ms < self._newest_signal_ms - reach_ms:
            decision.let_go(example, Fate.NOT_ASKED)
            return
        self._data.add(example)
        while self._is_full(beyond=1) and self._may_evict(now):
            decision.let_go(self._data.take_oldest(), Fate.EVICTED)

    def _offer_signal(self, signal: Example, now: Now, decision: Decision) -> None:
        capture_ms, reach_ms = signal.capture_ms, self._policy.max_time_diff_ms
        if signal.id in self._served:
            decision.let_go(signal, Fate.DUPLICATE)
            return
        example = None
        if self._newest_data_ms is not None and capture_ms <= self._newest_data_ms:
            example = self._data.take_nearest(signal.header, capture_ms, reach_ms)
        if example is not None:
            self._match(example, signal, now)
        else:
            self._signals.add(signal)
            self._asking.wait(signal, now.steady_ms)
        if self._newest_signal_ms is None or capture_ms > self._newest_signal_ms:
            self._newest_signal_ms = capture_ms
            self._passed_ms.reach(capture_ms, now.steady_ms)
            while (oldest := self._data.oldest()) is not None and oldest.capture_ms < capture_ms - reach_ms:
                decision.let_go(self._data.take_oldest(), Fate.NOT_ASKED)

    def _match(self, example: Example, signal: Example, now: Now) -> None:
        self._asking.forget(example.header)
        self._served[signal.id] = None
        if len(self._served) > self._policy.max_flows:
            del self._served[next(iter(self._served))]
        self._batcher.put({DATA: example, SIGNAL: signal}, now, example.header)

    # Signals that wait.

    def _look_at_signals(self, now: Now, decision: Decision) -> None:
        """Let signals ask that have waited long enough, and give up those whose data can't come any more."""
        given_back, asked = [], []
        while (signal := self._asking.take_due(now.steady_ms)) is not None:
            if not self._signals.holds(signal):
                continue
            example = self._data.take_nearest(signal.header, signal.capture_ms, self._policy.max_time_diff_ms)
            if example is not None:  # captured before it, and no other has come
                self._signals.take(signal)
                self._match(example, signal, now)
            else:
                ask = self._asking.note(signal, now.steady_ms)
                if self._is_behind(signal, now):
                    ask = ask._replace(times=1)
                elif self.slot_of is not None and _comes_alone(signal):
                    self._signals.take(signal)
                    given_back.append(signal)
                asked.append(ask.encode())
                if self._signals.holds(signal):
                    self._asking.wait(signal, now.steady_ms)
        decision.given_back, decision.asked = given_back, asked
        self._expire_signals(now, decision)
        if self._signals.count and self._asking.next_steady_ms is not None:
            decision.look_by(self._asking.next_steady_ms)

    def _is_behind(self, signal: Example, now: Now) -> bool:
        """Whether data comes that was captured before a signal was: that of the signal may just not be here yet."""
        newest_ms = self._newest_data_ms
        return (newest_ms is None or newest_ms < signal.capture_ms) and now.steady_ms < self._data_came_ms + FIRST_MS

    def _expire_signals(self, now: Now, decision: Decision) -> None:
        """Give up signals whose data can't come any more: it was served before, say.

        The data must have got past them by more than `max_time_diff_ms`; and they have waited as long, as theirs may be
        on its way from another replica.
        """
        reach_ms = self._policy.max_time_diff_ms
        while (oldest := self._signals.oldest()) is not None and self._newest_data_ms is not None:
            if self._newest_data_ms - oldest.capture_ms <= reach_ms:
                return
            over_ms = self._asking.since_ms(oldest, now.steady_ms) + reach_ms
            if now.steady_ms <= over_ms:
                decision.look_by(over_ms + 1)
                return
            self._asking.forget(oldest.header)
            decision.let_go(self._signals.take_oldest(), Fate.EXPIRED)

    def _say_hello(self, now: Now, decision: Decision) -> None:
        if now.steady_ms >= self._hello_ms:
            self._hello_ms = now.steady_ms + _HELLO_MS
            decision.asked = [*decision.asked, HELLO]
        decision.look_by(self._hello_ms)

    def give_back(self, asked: Sequence[bytes], now: Now) -> Decision:
        """Give back what other replicas have asked for, if it is here and not in use."""
        decision = Decision()
        self._peers_until_ms = now.steady_ms + _PEERS_MS
        asks = [ask for ask in map(Ask.decode, asked) if ask is not None and ask.times > 0]
        if self.slot_of is not None and asks:  # most only say that they are there
            slots = {self.slot_of(ask.flow_id) for ask in asks}
            held = [each for each in self._data.all() if self.slot_of(each.header) in slots and _comes_alone(each)]
            for example in held:
                self._data.take(example)
            decision.given_back = held
            here = {example.header for example in held}
            asks = [ask for ask in asks if ask.flow_id not in here]
        newest_ms = self._newest_data_ms
        for ask in asks:
            # It may be what this one does not read any more, and so stops all others from reading.
            is_ahead = newest_ms is None or newest_ms <= ask.capture_ms + self._policy.max_time_diff_ms
            if ask.times >= _STRONG_ASK and is_ahead:
                self._wanted_until_ms = now.steady_ms + _WANTED_MS
                self._passed_ms.reach(ask.capture_ms, now.steady_ms)
        self._note_full(now, decision)
        return decision

    # Bounds.

    def _is_full(self, *, beyond: int = 0) -> bool:
        """Whether so much data waits that no more may, or more than that; one example may be larger than all."""
        data, policy = self._data, self._policy
        return data.count >= policy.max_flows + beyond or (
            data.bytes >= policy.max_bytes + beyond and data.count > beyond
        )

    def _may_evict(self, now: Now) -> bool:
        """Whether the oldest data makes room: a signal waits for data not yet read, and signals have got past it.

        Where its own signal may be with another replica, that has time to ask.
        """
        oldest = self._data.oldest()
        if oldest is None or not self._is_wanted(now):
            return False
        since_ms = now.steady_ms - self._grace_ms(oldest, now)
        # What was given back comes late, and its signal soon after it.
        return oldest.arrived_steady_ms <= since_ms and oldest.capture_ms <= self._passed_ms.as_of(since_ms)

    def _grace_ms(self, example: Example, now: Now) -> float:
        if self.slot_of is None or not _comes_alone(example):
            return 0
        return _GRACE_MS if now.steady_ms < self._peers_until_ms else _SHORT_GRACE_MS

    def _is_wanted(self, now: Now) -> bool:
        """Whether a signal, here or at another replica, waits for data that was not read yet."""
        if now.steady_ms < self._wanted_until_ms:
            return True
        newest_waiting_ms = self._signals.newest_ms
        if newest_waiting_ms is None or self._newest_data_ms is None:
            return newest_waiting_ms is not None
        return newest_waiting_ms >= self._newest_data_ms - self._policy.max_time_diff_ms

    def _note_full(self, now: Now, decision: Decision) -> None:
        policy = self._policy
        if len(self._batcher) >= policy.max_flows:
            self.full = _BOTH
            return
        is_full_of_data = self._is_full() and not self._may_evict(now)
        is_full_of_signals = self._signals.count >= policy.max_flows
        if is_full_of_data:
            if self.slot_of is not None and self._is_wanted(now):
                decision.look_by(now.steady_ms + _SHORT_GRACE_MS / 2)
            self.full = _BOTH if is_full_of_signals else _DATA
        else:
            self.full = _SIGNAL if is_full_of_signals else _NOTHING

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Nothing that was used is held; what was given up may be asked again."""
        for example in examples:
            self._served.pop(example.id, None)
        return []


def _comes_alone(example: Example) -> bool:
    """Whether its message, and those of its copies, can be given back without others."""
    return example.parcel is not None and not any(parcel.is_pack for parcel in (example.parcel, *(example.twins or ())))
