"""Receiving: a consumer looks for messages, takes its turns in handing them out, and acknowledges them."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from edgeserve._broker.base import Delivery, Share
from edgeserve._broker.local.folder import Folder
from edgeserve._broker.local.names import topic_name
from edgeserve._broker.local.position import Position
from edgeserve._broker.local.session import Lifeline, Session
from edgeserve._broker.local.settling import Settled, Settling
from edgeserve._broker.local.subscription import Assigned, Evicted, Turn
from edgeserve._broker.local.topic import Stored, Topic, properties_of
from edgeserve._core.clock import pause_ms, steady_ms
from edgeserve._logging import Seldom, logger
from edgeserve.errors import BrokerError, UsageError

_log = logger("broker.local")

# One turn takes no longer than this many messages do.
_MOST_MESSAGES = 500
_MOST_BYTES = 8 << 20
_MOST_ROOM = 1000

# Looking costs microseconds, so it is done often, and less often the longer nothing came: the pauses, and until when.
_PAUSES_MS = ((10, 0.2), (30, 0.5), (100, 1), (1_000, 2), (10_000, 5), (math.inf, 10))
_PEERS_MS = 20

_GATHER_MS = 5
_TRIM_MS = 200
_RETRY_MS = 100
_LEAVE_MS = 5_000


class _Source(NamedTuple):
    """A topic: its own name, what the caller calls it, and its `uid`."""

    name: str
    given: str
    uid: str


class LocalConsumer:
    """A consumer of one subscription."""

    def __init__(
        self, folder: Folder, lifeline: Lifeline, topics: Mapping[str, str], subscription: str, share: Share, room: int
    ) -> None:
        """Join a subscription of `topics`, which maps their names to what the caller calls them.

        Raises:
            UsageError: The subscription is shared in another way by consumers that live.
        """
        self._folder = folder
        self._lifeline = lifeline.path.name
        self._given = topics
        self._subscription = subscription
        self._share = share
        self._limit = min(room, _MOST_MESSAGES)
        self._session = Session()
        self._trimming = Session()
        self._shares_topics = share is Share.KEY and len(topics) > 1
        self._asked: list[bytes] = []
        self._asked_id = 0
        self._is_closed = False

        self._position = Position()
        self._look_again = True
        self._is_active = False
        self._peers_ms = -math.inf
        self._waits = Seldom(_log)
        self._named = f"subscription {subscription!r} of {', '.join(topics.values())}"
        self._arrived_ms = steady_ms()
        self._pause_ms = 0.0

        self._settling = Settling()
        self._untrimmed = False
        self._wake = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="edgeserve-local-acknowledger", daemon=True)

        try:
            with self._session:
                self._id, self._topics = self._join(min(room, _MOST_ROOM))
        except BaseException:
            self._session.close()
            raise
        self._keeper.start()

    def _join(self, room: int) -> tuple[int, Mapping[int, _Source]]:
        mine = self._folder.subscription(self._session, self._subscription)
        me, ids = mine.join(self._lifeline, self._folder.is_alive, self._share, list(self._given), room)
        topics = {}
        try:
            for name, topic_id in ids.items():
                uid = self._folder.subscribe(self._session, name, self._subscription)
                mine.attach(topic_id, uid)
                topics[topic_id] = _Source(name, self._given[name], uid)
        except BaseException:
            mine.leave(me, Settled())
            raise
        return me, topics

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    # Receiving.

    @property
    def is_active(self) -> bool:
        """False while another consumer has the subscription."""
        with self._session, self._folder.errors():
            if self._is_closed or self._share is not Share.STANDBY:
                return not self._is_closed
            members = self._folder.subscription(self._session, self._subscription).members()
            living = [each for each in members.values() if each.id == self._id or self._folder.is_alive(each.lifeline)]
            return self._id in members and members[self._id].is_active_among(living)

    @property
    def tenure(self) -> int:
        """Always the first: who loses a subscription here is told so, and does not get it back."""
        return 0

    def receive(self, timeout_ms: int) -> Sequence[Delivery]:
        """What is there, or comes within `timeout_ms`.

        Raises:
            BrokerError: The consumer is closed, or its files can't be used.
        """
        give_up_ms = steady_ms() + timeout_ms
        while True:
            found = self._attempt()
            now_ms = steady_ms()
            if found:
                self._arrived_ms = now_ms
                return found
            if now_ms >= give_up_ms:
                return found
            if self._pause_ms > 0:
                pause_ms(min(self._pause_ms, give_up_ms - now_ms))

    def _attempt(self) -> Sequence[Delivery]:
        with self._session, self._folder.errors():
            if self._is_closed:
                raise BrokerError(f"the consumer of {self._subscription!r} is closed", self._folder.address)
            idle_ms = steady_ms() - self._arrived_ms
            self._pause_ms = next(pause for until, pause in _PAUSES_MS if idle_ms < until)
            try:
                return self._look()
            except Evicted as error:
                raise BrokerError(
                    f"the lock file of this process was removed from {self._folder.address}: others took its "
                    f"consumer of {self._subscription!r} for dead",
                    self._folder.address,
                ) from error
            except (sqlite3.Error, OSError) as error:
                if not self._folder.is_full(error):
                    self._session.close()
                    raise
                self._recover(error)
                self._pause_ms = _RETRY_MS
                return []

    def _look(self) -> Sequence[Delivery]:
        """Look for messages, within the session; nothing if there are none for this consumer now."""
        mine = self._folder.subscription(self._session, self._subscription)
        sources = {
            topic_id: self._folder.topic(self._session, topic.name)
            for topic_id, topic in self._topics.items()
            if topic_id not in self._position.paused
        }
        has_changed = mine.changed()
        if has_changed and self._shares_topics:
            self._asked_id, asked = mine.asked(self._id, self._asked_id)
            self._asked += asked
        has_fresh = [topic.changed() for topic in sources.values()]
        # Kept until a look went to its end: a change is reported once.
        self._look_again = self._look_again or has_changed or any(has_fresh)
        dead = self._look_at_peers(has_changed)
        if not dead and not (self._is_active and self._look_again):
            return []
        if not dead and not mine.has_work(self._id, self._position, sources):
            self._look_again = False
            return []
        settled = self._settling.noted()
        turn = mine.take_turn(self._id, self._position, self._limit, settled, dead, sources)
        self._settling.forget(settled)
        found = self._fetch(turn, sources)
        # More for this consumer is one thing, more to hand out another: either is a reason to look again.
        self._look_again = bool(turn.mine) or turn.has_more
        if turn.has_more:
            self._pause_ms = 0
        if dead:
            self._peers_ms = -math.inf
        return found

    def _look_at_peers(self, has_changed: bool) -> Collection[str]:  # noqa: FBT001 - internal
        """Note whether this consumer is active. The lifelines of those that have died, if it is time to look."""
        now_ms = steady_ms()
        is_due = now_ms - self._peers_ms >= _PEERS_MS
        if not (is_due or has_changed):
            return ()
        members = self._folder.subscription(self._session, self._subscription).members()
        if self._id not in members:
            raise Evicted
        self._is_active = members[self._id].is_active_among(members.values())
        if not is_due:
            return ()
        self._peers_ms = now_ms
        others = {member.lifeline for member in members.values()} - {self._lifeline}
        return {lifeline for lifeline in others if not self._folder.is_alive(lifeline)}

    def _fetch(self, turn: Turn, sources: Mapping[int, Topic]) -> Sequence[Delivery]:
        found: list[Delivery] = []
        size, seen_id = 0, turn.position.after_id
        for topic_id, batch in turn.batches():
            if size >= _MOST_BYTES:
                break
            stored = sources[topic_id].messages([assigned.seq for assigned in batch])
            for assigned in batch:
                message = stored.get(assigned.seq)
                if message is None:  # a power cut took back its acknowledgement, but not its removal
                    self._acknowledge([assigned.id])
                    continue
                found.append(self._delivery(assigned, message))
                size += len(message.payload)
            seen_id = batch[-1].id
        else:
            seen_id = turn.seen_id
        # Only now: what an error keeps from being returned is asked for again.
        self._position = turn.position.advanced(seen_id)
        return found

    def _delivery(self, assigned: Assigned, message: Stored) -> Delivery:
        seq, event_ms, publish_ms, key, _, payload = message
        _, given, uid = self._topics[assigned.topic_id]
        properties = properties_of(message)
        return Delivery(assigned.id, given, f"{uid}:{seq}", payload, event_ms, publish_ms, key, properties)

    def pause(self, topics: Collection[str]) -> None:
        """Take nothing of these topics, and of all others again.

        Raises:
            UsageError: One is no topic of this consumer.
        """
        ids = {topic.name: topic_id for topic_id, topic in self._topics.items()}
        names = [topic_name(each) for each in topics]
        if unknown := [each for each in names if each not in ids]:
            raise UsageError(f"the consumer of {self._subscription!r} has no topic {unknown[0]!r} to pause")
        with self._session:
            self._position = self._position.pausing(frozenset(ids[each] for each in names))
            self._look_again = True

    # Between consumers: a key is with one of them at any time; but one that takes no more holds up the others.

    @property
    def must_ask(self) -> bool:
        """Never: a key with anything outstanding on any topic stays with its holder."""
        return False

    def slot(self, key: str | None) -> int:
        """Each key stays with its holder by itself."""
        return 0

    def ask(self, keys: Sequence[bytes]) -> None:
        """Tell the others; what can't be told now is asked again."""
        if self._shares_topics and not self._is_closed:
            try:
                with self._session, self._folder.errors():
                    self._folder.subscription(self._session, self._subscription).ask(self._id, keys)
            except (BrokerError, sqlite3.Error, OSError) as error:
                _log.debug("%s can't ask: %s", self._named, error)

    def asked(self) -> Sequence[bytes]:
        """What the others have asked for since the last call, as of the last `receive`."""
        asked, self._asked = self._asked, []
        return asked

    # Acknowledging, and giving back.

    @property
    def max_unacknowledged(self) -> int | None:
        """Any number."""
        return None

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Mark messages as done, soon."""
        if not self._is_closed and not self._session.is_inherited:
            self._acknowledge([delivery.handle for delivery in deliveries if delivery.handle is not None])

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Have messages delivered again, soon.

        Raises:
            UsageError: The consumer has the subscription for itself.
        """
        if self._share is Share.STANDBY:
            raise UsageError(f"the consumer of {self._subscription!r} has it for itself: nobody to give messages to")
        if not self._is_closed and not self._session.is_inherited:
            given = [delivery for delivery in deliveries if delivery.handle is not None]
            self._settling.give_back([delivery.handle for delivery in given])
            for delivery in given:
                delivery.handle = None
            self._wake.set()

    def _acknowledge(self, handles: Sequence[int]) -> None:
        self._settling.acknowledge(handles)
        self._untrimmed = True
        if not self._wake.is_set():
            self._wake.set()

    def _keep(self) -> None:
        """Acknowledge while nobody receives, and remove what all subscriptions have acknowledged."""
        trimmed_ms = -math.inf
        while True:
            self._wake.wait(_TRIM_MS / 1000 if self._untrimmed else None)
            if self._is_closed:
                return
            self._wake.clear()
            pause_ms(_GATHER_MS)
            try:
                with self._session:
                    settled = self._settling.noted()
                    if any(settled) and not self._is_closed:
                        mine = self._folder.subscription(self._session, self._subscription)
                        mine.settle(self._id, settled)
                        self._settling.forget(settled)
                        self._look_again = self._look_again or bool(settled.returned)
                if self._untrimmed and steady_ms() - trimmed_ms >= _TRIM_MS:
                    self._untrimmed = False
                    self._trim()
                    trimmed_ms = steady_ms()
            except (sqlite3.Error, OSError) as error:
                self._untrimmed = True
                self._recover(error)
                self._trimming.close()
                pause_ms(_RETRY_MS)
                self._wake.set()

    def _trim(self) -> None:
        # In a session of its own: a slice can take tens of ms, which nobody who receives should wait for.
        for topic in self._topics.values():
            has_more = True
            while has_more and not self._is_closed:  # whoever comes next trims the rest
                with self._trimming:
                    has_more = self._folder.trim(
                        self._trimming, self._folder.topic(self._trimming, topic.name), self._subscription
                    )

    def _recover(self, error: Exception) -> None:
        """Tell why nothing comes, and start anew with the files."""
        self._waits.say("%s waits: %s", self._named, self._folder.explain(error))
        self._session.close()

    def close(self) -> None:
        """Acknowledge what is done with, and leave the rest to the others.

        Raises:
            BrokerError: The disk stays full or fails; the others get all this consumer had once the process ends.
        """
        if self._session.is_inherited:
            return
        with self._session:
            if self._is_closed:
                return
            self._is_closed = True
        self._wake.set()
        self._keeper.join()
        give_up_ms = steady_ms() + _LEAVE_MS
        with self._folder.errors():
            try:
                while not self._has_left(last_try=steady_ms() >= give_up_ms):
                    pause_ms(_RETRY_MS)
            finally:
                self._session.close()
                self._trimming.close()

    def _has_left(self, *, last_try: bool) -> bool:
        try:
            with self._session:
                mine = self._folder.subscription(self._session, self._subscription)
                mine.leave(self._id, self._settling.noted())
        except sqlite3.OperationalError as error:
            if last_try or not self._folder.is_full(error):
                raise
            self._recover(error)
            return False
        return True
