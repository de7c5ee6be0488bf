"""What operators that receive share: a step decides, this base carries it out.

A step takes one arriving example, or a moment that was waited for. Its first half (`_decide`) says which inputs are
settled, what the task is to run on, and when to step again; the second (`_finish`) says what to send. Between them
the base runs the task; around them it waits, counts, sends and acknowledges. An input is acknowledged when nothing
holds it any more and the outputs made from it are confirmed.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from edgeserve._broker.base import Share
from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetters
from edgeserve._broker.inbox import Inbox
from edgeserve._broker.outbox import Outbox
from edgeserve._claims import claim, give_back
from edgeserve._core.clock import Now, pause_ms
from edgeserve._core.ledger import Ledger, Stats
from edgeserve._core.step import Decision, Example, Fate, Job, Outcome
from edgeserve._deduplicate import Deduplicate
from edgeserve._interrupts import interruptibly, raise_noted
from edgeserve._on_error import ErrorPolicy
from edgeserve._operator import End, Life, Operator
from edgeserve._payload import Gate
from edgeserve._task import check_callables
from edgeserve.address import Address
from edgeserve.errors import EdgeServeError, PayloadTooLarge

if TYPE_CHECKING:
    from edgeserve._served_ids import ServedIds

T = TypeVar("T")

_NO_TIME = Now(0, 0.0)

# What takes the place of a result where there is none: None is one.
_UNSERVED = object()

_log = logging.getLogger("edgeserve.operator")

# How many messages are fetched ahead of the task: of packs 50 MB, of messages of 5 MB a GB.
_QUEUE_SIZE = 200
_MOST_UNKNOWN = 100


@dataclass(frozen=True)
class Inputs:
    """Where an operator's examples come from.

    Attributes:
        pulsar_node: The broker.
        topics: The topics, one or more.
        subscription: The name under which the broker remembers what was done.
        share: How several operators of that name share the work.
        work: What they do with it: within a process, one name stands for one task.
    """

    pulsar_node: Address
    topics: Sequence[str]
    subscription: str
    share: Share
    work: object


@dataclass(frozen=True)
class Outputs:
    """Where an operator's examples go.

    Attributes:
        topic: The topic.
        op_from: The operator's name as it travels.
        packing: Whether examples may share a message.
    """

    topic: str
    op_from: bytes
    packing: bool


@dataclass(frozen=True)
class Values:
    """What becomes of a payload before the task sees it.

    Attributes:
        gate: Runs on arrival, on what travelled; by source where it is a mapping. None drops the example.
        decode: Runs just before the task, once for each example; None leaves the value as it is.
    """

    gate: Gate | Mapping[str, Gate] | None
    decode: Callable[[Any], Any] | None

    def __post_init__(self) -> None:
        for gate in self.gate.values() if isinstance(self.gate, Mapping) else [self.gate]:
            check_callables(gate=gate)
        check_callables(decode=self.decode)

    def gated(self, example: Example) -> Any:
        """What the gate makes of the example's payload."""
        gate = self.gate
        if gate is None:
            return example.value
        if isinstance(gate, Mapping):
            gate = gate.get(example.source)
        return example.value if gate is None else interruptibly(gate, example.value)

    def task_value(self, example: Example) -> Any:
        """What the task gets."""
        if self.decode is not None and not example.is_decoded:
            example.value = interruptibly(self.decode, example.value)
            example.is_decoded = True
        return example.value


class Consuming(Operator[T]):
    """The base of operators that receive. They write `_decide`, `_call` and `_finish`."""

    def __init__(
        self,
        name: str,
        life: Life,
        inputs: Inputs,
        values: Values,
        errors: ErrorPolicy,
        *,
        outputs: Outputs | None = None,
        deduplicate: Deduplicate | None = None,
        alone: str | None = None,
    ) -> None:
        """Open what it takes. `alone`: the task's parameter, where each arrival is served by itself at once."""
        super().__init__(name, life)
        self._alone = alone
        self._values = values
        self._errors = errors
        self._ledger = Ledger()
        # What came in the message that was opened last, and no step has taken yet.
        self._arrivals: deque[Example] = deque()
        self._wake_steady_ms: float | None = None
        self._is_over = False
        self._stands_by = False
        self._unknown: set[str] = set()
        self._tenure: int | None = None
        self._outbox: Outbox[Sequence[Example]] | None = None
        self._served: ServedIds | None = None
        with self._parts as opening:  # closes what is open already when the rest fails
            self._lease = ConnectionLease(inputs.pulsar_node)
            opening.callback(self._lease.close)
            subscribed = [(str(self._lease.address), topic, inputs.subscription) for topic in inputs.topics]
            claim(subscribed, inputs.work)
            opening.callback(give_back, subscribed, inputs.work)
            connection = self._lease.connection
            self._inbox = Inbox(
                connection.consumer(inputs.topics, inputs.subscription, inputs.share, queue_size=_QUEUE_SIZE)
            )
            opening.callback(self._inbox.close)
            if deduplicate is not None:
                from edgeserve._served_ids import ServedIds  # and with it SQLite

                self._served = ServedIds(deduplicate, str(self._lease.address), list(inputs.topics), name)
                opening.callback(self._served.close)
            self._dead_letters = DeadLetters(connection, str(self._lease.address), name)
            opening.callback(self._close_outbox, self._dead_letters)
            if outputs is not None:
                self._op_from = outputs.op_from
                self._outbox = Outbox(
                    connection.producer(outputs.topic, together=not outputs.packing),
                    str(self._lease.address),
                    self._release_all,
                    packing=outputs.packing,
                )
                opening.callback(self._close_outbox, self._outbox)
            self._parts = opening.pop_all()
        self._opened()

    @abstractmethod
    def _decide(self, arrival: Example | None, now: Now) -> Decision:
        """The first half of a step. It reads no clock and touches no broker."""

    @abstractmethod
    def _call(self, job: Job) -> Any:
        """Run the user's task on a job."""

    @abstractmethod
    def _finish(self, job: Job, result: Any) -> Outcome:
        """The second half: what to send, and what `next()` returns."""

    def _forget(self) -> None:
        """Forget the examples that are held for later steps."""

    def _forget_failed(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Use examples no more that were given up. Those that were held for later steps, to be released."""
        return ()

    def _knows(self, source: str) -> bool:
        """Whether examples of this source are wanted at all."""
        return True

    def _expected(self) -> str:
        """Which sources are, in words."""
        return "all are"

    @property
    def stats(self) -> Stats:
        """What it received, what became of that, and what it sent; also after `close()`."""
        outbox = self._outbox
        return self._ledger.stats(
            sent=outbox.sent if outbox else 0,
            unconfirmed=outbox.unconfirmed if outbox else 0,
            dead_letters=self._dead_letters.sent,
        )

    def _stop_waiting(self) -> None:
        self._dead_letters.stop()
        if self._outbox is not None:
            self._outbox.stop()

    def _raise_failure(self) -> None:
        self._dead_letters.raise_failure()
        if self._outbox is not None:
            self._outbox.raise_failure()

    def _step(self) -> T | End | None:
        outbox = self._outbox
        if outbox is not None and outbox.has_failed:
            outbox.raise_failure()
        arrival = None
        if self._arrivals or self._wait():
            arrival = self._arrivals.popleft()
        elif self._is_over:
            return End.OF_STREAM
        if arrival is not None and self._alone is not None:
            return self._serve_alone(arrival, self._alone)
        now = self._clock.now()
        if arrival is not None and not self._admit(arrival, now):
            return None  # settled; a moment that is due comes after what has arrived
        decision = self._decide(arrival, now)
        self._wake_steady_ms = decision.wake_steady_ms
        done = self._ledger.carry_out(decision)
        if done:
            self._inbox.acknowledge(done)
        return self._perform(decision.job) if decision.job is not None else None

    def _serve_alone(self, arrival: Example, parameter: str) -> T | None:
        """Make a step where there is nothing to decide, and so no need of the time, nor of anything to carry out."""
        if not self._admit(arrival, _NO_TIME if self._served is None else self._clock.now()):
            return None
        arrival.is_used = True
        return self._perform(Job({parameter: arrival}))

    def _wait(self) -> bool:
        """Wait for a message, and open it, or for the moment to wake or the end. Whether a message came."""
        self._raise_failure()
        until_ms = self._wake_steady_ms
        is_moment = until_ms is not None
        if until_ms is None and self._life.idle_timeout_ms is not None:
            until_ms = self._clock.now().steady_ms + self._life.idle_timeout_ms
        self._is_over = False
        while not self._is_stopping:
            slice_ms = self._clock.slice_ms(until_ms)
            if self._inbox.fill(slice_ms):
                if self._inbox.tenure != self._tenure:
                    self._begin_tenure()
                opened = self._inbox.open_next()
                self._ledger.receive(opened)
                self._arrivals.extend(opened)
                return True
            if until_ms is not None and self._clock.now().steady_ms >= until_ms:
                self._is_over = not is_moment
                return False
            self._note_stand_by()
            raise_noted()
            self._raise_failure()
        self._is_over = True
        return False

    def _begin_tenure(self) -> None:
        """Start with nothing, if others had the subscription meanwhile."""
        if self._tenure is not None:
            _log.warning("operator %s has its subscription back and starts anew: what it held comes again", self._name)
            self._arrivals.clear()
            self._ledger.forget()
            self._forget()
        self._tenure = self._inbox.tenure

    def _note_unknown(self, source: str) -> None:
        """Say once for each name that it is not expected; a stranger's names are not collected without bound."""
        if source not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add(source)
            _log.warning("operator %s: examples of source %r are not used: %s", self._name, source, self._expected())

    def _note_stand_by(self) -> None:
        stands_by = not self._inbox.is_active
        if stands_by and not self._stands_by:
            _log.warning("operator %s stands by: another one of this name is active", self._name)
        elif self._stands_by and not stands_by:
            _log.info("operator %s has taken over", self._name)
        self._stands_by = stands_by

    def _admit(self, arrival: Example, now: Now) -> bool:
        """Take one arrival in. False if that settles it."""
        arrival.arrived_steady_ms = now.steady_ms
        try:
            if arrival.malformed is not None:
                self._bury(arrival, f"MalformedMessage: {arrival.malformed}")
            fate = arrival.fate if arrival.fate is not None else self._fate_at_the_door(arrival, now)
        except EdgeServeError:
            self._arrivals.appendleft(arrival)  # the broker's or the disk's fault: the next step takes it
            raise
        if arrival.fate is not None:
            return False
        if fate is None:
            try:
                value = self._values.gated(arrival)
            except Exception as error:
                if not self._errors.covers(error):
                    raise
                value = self._recover(partial(self._values.gated, arrival), [arrival], error)
            if value is _UNSERVED:
                return False
            if value is not None:
                arrival.value = value
                return True
            fate = Fate.GATED
        self._ledger.settle([arrival], fate)
        self._release([arrival])
        return False

    def _fate_at_the_door(self, arrival: Example, now: Now) -> Fate | None:
        """Why an arrival is not wanted at all, if it is not."""
        if self._served is not None and self._served.has(arrival.id, now.wall_ms):
            return Fate.DUPLICATE
        if not self._knows(arrival.source):
            self._note_unknown(arrival.source)
            return Fate.UNKNOWN_SOURCE
        return None

    def _perform(self, job: Job) -> T | None:
        # Whatever raises from here to the send leaves the job's examples held, and so unacknowledged.
        try:
            outcome = self._finish(job, self._call(job))
        except Exception as error:
            if not self._errors.covers(error):
                raise
            recovered = self._recover(lambda: self._finish(job, self._call(job)), job.examples, error)
            if recovered is _UNSERVED:
                return None
            outcome = recovered
        return self._hand_over(outcome, job.examples)

    def _hand_over(self, outcome: Outcome, examples: Sequence[Example]) -> T | None:
        """Send what was made of these examples, and settle them."""
        value, payload, output_id, capture_ms = outcome
        if payload is not None and self._outbox is not None:
            # Held by this job alone, nothing will use them again; and its output may be unconfirmed for long. Looked
            # at before the send, as a confirmation lets go of the job's hold at any time.
            spent = [example for example in examples if example.holds == 1]
            try:
                self._outbox.send(b"".join((output_id, self._op_from, payload)), capture_ms, examples)
            except PayloadTooLarge as error:
                if not self._errors.covers(error):
                    raise
                self._give_up(examples, error)
                return None
            self._ledger.settle(examples, Fate.USED)
            for example in spent:
                example.value, example.data = None, b""
        else:
            if self._served is not None:
                for example in examples:
                    self._served.add(example.id, self._clock.now().wall_ms)
            self._ledger.settle(examples, Fate.USED)
            self._release(examples)
        served: T | None = value
        return served

    def _recover(self, again: Callable[[], Any], examples: Sequence[Example], error: Exception) -> Any:
        """Go on after an error over these examples, as `on_error` says; `again` is another try.

        What it returns, or `_UNSERVED`: they were given up, or the operator is to stop, and they stay unacknowledged.

        Raises:
            Exception: That of another try, if the step can't go on after it.
        """
        if self._errors.on_error == "retry":
            for _ in range(self._errors.max_retries):
                if not self._has_paused(self._errors.retry_interval_ms):
                    return _UNSERVED
                try:
                    return again()
                except Exception as next_error:
                    if not self._errors.covers(next_error):
                        raise
                    error = next_error
        self._give_up(examples, error)
        return _UNSERVED

    def _has_paused(self, duration_ms: float) -> bool:
        """Wait. False if the operator is to stop meanwhile."""
        until_ms = self._clock.now().steady_ms + duration_ms
        while not self._is_stopping:
            if self._clock.now().steady_ms >= until_ms:
                return True
            raise_noted()
            pause_ms(self._clock.slice_ms(until_ms))
        return False

    def _give_up(self, examples: Sequence[Example], error: Exception) -> None:
        """Settle the examples of a step as failed; those that were new in it become dead letters."""
        failed = [example for example in examples if example.fate is None]
        reason = f"{type(error).__name__}: {error}"
        _log.warning("operator %s gives up %s: %s", self._name, ", ".join(map(repr, failed)), reason)
        try:
            for example in failed:
                if self._errors.on_error == "skip":
                    self._release([example])
                else:
                    self._bury(example, reason)
                self._ledger.settle([example], Fate.FAILED)
        finally:
            self._release([example for example in examples if example not in failed])
            # One of them may be what a join would use again and again, and fail with everything it meets.
            self._release(self._forget_failed([example for example in failed if example.fate is Fate.FAILED]))

    def _bury(self, example: Example, reason: str) -> None:
        """Make an example a dead letter; it is done with when the broker has that."""
        parcel = example.parcel
        if parcel is None:
            raise RuntimeError(f"{example} came in no message")

        def done() -> None:
            closed = self._ledger.close(parcel) if example.malformed is not None else self._ledger.release([example])
            self._inbox.acknowledge(closed)

        self._dead_letters.send(parcel.delivery, example.data, example.capture_ms, reason, done)

    def _release(self, examples: Sequence[Example]) -> None:
        if examples:
            self._inbox.acknowledge(self._ledger.release(examples))

    def _release_all(self, jobs: Sequence[Sequence[Example]]) -> None:
        """What was made from these jobs' examples is stored."""
        self._release([example for examples in jobs for example in examples])
