"""`Worker` runs scripts that arrive on a topic, if they are signed with its key."""

from __future__ import annotations

import hashlib
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edgeserve._broker.base import Share
from edgeserve._consuming import Consuming
from edgeserve._core.checks import check_count, check_ms
from edgeserve._core.clock import Clock
from edgeserve._core.plans import ONLY, ComputePlan
from edgeserve._core.signed import HOW_TO_MAKE_A_KEY, ScriptRefused, Signed, Signer
from edgeserve._core.step import Example, Fate, Job, Outcome
from edgeserve._interrupts import raise_noted, uninterrupted
from edgeserve._log.folder import LogPath
from edgeserve._log.recording import LogTarget
from edgeserve._logging import logger
from edgeserve._notices import Notices
from edgeserve._on_error import ErrorPolicy, OnError
from edgeserve._operator import Life
from edgeserve._ports import Inputs, Values
from edgeserve._recovery import UNSERVED, GivingUp
from edgeserve._route import DEFAULT_FTP_PATH, RoutePolicy
from edgeserve._script_admission import ScriptAdmission
from edgeserve._script_journal import ScriptJournal
from edgeserve._script_process import ScriptProcess, check_platform, environment_of_scripts
from edgeserve._task import check_long_name
from edgeserve._topics import one_topic
from edgeserve.address import MEMORY, Address, LocalAddress, parse_address
from edgeserve.errors import EdgeServeError, ScriptFailed, UsageError
from edgeserve.routing.fetching import Fetching, Stopped

__all__ = ["ScriptResult", "Worker"]

_log = logger("worker")

# Scripts that wait here are of no use to a replica that is free.
_QUEUE_SIZE = 1
_SHOWN_CHARACTERS = 500
# What it takes to end a process, on a machine that is busy.
_ENDING_MS = 2000
# For how long it can be remembered what was run.
_LONGEST_MS = 100 * 365 * 24 * 3600 * 1000


@dataclass(frozen=True)
class ScriptResult:
    """How a script ended.

    Attributes:
        script_id: The id of the example that it came as.
        source: Who sent it, as the example says; that is not signed.
        exit_code: 0 where it did what it should; the negative number of a signal that ended it.
        is_timed_out: Whether it was ended at the time limit.
        stdout: What it printed, as UTF-8: the last `max_output_bytes` of it.
        stderr: What it printed as errors, likewise.
        stdout_bytes: How much it printed, kept or not.
        stderr_bytes: How much it printed as errors, likewise.
        duration_ms: How long it ran.
    """

    script_id: uuid.UUID
    source: str
    exit_code: int
    is_timed_out: bool
    stdout: str = field(repr=False)
    stderr: str = field(repr=False)
    stdout_bytes: int
    stderr_bytes: int
    duration_ms: float

    @property
    def has_failed(self) -> bool:
        """Whether it ended with another exit code than 0, or not by itself."""
        return self.is_timed_out or self.exit_code != 0


class _ScriptWork:
    """Runs a script.

    Args:
        run: Runs that of a job.
    """

    def __init__(self, run: Callable[[Job], ScriptResult]) -> None:
        self._run = run

    def call(self, job: Job) -> ScriptResult:
        """See `Work`."""
        return self._run(job)

    def finish(self, job: Job, result: ScriptResult) -> Sequence[Outcome]:
        """See `Work`."""
        return (Outcome(job.examples, result),)


class Worker(Consuming[ScriptResult]):
    """Runs each script of a topic that is signed with its key, as a process of its own, one after the other.

    `next()` waits for a script, runs it, and returns how it ended, a `ScriptResult`, also where it failed; None where
    what came was not run. What is not signed, was altered, is of another topic, is too old, or was run before is never
    run: it becomes a dead letter that says why, whatever `on_error` says. A script runs as this process's user and is
    not confined.

    Args:
        pulsar_node: The broker; None for the local one.
        topic: The topic to read; it is a part of what is signed. Give it to the `CodeSource` as well, whose own default
            is that of other sources.
        ftp: Whether scripts are fetched of which the source was given the URL. What its `store=` made a URL of is
            fetched in any case. Nothing is fetched before the signature has been checked, which is of the URL and of
            the script's SHA-256; the script is compared with that when it is here.
        ftp_memory: Whether such scripts are fetched into memory; False: with `ftp`, into a file below `local_ftp_path`.
        local_ftp_path: The folder of this node's own payloads; fetched files go to `local_ftp_path/HOST/`.
        log_path, log_filename, log_verbose: The replay log, as for `Compute`.
        key: What the sources sign with: 16 bytes or more, 32 random ones at best (`secrets.token_bytes(32)`). Without
            it there is no worker: whoever may send to the topic could run code here.
        worker_id: This worker's name, and that of its subscription. Workers of different names run every script each;
            those of one name share them.
        time_limit_ms: How long a script may take to be fetched, where only its URL came, and how long it may run. Then
            it is ended, with all that it has started and that is in its process group.
        max_age_ms: How long ago a script may have been signed. For so long, a century at most, it is remembered on this
            node's disk what was run.
        rerun_interrupted: Whether a script that was started and did not end, as its worker was killed or closed, runs
            again when the broker delivers it again. False: it becomes a dead letter. A script that restarts its node or
            its worker would otherwise do that for ever.
        environment: Variables that scripts find in their environment beside a few of this process's.
        max_output_bytes: How much is kept of what a script prints, for each of its two streams.
        fetching: How scripts are fetched: from which hosts, how large, how often it is tried.
        on_error: What happens when a script fails or runs out of time, or can't be fetched or started.
            `'dead_letter'`: it becomes a dead letter; `'skip'`: it is given up; `'retry'`: it is run again, then
            becomes a dead letter; `'raise'`: the step raises `ScriptFailed`, or what went wrong, and it stays
            unacknowledged.
        max_retries: How often `'retry'` tries again.
        retry_interval_ms: How long `'retry'` waits before each time.
        clock: Where time is read; None for the machine's clocks.
        idle_timeout_ms: How long to wait for an arrival before the iteration stops; None: for ever.
        close_timeout_ms: How long `close()` waits for a script that runs; then it is ended.

    Raises:
        UsageError: An argument is wrong, or there is no key; no message has anything of the key in it.
        BrokerError, BrokerUnreachable: The broker can't be used.
        EdgeServeError: The file that says what was run can't be used.
    """

    _merges_copies = False  # what has the id of another script is an attempt to have it run twice

    def __init__(
        self,
        pulsar_node: Address,
        topic: str = "code",
        ftp: bool = False,
        ftp_memory: bool = True,
        local_ftp_path: str = DEFAULT_FTP_PATH,
        *,
        log_path: LogPath = None,
        log_filename: str | None = None,
        log_verbose: bool = False,
        key: bytes | None = None,
        worker_id: str = "worker-sub",
        time_limit_ms: float = 600_000,
        max_age_ms: float = 24 * 3600 * 1000,
        rerun_interrupted: bool = False,
        environment: Mapping[str, str] | None = None,
        max_output_bytes: int = 64 * 1024,
        fetching: Fetching | None = None,
        on_error: OnError = "dead_letter",
        max_retries: int = 3,
        retry_interval_ms: float = 100,
        clock: Clock | None = None,
        idle_timeout_ms: float | None = None,
        close_timeout_ms: int = 10_000,
    ) -> None:
        if key is None:
            raise UsageError(
                f"a Worker runs what comes off a topic, and does not start without a key: {HOW_TO_MAKE_A_KEY}"
            )
        check_platform()
        check_long_name(worker_id, "worker_id")
        check_ms("time_limit_ms", time_limit_ms)
        check_ms("max_age_ms", max_age_ms)
        if max_age_ms > _LONGEST_MS:
            raise UsageError(f"max_age_ms is {max_age_ms!r}: expected {_LONGEST_MS:,} ms (a century) or less")
        check_count("max_output_bytes", max_output_bytes)
        route = RoutePolicy.from_flags(ftp=ftp, memory=ftp_memory, delete=False, root=local_ftp_path, fetching=fetching)
        errors = ErrorPolicy(on_error, max_retries, retry_interval_ms)
        signer = Signer(key)
        self._topic = one_topic(topic)
        self._time_limit_ms = time_limit_ms
        self._environment = environment_of_scripts(environment)
        self._max_output_bytes = max_output_bytes
        self._process: ScriptProcess | None = None
        self._must_end = False
        self._result: ScriptResult | None = None
        address = parse_address(pulsar_node)
        in_memory = isinstance(address, LocalAddress) and (address.path or "").startswith(MEMORY)
        journal = ScriptJournal(self._topic, worker_id, max_age_ms, in_memory=in_memory)
        try:
            super().__init__(
                worker_id,
                Life(clock, idle_timeout_ms, close_timeout_ms),
                Inputs(
                    pulsar_node,
                    [self._topic],
                    worker_id,
                    Share.MESSAGE,
                    signer.fingerprint,
                    queue_size=_QUEUE_SIZE,
                ),
                # A script that looks like a URL is a script. And what is at a URL today may be another one tomorrow.
                Values(None, None, replace(route, wants_urls=False, remembers=False, limit_ms=time_limit_ms)),
                errors,
                ComputePlan({ONLY: ""}),
                _ScriptWork(self._run_job),
                LogTarget(log_path, log_filename, log_verbose),
            )
        except BaseException:
            journal.close()
            raise
        self._parts.callback(journal.close)
        self._admission = ScriptAdmission(
            signer,
            self._topic,
            journal,
            self._clock,
            max_age_ms,
            fetches_urls=ftp,
            reruns_interrupted=rerun_interrupted,
        )
        refusals = Notices(worker_id)  # of their own: scripts that fail do not keep them quiet
        self._parts.callback(refusals.close)
        self._refusing = GivingUp(
            refusals,
            ErrorPolicy("dead_letter"),
            self._ledger,
            self._dead_letters,
            self._release,
            self._acknowledge,
            self._forget,
        )

    def _stop_waiting(self) -> None:
        super()._stop_waiting()
        self._must_end = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait_gone(_ENDING_MS)

    def _perform(self, job: Job) -> ScriptResult | None:
        """Run a script if it is to be run, and settle it."""
        (example,) = job.examples
        self._result = None
        try:
            signed = self._admission.unpacked(example)
            # Before anything is fetched: whoever may send to the topic could have the worker fetch what it likes.
            has_succeeded = self._or_again(example, partial(self._admission.has_succeeded, example, signed.signed_ms))
            if not has_succeeded:
                script = self._recovery.tried(partial(self._brought, signed), job.examples)
                if script is UNSERVED:
                    return None
                signed.check_script(script)  # for what was fetched
                # Which asks again: a replica may have been faster.
                has_succeeded = self._or_again(example, partial(self._admission.note_start, example, signed.signed_ms))
            if has_succeeded:
                self._ledger.settle([example], Fate.DUPLICATE)
                self._release([example])
                return None
            example.value = script
            super()._perform(job)
        except ScriptRefused as refused:
            self._refusing.give_up([example], refused)
        return self._result

    def _brought(self, signed: Signed) -> bytes:
        """The script's bytes, wherever they are.

        Raises:
            PayloadUnavailable: They can't be had.
        """
        if signed.script is not None:
            return signed.script
        route = self._values.route
        try:
            (brought,) = route.fetch([signed.stored or signed.url or ""])
            if isinstance(brought, bytes):
                return brought
            with open(brought, "rb") as file:  # of which no more is used than what is read now
                return file.read()
        except OSError as error:
            raise EdgeServeError(f"a script that was fetched can't be read: {error}") from error
        finally:
            route.release()

    def _run_job(self, job: Job) -> ScriptResult:
        with uninterrupted():  # so that no process is left behind; Ctrl-C is seen where it is waited for
            result = self._result = self._run(job.examples[0], job.arguments[0][ONLY])
        if not result.has_failed:
            return result
        ended = "was ended at its time limit" if result.is_timed_out else f"ended with exit code {result.exit_code}"
        last = _printable(result.stderr).splitlines()[-1:]
        raise ScriptFailed(": ".join([f"script {result.script_id} {ended}", *last]), result)

    def _run(self, example: Example, script: bytes) -> ScriptResult:
        script_id = uuid.UUID(bytes=example.id)
        digest = hashlib.sha256(script).hexdigest()[:16]
        what = (
            f"script {script_id} of {example.source!r} ({len(script):,} bytes, sha256 {digest}) of topic {self._topic}"
        )
        self._admission.note_start_again(example)
        started_ms = self._clock.now().steady_ms
        try:
            process = self._process = ScriptProcess(script, self._environment, self._max_output_bytes)
        except BaseException:
            self._admission.take_back(example)
            raise
        is_over = is_timed_out = False
        try:
            _log.info("worker %s runs %s", self._name, what)
            if self._must_end:  # the close may have come before there was anything to end
                process.kill()
            until_ms = started_ms + self._time_limit_ms
            while not (is_over or is_timed_out):
                is_over = process.has_ended(self._clock.slice_ms(until_ms))
                raise_noted()
                is_timed_out = not is_over and self._clock.now().steady_ms >= until_ms
        finally:
            if process.start_error is None:
                self._admission.note_run()
            exit_code = process.close()
            self._process = None
            duration_ms = self._clock.now().steady_ms - started_ms
            was_cut_off = self._must_end and exit_code == -signal.SIGKILL
            if was_cut_off or not (is_over or is_timed_out):
                _log.warning("worker %s ended %s after %.0f ms: it is closing", self._name, what, duration_ms)
        if process.start_error is not None:
            self._admission.take_back(example)
            raise EdgeServeError(f"a script can't be started on this node: {process.start_error}")
        if was_cut_off:
            raise Stopped
        # What is given up without a dead letter is no more than a duplicate when it comes again.
        has_failed = (is_timed_out or exit_code != 0) and self._errors.on_error != "skip"
        self._admission.note_end(example, has_failed=has_failed)
        out, err = process.stdout, process.stderr
        result = ScriptResult(
            script_id,
            example.source,
            exit_code,
            is_timed_out,
            out.text(),
            err.text(),
            out.size_bytes,
            err.size_bytes,
            duration_ms,
        )
        _log_end(self._name, what, result)
        return result


def _log_end(name: str, what: str, result: ScriptResult) -> None:
    printed = f"{result.stdout_bytes:,} bytes of output, {result.stderr_bytes:,} of errors"
    ended = f"exit code {result.exit_code}" + (", at its time limit" if result.is_timed_out else "")
    _log.info("worker %s ran %s: %s after %.0f ms, %s", name, what, ended, result.duration_ms, printed)
    if result.has_failed:
        _log.warning("worker %s: %s failed, %s: %s", name, what, ended, _printable(result.stderr))


def _printable(stderr: str) -> str:
    """The end of what a script printed as errors, as it may be logged: nothing in it moves a terminal's cursor."""
    tail = stderr.rstrip()[-_SHOWN_CHARACTERS:]
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in tail)
