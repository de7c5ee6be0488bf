"""The end of a step: what was made leaves, and what it was made from is settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgeserve._broker.base import Connection
from edgeserve._broker.outbox import Outbox
from edgeserve._core.ledger import Ledger
from edgeserve._core.step import Example, Fate, Outcome
from edgeserve._on_error import ErrorPolicy
from edgeserve._ports import Outputs
from edgeserve._recovery import GivingUp
from edgeserve._route import Route
from edgeserve._tracing import Makes, StepTracing
from edgeserve.errors import EdgeServeError, PayloadTooLarge


class Sending:
    """Sends the outcomes of steps, by the outputs they belong to.

    Args:
        outputs: The operator's; a sink has none.
        ledger: What has the examples.
        route: Learns which payloads were used.
        errors: Whether an output that is too large is given up.
        giving_up: What does that.
        use_up: Settles what was used, and led to nothing that is sent.
        unsent: Called with an output that could not be sent.
        tracing: What gives outputs the context of the trace that they are of; None where nothing is traced.

    Attributes:
        outboxes: What sends, for each output that was opened.
    """

    def __init__(
        self,
        outputs: Sequence[Outputs],
        ledger: Ledger,
        route: Route,
        errors: ErrorPolicy,
        giving_up: GivingUp,
        use_up: Callable[[Sequence[Example]], None],
        unsent: Callable[[Outcome], None],
        tracing: StepTracing | None,
    ) -> None:
        self.outboxes: list[Outbox[Sequence[Example]]] = []
        self._makes: Sequence[Makes] = [each.made if tracing is None else tracing.made_by(each) for each in outputs]
        self._ledger = ledger
        self._route = route
        self._errors = errors
        self._giving_up = giving_up
        self._use_up = use_up
        self._unsent = unsent

    def open(
        self,
        output: Outputs,
        connection: Connection,
        address: str,
        release: Callable[[Sequence[Sequence[Example]]], None],
    ) -> Outbox[Sequence[Example]]:
        """Open the next of the outputs; `release` is called with what outputs were made from that are stored.

        Raises:
            UsageError, BrokerError, BrokerUnreachable: As the connection says.
        """
        outbox = output.opened(connection, address, release)
        self.outboxes.append(outbox)
        return outbox

    def hand_over(self, outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """Send what was made, and settle what it was made from; which of it was not given up as too large.

        What leaves of a batch leaves together.

        Raises:
            PayloadTooLarge: An output is, and such errors are not given up on.
            DeliveryError: The operator was closed while a send waited.
        """
        if len(outcomes) == 1:  # nearly always
            return outcomes if self._handed_over(outcomes[0], more_follows=False) else ()
        handed_over = []
        error: Exception | None = None
        try:
            for outcome in outcomes:
                try:
                    if self._handed_over(outcome, more_follows=True):
                        handed_over.append(outcome)
                except PayloadTooLarge as too_large:
                    error = too_large  # the others leave all the same
        finally:
            for outbox in self.outboxes:
                outbox.flush()
        if error is not None:
            raise error
        return handed_over

    def _handed_over(self, outcome: Outcome, *, more_follows: bool) -> bool:
        if outcome.payload is not None and self.outboxes:
            return self._has_sent(outcome, outcome.payload, more_follows=more_follows)
        self._use_up(outcome.examples)
        return True

    def _has_sent(self, outcome: Outcome, payload: bytes, *, more_follows: bool) -> bool:
        """Send one output, and settle what it was made from. False if it was given up as too large."""
        examples = outcome.examples
        # Held by this job alone, nothing will use them again; and its output may be unconfirmed for long. Looked at
        # before the send, as a confirmation lets go of the job's hold at any time. What needs no other is never held
        # for later.
        spent = examples if len(examples) == 1 else [example for example in examples if example.holds == 1]
        made = self._makes[outcome.port](
            outcome.output_id, payload, outcome.capture_ms, flow_id=outcome.flow_id, is_url=outcome.is_url
        )
        self._route.used(examples)
        try:
            self.outboxes[outcome.port].send(made, examples, more_follows=more_follows)
        except EdgeServeError as error:
            self._route.unused(examples)
            self._unsent(outcome)
            if not isinstance(error, PayloadTooLarge) or not self._errors.covers(error):
                raise
            self._giving_up.give_up(examples, error)
            return False
        self._ledger.settle(examples, Fate.USED)
        for example in spent:
            example.value, example.data = None, b""
        return True
