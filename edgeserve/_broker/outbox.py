"""Examples on their way out: sent without waiting, within bounds, and reported when the broker has stored them.

It is group commit. An example leaves at once while little is unconfirmed; what comes meanwhile waits, and leaves
together, as one pack, as soon as little is unconfirmed again, or the pack is full. So a lone example is never held up,
and the faster they come, the more of them share the cost of a message. Nothing lingers: the confirmation itself sends
what waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar, cast

from edgeserve._broker.base import MAX_MESSAGE_BYTES, Message, Producer
from edgeserve._broker.in_flight import Failures, InFlight
from edgeserve._broker.shipping import NO_MARKS, Leaving, Shipper, take_what_leaves
from edgeserve._core import packs
from edgeserve._core.clock import steady_ms
from edgeserve._core.packs import Entry
from edgeserve._interrupts import raise_noted
from edgeserve._logging import Seldom, logger
from edgeserve.errors import BrokerError, DeliveryError, PayloadTooLarge

Token = TypeVar("Token")

_log = logger("outbox")

# Waits are cut into slices so that closing is seen in time.
_SLICE_S = 0.2
# A broker that is merely slow makes room sooner.
_SAID_AFTER_SLICES = 10
# Below so many sends, or examples, that are unconfirmed, what comes leaves at once. Packs that are not full cost the
# broker as much as full ones, so that more of them are sent only where they can't get larger.
_FEW_SENDS = 2
_FEW_EXAMPLES = 4
_SETTLED_TOGETHER = 32


class Outbox(Generic[Token]):
    """Sends to one topic, in order. One thread sends at a time; confirmations come on a thread of the broker's.

    No lock is held while something is sent or a confirmation is passed on.

    Args:
        producer: Where it sends to.
        address: The broker's, for errors.
        on_confirmed: Called with the tokens of what was stored, on a thread of the broker's.
        on_dropped: Called with the tokens of what made room; where it is given, a send never waits, and one more than
            the limits say may.
        on_failed: Called with the tokens of what was refused, or had not left when the outbox was closed, and why.
        packing: Whether examples that had to wait leave as one message; else they do as messages of their own that
            are sent together.
        marks: What every message is marked with that is made of examples here.
        limits: How much may be on its way.
    """

    def __init__(
        self,
        producer: Producer,
        address: str,
        on_confirmed: Callable[[Sequence[Token]], None],
        *,
        on_dropped: Callable[[Sequence[Token]], None] | None = None,
        on_failed: Callable[[Sequence[Token], Exception], None] | None = None,
        packing: bool = True,
        marks: Mapping[str, str] = NO_MARKS,
        limits: InFlight | None = None,
    ) -> None:
        self._producer = producer
        self._address = address
        self._on_confirmed = on_confirmed
        self._on_dropped = on_dropped
        self._on_failed = on_failed
        self._shipper = Shipper(producer, marks, packing=packing)
        self._limits = limits if limits is not None else InFlight()
        self._max_pack_bytes = packs.MAX_BYTES
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # What waits, and the token of each; beyond `_waiting_bytes` of `_bytes` it is under way.
        self._waiting: deque[Entry | Message] = deque()
        self._tokens: deque[Token] = deque()
        self._waiting_bytes = 0
        self._sends = 0
        self._examples = 0
        self._bytes = 0
        self._sent = 0
        self._sent_bytes = 0
        self._is_draining = False
        # Messages of their own that were sent without having waited: how many are unconfirmed, and of those whose
        # confirmation came, the token, the size and the error; settled together, as each settling costs.
        self._alone = 0
        self._confirmed_alone: deque[tuple[Token, int, BrokerError | None]] = deque()
        self._watchers = 0
        self._is_stopped = False
        self._failures = Failures(address)
        self._waits = Seldom(_log)

    @property
    def sent(self) -> int:
        """How many examples were handed over."""
        return self._sent

    @property
    def sent_bytes(self) -> int:
        """How many bytes they had."""
        return self._sent_bytes

    @property
    def unconfirmed(self) -> int:
        """How many of them the broker has neither stored nor refused yet."""
        return self._examples

    @property
    def has_failed(self) -> bool:
        """Whether `raise_failure` would raise."""
        return self._failures.are_any

    def raise_failure(self) -> None:
        """Raise what earlier sends failed with, once.

        Raises:
            DeliveryError: The first failure since the last call; its message counts the examples of all.
        """
        self._failures.raise_them()

    def send(self, what: Entry | Message, token: Token, *, more_follows: bool = False) -> None:
        """Hand over one example, or a message that is never part of a pack: one with a key or marks of its own.

        It waits first while too much is on its way. `token` is passed on when it is stored, and never if it can't be.
        With `more_follows` it may wait for the next one, to leave together with it.

        Raises:
            PayloadTooLarge: The broker does not take messages of this size; nothing was sent.
            DeliveryError: It was closed while the send waited.
        """
        size = len(what[0])
        if size > MAX_MESSAGE_BYTES:
            raise PayloadTooLarge(size, MAX_MESSAGE_BYTES, self._producer.topic)
        if self._on_dropped is not None:
            self._on_dropped(self._drop_oldest(size))
        with self._lock:
            if self._examples >= self._limits.max_examples or self._bytes + size > self._limits.max_bytes:
                self._wait_for_room(size)
            if self._is_stopped:
                raise DeliveryError("closed before the broker had room for another message", self._address)
            leaves_alone = type(what) is Message and not self._waiting and not self._is_draining
            self._examples += 1
            self._bytes += size
            self._sent += 1
            self._sent_bytes += size
            if leaves_alone and self._examples <= self._limits.max_examples:
                self._alone += 1
            else:
                leaves_alone = False
                self._waiting_bytes += size
                self._tokens.append(token)
                self._waiting.append(what)
                if more_follows or not self._may_leave():
                    return
        if leaves_alone:
            self._leave_alone(cast("Message", what), token, size)
        else:
            self._drain(what)

    def _leave_alone(self, message: Message, token: Token, size: int) -> None:
        """Send a message of its own while nothing waits: what most of them do."""
        try:
            self._producer.send(message, partial(self._confirm_alone, token, size))
        except BaseException:
            with self._lock:
                self._alone -= 1
                self._examples -= 1
                self._bytes -= size
                self._sent -= 1
                self._sent_bytes -= size
                if self._watchers:
                    self._changed.notify_all()
            self._settle_alone()  # what was confirmed may have waited for this one's
            raise

    def _confirm_alone(self, token: Token, size: int, error: BrokerError | None) -> None:
        confirmed = self._confirmed_alone
        confirmed.append((token, size, error))
        # Without the lock: whoever sends meanwhile counts first, and gets a confirmation of its own later.
        if len(confirmed) >= min(_SETTLED_TOGETHER, self._alone):
            self._settle_alone()

    def _settle_alone(self) -> None:
        """Count out what was confirmed."""
        tokens: list[Token] = []
        failed: list[tuple[Token, BrokerError]] = []
        with self._lock:
            while self._confirmed_alone:
                token, size, error = self._confirmed_alone.popleft()
                self._alone -= 1
                self._examples -= 1
                self._bytes -= size
                if error is None:
                    tokens.append(token)
                else:
                    failed.append((token, error))
                    self._failures.note(error, 1)
            if self._watchers:
                self._changed.notify_all()
            has_waiting = bool(self._waiting)
        if has_waiting:
            self._drain()
        if self._on_failed is not None:
            for token, error in failed:
                self._on_failed([token], error)
        if tokens:
            self._on_confirmed(tokens)

    def _may_leave(self) -> bool:
        """Whether what waits first may be sent now. With the lock."""
        waiting, sends, limits = self._waiting, self._sends, self._limits
        if self._is_draining or not waiting:
            return False
        under_way = self._examples - len(waiting)
        if under_way >= limits.max_examples:
            return False  # where the oldest is dropped, one more may wait than may be on its way
        if isinstance(waiting[0], Message):
            return True  # waiting would not make it larger
        return sends < limits.max_sends and (
            sends < _FEW_SENDS
            or under_way < _FEW_EXAMPLES
            or self._waiting_bytes >= self._max_pack_bytes
            or len(waiting) >= packs.MAX_EXAMPLES
        )

    def _is_full(self, size: int) -> bool:
        limits = self._limits
        return self._examples >= limits.max_examples or (self._examples > 0 and self._bytes + size > limits.max_bytes)

    def _wait_for_room(self, size: int) -> None:
        if self._on_dropped is not None:
            return
        self._watchers += 1
        slices = 0
        try:
            while self._is_full(size) and not self._is_stopped:
                if self._may_leave():  # it waited for this one, to leave with it
                    self._lock.release()
                    try:
                        self._drain()
                    finally:
                        self._lock.acquire()
                    continue
                slices += not self._changed.wait(_SLICE_S)
                if slices == _SAID_AFTER_SLICES:
                    self._say_that_it_waits()
                raise_noted()
        finally:
            self._watchers -= 1

    def _say_that_it_waits(self) -> None:
        # Without the lock, which confirmations need, as who listens to the log may take long.
        self._lock.release()
        try:
            self._waits.say(
                "topic %s of %s: sends wait, as %d examples are unconfirmed: the broker is away, or can't keep up",
                self._producer.topic,
                self._address,
                self._examples,
            )
        finally:
            self._lock.acquire()

    def _drop_oldest(self, size: int) -> list[Token]:
        """Take out what waited longest, until there is room or nothing waits."""
        dropped = []
        with self._lock:
            while self._waiting and self._is_full(size):
                freed = len(self._waiting.popleft()[0])
                self._examples -= 1
                self._bytes -= freed
                self._waiting_bytes -= freed
                self._sent -= 1
                self._sent_bytes -= freed
                dropped.append(self._tokens.popleft())
        return dropped

    def _drain(self, own: Entry | Message | None = None) -> None:
        """Send what waits, as far as it may leave.

        Raises:
            Exception: What was refused is `own`, and nothing else.
        """
        while True:
            with self._lock:
                # Whoever drains goes on until nothing may leave, so that one thread at a time keeps the order.
                if not self._may_leave():
                    return
                leaving = take_what_leaves(self._waiting, self._tokens, self._max_pack_bytes)
                self._waiting_bytes -= leaving.size
                self._sends += 1
                self._is_draining = True
            try:
                self._leave(leaving)
            except Exception as error:
                if not self._comes_again(leaving, error):
                    is_own = leaving.what[0] is own
                    self._settle(leaving, None if is_own else error, is_own=is_own)
                    if is_own:
                        raise
            finally:
                with self._lock:
                    self._is_draining = False
                    if self._watchers:
                        self._changed.notify_all()

    def _leave(self, leaving: Leaving[Token]) -> None:
        def confirmed(error: BrokerError | None) -> None:
            self._settle(leaving, error)
            self._drain()
            if error is None:
                self._on_confirmed(leaving.tokens)

        self._shipper.ship(leaving.what, confirmed)

    def _settle(self, settled: Leaving[Token], error: Exception | None, *, is_own: bool = False) -> None:
        """Count a message out that is stored, or was refused."""
        count = len(settled.what)
        with self._lock:
            self._sends -= 1
            self._examples -= count
            self._bytes -= settled.size
            if is_own:
                self._sent -= 1
                self._sent_bytes -= settled.size
            if error is not None:
                self._failures.note(error, count)
            if self._watchers:
                self._changed.notify_all()
        if error is not None and self._on_failed is not None:
            self._on_failed(settled.tokens, error)

    def _comes_again(self, leaving: Leaving[Token], error: Exception) -> bool:
        """Whether what was refused is a pack for whose size alone it was, and whose examples wait again."""
        if len(leaving.what) == 1 or not isinstance(error, PayloadTooLarge):
            return False
        with self._lock:
            self._sends -= 1
            self._waiting.extendleft(reversed(leaving.what))
            self._tokens.extendleft(reversed(leaving.tokens))
            self._waiting_bytes += leaving.size
            self._max_pack_bytes = max(1, error.size_bytes // 2)
        return True

    def flush(self) -> None:
        """Send what waited for more to follow."""
        self._drain()

    def stop(self) -> None:
        """Make a send that waits for room give up."""
        with self._lock:
            self._is_stopped = True
            self._changed.notify_all()

    def close(self, timeout_ms: int) -> None:
        """Wait for confirmations, at most `timeout_ms`.

        Raises:
            DeliveryError: Something could not be confirmed; its inputs stay unacknowledged.
        """
        self.stop()
        until_ms = steady_ms() + timeout_ms
        with self._lock:
            # What was taken out to be sent is not with the producer yet, which is closed only then.
            while (self._waiting or self._is_draining) and (left_ms := until_ms - steady_ms()) > 0:
                self._watchers += 1
                self._changed.wait(min(_SLICE_S, left_ms / 1000))
                self._watchers -= 1
                raise_noted()
            self._waiting.clear()
            left, self._tokens = self._tokens, deque()
            self._examples -= len(left)
            self._bytes -= self._waiting_bytes
            self._waiting_bytes = 0
            reason = f"examples for topic {self._producer.topic!r} had not left within {timeout_ms} ms"
            error = DeliveryError(reason, self._address)
            if left:
                self._failures.note(error, len(left))
        self._producer.close(max(0, int(until_ms - steady_ms())))
        if left and self._on_failed is not None:
            self._on_failed(left, error)
        self.raise_failure()
