"""A cascade's examples by flow: the data that waits, and the signals that ask about it.

A signal is a cheaper model's question about one flow; what that model was sure of is never asked about. The only clock
by which waiting data grows old is the newest signal's capture time: so a cheap model that lags, or starts again, makes
nothing too old. Pure: time comes in with each step.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve._core.batches import Batcher, Batching
from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Now
from edgeserve._core.step import Decision, Example, Fate

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


# How long a signal waits for its data before it asks whoever may hold it, and how long asking has an effect there.
_ASK_MS = 400
_WANTED_MS = 2000
_NOTHING: frozenset[str] = frozenset()
_DATA, _SIGNAL, _BOTH = frozenset((DATA,)), frozenset((SIGNAL,)), frozenset((DATA, SIGNAL))
# So many entries that have gone may stay however few wait.
_FEW = 64


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


class _Waiting:
    """Examples that wait, by flow and by capture time.

    An entry is a list, as lists are compared fast: its capture time, a number that orders equal ones, and the example,
    None when it has gone. Those that have gone stay in the heap until they come to its top, or are half of it.
    """

    def __init__(self) -> None:
        self._by_flow: dict[bytes, list[list[Any]]] = {}
        self._by_capture: list[list[Any]] = []
        self._number = 0
        self.count = 0
        self.bytes = 0

    def add(self, example: Example) -> None:
        self._number += 1
        entry = [example.capture_ms, self._number, example]
        of_flow = self._by_flow.get(example.header)
        if of_flow is None:
            self._by_flow[example.header] = [entry]
        else:
            of_flow.append(entry)
        heapq.heappush(self._by_capture, entry)
        self.count += 1
        self.bytes += len(example.data)
        example.park()

    def take_nearest(self, flow_id: bytes, capture_ms: int, reach_ms: int) -> Example | None:
        """The example of a flow that was captured nearest to a time and within reach of it, which waits no longer."""
        entries = self._by_flow.get(flow_id)
        if entries is None:
            return None
        nearest = entries[0] if len(entries) == 1 else min(entries, key=lambda entry: abs(entry[0] - capture_ms))
        return self._take(nearest) if abs(nearest[0] - capture_ms) <= reach_ms else None

    def oldest(self) -> Example | None:
        """The one that was captured first."""
        heap = self._by_capture
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def take_oldest(self) -> Example:
        """The one that was captured first, which there is, and which waits no longer."""
        self.oldest()
        return self._take(self._by_capture[0])

    def take(self, example: Example) -> bool:
        """Have this one wait no longer. Whether it waited."""
        for entry in self._by_flow.get(example.header, ()):
            if entry[2] is example:
                self._take(entry)
                return True
        return False

    def of_flow(self, flow_id: bytes) -> list[Example]:
        """Those of one flow."""
        return [entry[2] for entry in self._by_flow.get(flow_id, ())]

    def all(self) -> Iterator[Example]:
        """All of them, by flow."""
        return (entry[2] for entries in self._by_flow.values() for entry in entries)

    def _take(self, entry: list[Any]) -> Example:
        example: Example = entry[2]
        entry[2] = None
        entries = self._by_flow[example.header]
        if len(entries) == 1:
            del self._by_flow[example.header]
        else:
            entries.remove(entry)
        self.count -= 1
        self.bytes -= len(example.data)
        if len(self._by_capture) > 2 * self.count + _FEW:
            self._by_capture = [each for each in self._by_capture if each[2] is not None]
            heapq.heapify(self._by_capture)
        example.unpark()
        return example


class FlowJoin:
    """Serves a flow's data when a signal asks about it, in whichever order they come; without signals, as it comes.

    Each example of data is served once. Of several of one flow, a signal is about the one that was captured nearest: a
    `Model` gives its signals the capture time of its data.

    Args:
        policy: What waits, and how long.
        batching: How what is to be served becomes batches.

    Attributes:
        slot_of: Where a signal and its data can be with two replicas, what is always with one, by flow id; None where
            that can't be. A signal that waits then asks for its data, and is given back itself, as either may be with
            the wrong one. Who is asked gives back the whole slot, of which the rest is held up else.
    """

    serves_at_once = None

    def __init__(self, policy: FlowPolicy, batching: Batching) -> None:
        self._policy = policy
        self._batcher = Batcher(batching)
        self.slot_of: Callable[[bytes], int] | None = None
        self._data = _Waiting()
        self._signals = _Waiting()
        self._newest_data_ms: int | None = None
        self._newest_signal_ms: int | None = None
        self._data_came_ms = -math.inf
        # Of the signals that wait; older than real when that one was served and others stay.
        self._newest_waiting_ms = 0
        # The ids of signals that were served, as a cheap model that was killed may send them again.
        self._served: dict[bytes, None] = {}
        # When to ask for whom; and how often was asked about a flow, since when.
        self._due: list[tuple[float, int, Example]] = []
        self._number = 0
        self._asked: dict[bytes, tuple[int, float]] = {}
        self._wanted_until_ms: float | None = None
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
        self._batcher.take(now, decision)
        if self._signals.count:
            self._expire_signals(now, decision)
            self._ask(now, decision)
        self._note_full(now)
        return decision

    def _offer_data(self, example: Example, now: Now, decision: Decision) -> None:
        capture_ms, reach_ms = example.capture_ms, self._policy.max_time_diff_ms
        self._data_came_ms = now.steady_ms
        if self._newest_data_ms is None or capture_ms > self._newest_data_ms:
            self._newest_data_ms = capture_ms
        if self._signals.count:
            signal = self._signals.take_nearest(example.header, capture_ms, reach_ms)
            if signal is not None:
                self._match(example, signal, now)
                return
        if self._newest_signal_ms is not None and capture_ms < self._newest_signal_ms - reach_ms:
            decision.let_go(example, Fate.NOT_ASKED)
            return
        self._data.add(example)
        if self._is_wanted(now):
            while self._data.count > self._policy.max_flows or (
                self._data.bytes > self._policy.max_bytes and self._data.count > 1
            ):
                decision.let_go(self._data.take_oldest(), Fate.EVICTED)

    def _offer_signal(self, signal: Example, now: Now, decision: Decision) -> None:
        capture_ms, reach_ms = signal.capture_ms, self._policy.max_time_diff_ms
        if signal.id in self._served:
            decision.let_go(signal, Fate.DUPLICATE)
            return
        example = self._data.take_nearest(signal.header, capture_ms, reach_ms)
        if example is not None:
            self._match(example, signal, now)
        else:
            self._newest_waiting_ms = max(capture_ms, self._newest_waiting_ms if self._signals.count else 0)
            self._signals.add(signal)
            if self.slot_of is not None:
                self._ask_later(signal, now)
        if self._newest_signal_ms is None or capture_ms > self._newest_signal_ms:
            self._newest_signal_ms = capture_ms
            while (oldest := self._data.oldest()) is not None and oldest.capture_ms < capture_ms - reach_ms:
                decision.let_go(self._data.take_oldest(), Fate.NOT_ASKED)

    def _match(self, example: Example, signal: Example, now: Now) -> None:
        self._asked.pop(example.header, None)
        self._served[signal.id] = None
        if len(self._served) > self._policy.max_flows:
            del self._served[next(iter(self._served))]
        self._batcher.put({DATA: example, SIGNAL: signal}, now, example.header)

    def _expire_signals(self, now: Now, decision: Decision) -> None:
        """Give up signals whose data can't come any more: it was served before, say.

        The data must have got past them by more than `max_time_diff_ms`; and they have waited as long, as theirs may be
        on its way from another replica.
        """
        reach_ms = self._policy.max_time_diff_ms
        while (oldest := self._signals.oldest()) is not None and self._newest_data_ms is not None:
            if self._newest_data_ms - oldest.capture_ms <= reach_ms:
                return
            _, since_ms = self._asked.get(oldest.header, (0, oldest.arrived_steady_ms))
            if now.steady_ms <= since_ms + reach_ms:
                _wake_by(decision, since_ms + reach_ms + 1)
                return
            self._asked.pop(oldest.header, None)
            decision.let_go(self._signals.take_oldest(), Fate.EXPIRED)

    # Replicas.

    def _ask_later(self, signal: Example, now: Now) -> None:
        times, _ = self._asked.get(signal.header, (0, 0.0))
        wait_ms = min(_ASK_MS << min(times, 10), max(_ASK_MS, self._policy.max_time_diff_ms))
        self._number += 1
        heapq.heappush(self._due, (now.steady_ms + wait_ms, self._number, signal))

    def _ask(self, now: Now, decision: Decision) -> None:
        """Ask for the data of signals that have waited for it."""
        given_back, asked = [], []
        while self._due and self._due[0][0] <= now.steady_ms:
            _, _, signal = heapq.heappop(self._due)
            flow_id = signal.header
            if not any(each is signal for each in self._signals.of_flow(flow_id)):
                continue
            if self._is_behind(signal, now):
                self._ask_later(signal, now)
                continue
            times, since_ms = self._asked.get(flow_id, (0, signal.arrived_steady_ms))
            self._asked[flow_id] = (times + 1, since_ms)
            if len(self._asked) > self._policy.max_flows:
                del self._asked[next(iter(self._asked))]
            asked.append(flow_id)
            if _comes_alone(signal):
                self._signals.take(signal)
                given_back.append(signal)
            else:
                self._ask_later(signal, now)
        decision.given_back, decision.asked = given_back, asked
        if self._due:
            _wake_by(decision, self._due[0][0])

    def _is_behind(self, signal: Example, now: Now) -> bool:
        """Whether data comes that was captured before a signal was: that of the signal is not to be missed yet."""
        newest_ms = self._newest_data_ms
        return (newest_ms is None or newest_ms < signal.capture_ms) and now.steady_ms < self._data_came_ms + _ASK_MS

    def give_back(self, flow_ids: Sequence[bytes], now: Now) -> Decision:
        """Give back the data of flows that other replicas have asked for, if it is here and not in use."""
        decision = Decision()
        if self.slot_of is not None:
            slots = {self.slot_of(flow_id) for flow_id in flow_ids}
            held = [each for each in self._data.all() if self.slot_of(each.header) in slots and _comes_alone(each)]
            for example in held:
                self._data.take(example)
            decision.given_back = held
            if len({example.header for example in held}.intersection(flow_ids)) < len(set(flow_ids)):
                # It may be what this one does not read any more, and so stops all others from reading.
                self._wanted_until_ms = now.steady_ms + _WANTED_MS
        self._note_full(now)
        return decision

    # Bounds.

    def _is_wanted(self, now: Now) -> bool:
        """Whether a signal waits for data that was not read yet, here or at another replica."""
        if self._wanted_until_ms is not None and now.steady_ms < self._wanted_until_ms:
            return True
        if not self._signals.count or self._newest_data_ms is None:
            return bool(self._signals.count)
        return self._newest_waiting_ms >= self._newest_data_ms - self._policy.max_time_diff_ms

    def _note_full(self, now: Now) -> None:
        policy, full = self._policy, _NOTHING
        if len(self._batcher) >= policy.max_flows:
            full = _BOTH
        elif self._signals.count >= policy.max_flows:
            full = _SIGNAL
        elif (self._data.count >= policy.max_flows or self._data.bytes >= policy.max_bytes) and not self._is_wanted(
            now
        ):
            full = _DATA
        self.full = full

    def give_up(self, examples: Sequence[Example]) -> list[Example]:
        """Nothing that was used is held."""
        return []


def _comes_alone(example: Example) -> bool:
    """Whether its message can be given back without others."""
    return example.parcel is not None and not example.parcel.is_pack


def _wake_by(decision: Decision, steady_ms: float) -> None:
    if decision.wake_steady_ms is None or steady_ms < decision.wake_steady_ms:
        decision.wake_steady_ms = steady_ms
