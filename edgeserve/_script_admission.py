"""Which scripts may start on a worker, and what is noted of those that do."""

from __future__ import annotations

from edgeserve._core.clock import Clock
from edgeserve._core.signed import ScriptRefused, Signed, Signer, check_age, unpack_signed
from edgeserve._core.step import Example
from edgeserve._logging import logger
from edgeserve._script_journal import ScriptJournal
from edgeserve.errors import EdgeServeError

_log = logger("worker")


class ScriptAdmission:
    """Checks scripts, one after the other, and notes their starts and ends.

    Args:
        signer: Has the worker's key.
        topic: Where scripts come from.
        journal: What was started before.
        clock: The worker's.
        max_age_ms: How long ago scripts may have been signed.
        fetches_urls: Whether URLs that their source was given are fetched.
        reruns_interrupted: Whether what was started, and did not end, may start again.
    """

    def __init__(
        self,
        signer: Signer,
        topic: str,
        journal: ScriptJournal,
        clock: Clock,
        max_age_ms: float,
        *,
        fetches_urls: bool,
        reruns_interrupted: bool,
    ) -> None:
        self._signer = signer
        self._topic = topic
        self._journal = journal
        self._clock = clock
        self._max_age_ms = max_age_ms
        self._fetches_urls = fetches_urls
        self._reruns_interrupted = reruns_interrupted
        # Of the last script whose start was noted.
        self._signed_ms = 0
        self._is_noted = self._may_have_run = False

    def unpacked(self, example: Example) -> Signed:
        """What an example says of a script, which is what was signed.

        Raises:
            ScriptRefused: It is no signed script, or one that is not fetched here.
        """
        signed = unpack_signed(example.value)
        self._signer.check(signed, self._topic, example.id)
        if signed.script is not None:
            signed.check_script(signed.script)
        if signed.url is not None and not self._fetches_urls:
            raise ScriptRefused("only its URL came, which its source was given: a worker fetches such with ftp=True")
        return signed

    def has_succeeded(self, example: Example, signed_ms: int) -> bool:
        """Whether a script has run, and only comes again; False: it may start.

        Raises:
            ScriptRefused: It may not.
            EdgeServeError: That can't be looked up.
        """
        earlier = self._journal.find(example.id)
        if earlier is not None:
            return earlier.has_succeeded(_message_id(example), reruns_interrupted=self._reruns_interrupted)
        check_age(signed_ms, self._clock.now().wall_ms, self._max_age_ms)
        return False

    def note_start(self, example: Example, signed_ms: int) -> bool:
        """Note that a script is about to start. Whether it has run meanwhile, and is not to start.

        Raises:
            ScriptRefused: It may not.
            EdgeServeError: That can't be noted.
        """
        if self.has_succeeded(example, signed_ms):
            return True
        message_id = _message_id(example)
        earlier = self._journal.start(example.id, message_id, signed_ms, self._clock.now().wall_ms)
        self._signed_ms, self._is_noted, self._may_have_run = signed_ms, True, earlier is not None
        return earlier is not None and earlier.has_succeeded(message_id, reruns_interrupted=self._reruns_interrupted)

    def note_start_again(self, example: Example) -> None:
        """Before each try: note the start once more, if that of the last try was taken back.

        Raises:
            ScriptRefused: It may not start any more.
            EdgeServeError: That can't be noted.
        """
        if not self._is_noted and self.note_start(example, self._signed_ms):
            raise ScriptRefused("it has been run meanwhile by another worker of this name")

    def note_run(self) -> None:
        """Something of the script may have run: its start is not taken back any more."""
        self._may_have_run = True

    def take_back(self, example: Example) -> None:
        """The script could not be started: unless something of it may have run before, it may start later."""
        if self._may_have_run:
            return
        try:
            self._journal.take_back(example.id)
            self._is_noted = False
        except EdgeServeError as error:
            _log.warning("a script that was not started will not be started later either: %s", error)

    def note_end(self, example: Example, *, has_failed: bool) -> None:
        """The script has ended. Nothing is raised: what raises here would have it run again."""
        try:
            self._journal.end(example.id, has_failed=has_failed)
        except EdgeServeError as error:
            _log.warning("if the message of a script that has ended comes again, it will be refused: %s", error)


def _message_id(example: Example) -> str:
    return example.parcel.delivery.message_id if example.parcel is not None else ""
