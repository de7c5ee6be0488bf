"""What follows when a step raises: try again, give up, find the poison in a batch; as `on_error` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgeserve._broker.dead_letters import DeadLetters
from edgeserve._core.ledger import Ledger
from edgeserve._core.reasons import reason_of
from edgeserve._core.step import Example, Fate, Job, Outcome, Parcel, Unit, flow_name
from edgeserve._notices import Notices
from edgeserve._on_error import ErrorPolicy
from edgeserve.routing.fetching import Stopped

UNSERVED = object()
"""What takes the place of a result where there is none: None is one."""


class GivingUp:
    """Settles what is given up, and makes dead letters of it.

    Args:
        notices: What says so.
        policy: Whether there are dead letters.
        ledger: What has the examples.
        dead_letters: Where they go.
        release: Holds examples no longer.
        acknowledge: Acknowledges messages.
        forget: Called with what was given up, and why.
    """

    def __init__(
        self,
        notices: Notices,
        policy: ErrorPolicy,
        ledger: Ledger,
        dead_letters: DeadLetters,
        release: Callable[[Sequence[Example]], None],
        acknowledge: Callable[[Sequence[Parcel]], None],
        forget: Callable[[Sequence[Example], str], None],
    ) -> None:
        self._notices = notices
        self._policy = policy
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._release = release
        self._acknowledge = acknowledge
        self._forget = forget

    def give_up(self, examples: Sequence[Example], error: Exception) -> None:
        """Settle the examples of a step as failed; those that were new in it become dead letters."""
        failed = [example for example in examples if example.fate is None]
        reason = reason_of(error)
        self._notices.gives_up(failed, reason)
        try:
            for example in failed:
                if self._policy.on_error == "skip":
                    self._release([example])
                else:
                    self.bury(example, reason)
                self._ledger.settle([example], Fate.FAILED)
        finally:
            self._release([example for example in examples if example not in failed])
            self._forget([example for example in failed if example.fate is Fate.FAILED], reason)

    def bury(self, example: Example, reason: str) -> None:
        """Make an example a dead letter; it is done with when the broker has that.

        Raises:
            BrokerError: The dead letters' topic can't be opened.
        """
        parcel = example.parcel
        if parcel is None:
            raise RuntimeError(f"{example} came in no message")

        def done() -> None:
            closed = self._ledger.close(parcel) if example.malformed is not None else self._ledger.release([example])
            self._acknowledge(closed)

        self._dead_letters.send(parcel.delivery, example.data, example.capture_ms, reason, done, is_url=example.is_url)


class Recovery:
    """Goes on after errors.

    Args:
        notices: What says which flows were in a batch that raised.
        policy: What `on_error` and its companions say.
        pause: Waits so many ms; False if the operator is to stop meanwhile.
        give_up: Settles examples as failed, for a reason.
    """

    def __init__(
        self,
        notices: Notices,
        policy: ErrorPolicy,
        pause: Callable[[float], bool],
        give_up: Callable[[Sequence[Example], Exception], None],
    ) -> None:
        self._notices = notices
        self._policy = policy
        self._pause = pause
        self._give_up = give_up

    def _covers(self, error: Exception) -> bool:
        return not isinstance(error, Stopped) and self._policy.covers(error)

    def tried(self, function: Callable[[], Any], examples: Sequence[Example]) -> Any:
        """What the function returns; `UNSERVED` if it raised and its examples were given up, or the operator stops.

        Raises:
            Exception: What it raised, if the step can't go on after that.
        """
        try:
            return function()
        except Exception as error:  # noqa: BLE001 - raised again unless `on_error` covers it
            return self._recovered(function, examples, error)

    def _recovered(self, function: Callable[[], Any], examples: Sequence[Example], error: Exception) -> Any:
        try:
            return self._retried(function, error)
        except Stopped:
            return UNSERVED
        except Exception as last:
            if not self._covers(last):
                raise
            self._give_up(examples, last)
            return UNSERVED

    def tried_batch(self, run: Callable[[Job], Sequence[Outcome]], job: Job) -> Any:
        """What running a batch gives: where it raises, of what is left when the poison was found and given up.

        Raises:
            Exception: What it raised, if the step can't go on after that.
        """
        try:
            return run(job)
        except Exception as error:  # noqa: BLE001 - raised again unless `on_error` covers it
            try:
                return self._retried(partial(run, job), error)
            except Stopped:
                return UNSERVED
            except Exception as last:
                if not self._covers(last):
                    self._name_units(job, last)
                    raise
                return self._without_poison(run, job.units, last)

    def _retried(self, again: Callable[[], Any], error: Exception) -> Any:
        """What another try returns, if another is made and one succeeds.

        Raises:
            Exception: The last error.
        """
        if self._policy.on_error == "retry" and self._covers(error):
            for _ in range(self._policy.max_retries):
                if not self._pause(self._policy.retry_interval_ms):
                    return UNSERVED
                try:
                    return again()
                except Exception as next_error:
                    if not self._covers(next_error):
                        raise
                    error = next_error
        raise error

    def _without_poison(self, run: Callable[[Job], Sequence[Outcome]], units: Sequence[Unit], error: Exception) -> Any:
        """Give up each unit that fails by itself, and run the others together.

        Where none does, and yet all together fail, the halves become batches of their own.
        """
        try:
            poison = self._poison(run, units, error)
            for unit, its_error in poison:
                self._give_up(list(unit.values()), its_error)
            rest = [unit for unit in units if all(unit is not bad for bad, _ in poison)]
            if not rest:
                return UNSERVED
            parts = [rest] if poison else [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
            return [outcome for part in parts for outcome in self._run_part(run, part)]
        except Stopped:
            return UNSERVED

    def _run_part(self, run: Callable[[Job], Sequence[Outcome]], units: Sequence[Unit]) -> Sequence[Outcome]:
        try:
            return run(Job(units))
        except Exception as error:
            if not self._covers(error):
                raise
            outcomes = self._without_poison(run, units, error)
            return () if outcomes is UNSERVED else outcomes

    def _poison(
        self, run: Callable[[Job], Sequence[Outcome]], units: Sequence[Unit], error: Exception
    ) -> list[tuple[Unit, Exception]]:
        """The units that fail by themselves, of some that fail together."""
        if len(units) == 1:
            return [(units[0], error)]
        found = []
        middle = len(units) // 2
        for half in (units[:middle], units[middle:]):
            try:
                run(Job(half))
            except Exception as half_error:
                if not self._covers(half_error):
                    raise
                found += self._poison(run, half, half_error)
        return found

    def _name_units(self, job: Job, error: Exception) -> None:
        """Say which flows were in the batch that raised."""
        what = self._notices.failed_batch([_name_of(unit) for unit in job.units], error)
        if hasattr(error, "add_note"):  # Python 3.11
            error.add_note(what)


def _name_of(unit: Unit) -> str:
    example = next(iter(unit.values()))
    return f"flow {flow_name(example.header)}" if example.header else repr(example)
