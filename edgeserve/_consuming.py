"""What operators that receive share: a step decides, this base carries it out.

A step takes one arriving example, or a moment that was waited for. Its first half, the join's, says which inputs are
settled, what the task is to run on, and when to step again; the second, the work's, says what to send. Between them
the base runs the task; around them it waits (`Receiving`), counts, sends and acknowledges. An input is acknowledged
when nothing holds it any more and the outputs made from it are confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from edgeserve._broker.connections import ConnectionLease
from edgeserve._broker.dead_letters import DeadLetters
from edgeserve._claims import claim, give_back
from edgeserve._core.clock import pause_ms
from edgeserve._core.flows import message_key
from edgeserve._core.ledger import Ledger, Stats
from edgeserve._core.plans import Plan
from edgeserve._core.reasons import malformed_reason
from edgeserve._core.step import Decision, Example, Fate, Job, Outcome, Parcel
from edgeserve._deduplicate import Deduplicate
from edgeserve._interrupts import interruptibly, raise_noted
from edgeserve._log.opening import open_log
from edgeserve._log.recording import LogTarget, StepLog
from edgeserve._logging import logger
from edgeserve._on_error import ErrorPolicy
from edgeserve._operator import End, Life
from edgeserve._ports import Inputs, Outputs, Values, Work
from edgeserve._receiving import Receiving
from edgeserve._recovery import UNSERVED, GivingUp, Recovery
from edgeserve._sending import Sending
from edgeserve._tracing import step_tracing
from edgeserve.errors import EdgeServeError

if TYPE_CHECKING:
    from edgeserve._served_ids import ServedIds

T = TypeVar("T")
U = TypeVar("U")

_log = logger("operator")

# What was given up has a record of its own.
_LOGGED_OTHERWISE = (None, Fate.FAILED)


class Consuming(Receiving[T]):
    """The base of operators that receive. They bring a plan of their join, and their work."""

    _serves_batches = False
    _merges_copies = True
    _escalates_by: int | None = None
    """The output by which examples go on to the next model of a cascade."""

    _served: ServedIds | None = None

    def __init__(
        self,
        name: str,
        life: Life,
        inputs: Inputs,
        values: Values,
        errors: ErrorPolicy,
        plan: Plan,
        work: Work,
        log: LogTarget,
        *,
        outputs: Sequence[Outputs] = (),
        deduplicate: Deduplicate | None = None,
    ) -> None:
        """Open what it takes."""
        super().__init__(name, life, inputs, Ledger(merges_copies=self._merges_copies))
        self._plan = plan
        self._work = work
        self._join = plan.make()
        self._full = self._join.full
        self._sources = inputs.sources
        self._values = values
        values.on_fetched = self._fetched
        self._errors = errors
        self._batches: dict[int, int] = {}
        self._batches_run = 0
        # What of a message was served, where examples are served as they come.
        self._served_of_message: list[Example] = []
        with self._parts as opening:  # closes what is open already when the rest fails
            opening.callback(self._tell_the_end)  # last: what the others do is counted
            opening.callback(self._notices.close)
            self._lease = ConnectionLease(inputs.pulsar_node)
            opening.callback(self._lease.close)
            subscribed = [(str(self._lease.address), topic, inputs.subscription) for topic in inputs.topics]
            claim(subscribed, inputs.work)
            opening.callback(give_back, subscribed, inputs.work)
            opening.callback(self._close_flushed, values.route)  # last: its deletes follow acknowledgements
            connection = self._lease.connection
            self._open_inbox(opening, connection)
            if deduplicate is not None:
                from edgeserve._served_ids import ServedIds  # and with it SQLite

                self._served = ServedIds(deduplicate, str(self._lease.address), list(inputs.topics), name)
                opening.callback(self._served.close)
            self._dead_letters = DeadLetters(connection, str(self._lease.address), name)
            opening.callback(self._close_flushed, self._dead_letters)
            self._giving_up = GivingUp(
                self._notices, errors, self._ledger, self._dead_letters, self._release, self._acknowledge, self._forget
            )
            self._recovery = Recovery(self._notices, errors, self._has_paused, self._giving_up.give_up)
            if (tracing := step_tracing(self)) is not None:
                self._tell(tracing)
            self._sending = Sending(
                outputs, self._ledger, values.route, errors, self._giving_up, self._use_up, self._unsent, tracing
            )
            self._outboxes = self._sending.outboxes
            for each in outputs:
                outbox = self._sending.open(each, connection, str(self._lease.address), self._release_all)
                opening.callback(self._close_flushed, outbox)
            topics_out = [each.topic for each in outputs]
            self._open_log(log, topics_out)
            self._parts = opening.pop_all()
        sends = f", sends to {', '.join(topics_out)}" if outputs else ""
        ports = f"reads {', '.join(inputs.topics)} of {self._lease.address} as {inputs.subscription!r}{sends}"
        self._opened(ports, inputs.topics, topics_out, self._queue_length)

    def _open_log(self, target: LogTarget, topics_out: Sequence[str]) -> None:
        topics_in = self._inputs.topics
        writer = open_log(target, self, self._clock, topics_in, topics_out, self._plan, left_ms=self._left_to_close_ms)
        if writer is not None:
            slot_of = (lambda flow_id: self._inbox.slot(message_key(flow_id))) if self._inbox.must_ask else None
            at_once = self._join.serves_at_once is not None
            log = StepLog(writer, self._clock, payloads=target.verbose, at_once=at_once, slot_of=slot_of)
            self._inbox.steady_ms = log.steady_ms
            self._tell(log)

    def _tell_the_end(self) -> None:
        if (observer := self._observer) is not None:
            for arrival in self._arrivals:  # those that were settled as they came, and no step has taken
                if arrival.fate is not None:
                    observer.settled(arrival, arrival.fate)
        super()._tell_the_end()

    def _fetched(self, example: Example, payload: Any) -> None:
        if (observer := self._observer) is not None:
            observer.fetched(example, payload)

    def _returned(self, outcomes: Sequence[Outcome]) -> T | None:
        """What `next()` returns."""
        value: T | None = outcomes[0].value if outcomes else None
        return value

    @property
    def stats(self) -> Stats:
        """What it received, what became of that, and what it sent; also after `close()`."""
        outboxes = self._outboxes
        return self._ledger.stats(
            sent=sum([outbox.sent for outbox in outboxes]),
            unconfirmed=sum([outbox.unconfirmed for outbox in outboxes]),
            dead_letters=self._dead_letters.sent,
            received_bytes=self._inbox.received_bytes,
            sent_bytes=sum([outbox.sent_bytes for outbox in outboxes]),
            fetches=self._values.route.stats(self._inbox.announced_bytes),
            escalated=outboxes[self._escalates_by].sent if self._escalates_by is not None else 0,
            batches=dict(self._batches),
        )

    def _stop_waiting(self) -> None:
        self._values.route.stop()
        self._dead_letters.stop()
        for outbox in self._outboxes:
            outbox.stop()

    def _raise_failure(self) -> None:
        self._dead_letters.raise_failure()
        for outbox in self._outboxes:
            outbox.raise_failure()

    def _step(self) -> T | End | None:
        for outbox in self._outboxes:
            if outbox.has_failed:
                outbox.raise_failure()
        if self._arrivals or self._wait():
            if self._values.route.policy.prefetch:
                self._look_ahead()
            arrival = self._arrivals.popleft()
            if not self._admit(arrival):
                if (observer := self._observer) is not None and arrival.fate not in _LOGGED_OTHERWISE:
                    observer.settled(arrival, arrival.fate)
                return None  # settled; a moment that is due comes after what has arrived
            parameter = self._join.serves_at_once
            if parameter is not None:
                # What the join would decide, without asking it, or anyone for the time: it is the most frequent step.
                return self._perform(Job(({parameter: arrival},), (arrival,)))
            return self._decide(arrival)
        return End.OF_STREAM if self._is_over else self._decide(None)

    def _batch_step(self) -> T | End | None:
        """Step until a batch was run, or the end."""
        batches = self._batches_run
        while True:
            result = Consuming._step(self)
            if result is End.OF_STREAM or self._batches_run != batches:
                return result
            raise_noted()

    def _look_ahead(self) -> None:
        """Have the payloads fetched that the next steps will need, nearly all of them."""
        ahead = self._values.route.policy.prefetch
        while len(self._arrivals) <= ahead and self._inbox.fill(0) and self._inbox.tenure == self._tenure:
            self._take_next()
        for example in islice(self._arrivals, 1 + ahead):
            if example.fate is None and (self._sources is None or example.source in self._sources):
                self._values.route.prefetch(example)

    def _decide(self, arrival: Example | None) -> T | None:
        now = self._clock.now()
        if arrival is not None:
            arrival.arrived_steady_ms = now.steady_ms
        decision = self._join.decide(arrival, now)
        self._wake_steady_ms = decision.wake_steady_ms
        self._look_steady_ms = decision.look_steady_ms
        if (observer := self._observer) is not None:
            observer.decided(arrival, now, decision)
        self._carry_out(decision)
        return self._perform(decision.job) if decision.job is not None else None

    def _carry_out(self, decision: Decision) -> None:
        """Do what the join decided, but for running the task."""
        if self._join.full is not self._full:
            self._full = self._join.full
            self._inbox.pause(self._inputs.topics_of(self._full))
        if decision.fates and any(fate is Fate.EVICTED for _, fate in decision.fates):
            self._notices.evicting()
        if decision.job is not None or decision.released or decision.fates:
            self._acknowledge(self._ledger.carry_out(decision))
        if decision.given_back:
            self._inbox.give_back(self._ledger.give_back(decision.given_back))
        if decision.asked:
            self._inbox.ask(decision.asked)

    def _wait(self) -> bool:
        self._raise_failure()  # before a wait that may be long
        self._release(())  # the last of a message may have raised
        return super()._wait()

    def _begin_tenure(self) -> None:
        """Start with nothing, if others had the subscription meanwhile."""
        if self._tenure is not None:
            _log.warning("operator %s has its subscription back and starts anew: what it held comes again", self._name)
            self._ledger.forget()
            self._join = self._plan.make()
            if (observer := self._observer) is not None:
                observer.began_anew()

    def _admit(self, arrival: Example) -> bool:
        """Take one arrival in. False if that settles it."""
        if arrival.fate is not None:
            if arrival.malformed is not None:
                self._notices.malformed(arrival)
                reason = malformed_reason(arrival.malformed)
                self._or_again(arrival, partial(self._giving_up.bury, arrival, reason))
            self._release(())  # it may have been the last of its message
            return False
        if self._served is not None and self._or_again(arrival, partial(self._was_served, self._served, arrival)):
            fate = Fate.DUPLICATE
        elif self._sources is not None and arrival.source not in self._sources:
            self._notices.unknown(arrival.source, self._sources)
            fate = Fate.UNKNOWN_SOURCE
        elif self._values.gate is None:
            return True
        else:
            value = self._recovery.tried(partial(self._gated, arrival), [arrival])
            if value is UNSERVED:
                return False
            if value is not None:
                arrival.value = value
                return True
            fate = Fate.GATED
        self._ledger.settle([arrival], fate)
        self._release([arrival])
        return False

    def _gated(self, arrival: Example) -> Any:
        try:
            return self._values.gated(arrival)
        except BaseException as error:
            if (observer := self._observer) is not None:
                observer.gate_raised(arrival, error)
            raise

    def _or_again(self, arrival: Example, function: Callable[[], U]) -> U:
        """Do something for which it takes the broker or the disk; where they fail, the next step has the arrival."""
        try:
            return function()
        except EdgeServeError:
            self._arrivals.appendleft(arrival)
            raise

    def _was_served(self, served: ServedIds, arrival: Example) -> bool:
        return served.has(arrival.id, self._clock.now().wall_ms)

    def _perform(self, job: Job) -> T | None:
        """Run the task on examples that belong together, and send what it makes of them."""
        # Whatever raises from here to the send leaves them held, and so unacknowledged.
        if self._serves_batches:
            self._batches_run += 1
            self._batches[len(job.units)] = self._batches.get(len(job.units), 0) + 1
            outcomes = self._recovery.tried_batch(self._outcomes, job)
        else:
            outcomes = self._recovery.tried(partial(self._outcomes, job), job.examples)
        if outcomes is UNSERVED:
            return None
        if (observer := self._observer) is not None:
            observer.ran(job, outcomes)
        return self._returned(self._sending.hand_over(outcomes))

    def _outcomes(self, job: Job) -> Sequence[Outcome]:
        if (observer := self._observer) is not None:
            observer.starts(job)
        try:
            job.arguments = self._values.arguments(job.units)
            return self._work.finish(job, interruptibly(self._work.call, job))
        except BaseException as error:
            if (observer := self._observer) is not None:
                observer.raised(job, error)
            raise
        finally:
            self._values.route.release()

    def _use_up(self, examples: Sequence[Example]) -> None:
        """Settle what was used, and led to nothing that is sent."""
        if self._served is not None:
            for example in examples:
                self._served.add(example.id, self._clock.now().wall_ms)
        self._ledger.settle(examples, Fate.USED)
        self._values.route.used(examples)
        self._release(examples)

    def _unsent(self, outcome: Outcome) -> None:
        """Tell that an output was not sent."""
        if (observer := self._observer) is not None:
            observer.withdrawn([outcome.output_id], None)

    def _has_paused(self, duration_ms: float) -> bool:
        """Wait. False if the operator is to stop meanwhile."""
        until_ms = self._clock.now().steady_ms + duration_ms
        while not self._is_stopping:
            if self._clock.now().steady_ms >= until_ms:
                return True
            raise_noted()
            pause_ms(self._clock.slice_ms(until_ms))
        return False

    def _forget(self, given_up: Sequence[Example], reason: str) -> None:
        """Use no more what was given up: a join may use it again and again, and fail with everything it meets."""
        forgotten = self._join.give_up(given_up)
        if (observer := self._observer) is not None and given_up:
            observer.gave_up(given_up, Fate.FAILED, reason, forgotten)
        self._release(forgotten)

    def _release(self, examples: Sequence[Example]) -> None:
        """Hold no longer what a step has done with.

        Where examples are served as they come, those of one message are released together, with the last of them: the
        message is not acknowledged before that. Their payloads go at once.
        """
        if self._join.serves_at_once is not None:
            for example in examples:
                example.value, example.data = None, b""
            self._served_of_message += examples
            served = self._served_of_message
            if self._arrivals and served and self._arrivals[0].parcel is served[0].parcel:
                return
            examples, self._served_of_message = self._served_of_message, []
        if examples:
            self._acknowledge(self._ledger.release(examples))

    def _acknowledge(self, parcels: Sequence[Parcel]) -> None:
        if parcels:
            self._inbox.acknowledge(parcels)
            if self._values.route.policy.deletes:
                # What another tenure received has gone to others, or comes again.
                self._values.route.acknowledged([each for each in parcels if each.delivery.tenure == self._tenure])

    def _release_all(self, jobs: Sequence[Sequence[Example]]) -> None:
        """What was made from these jobs' examples is stored."""
        self._acknowledge(self._ledger.release([example for examples in jobs for example in examples]))
