"""The broker's folder: where the files of topics and subscriptions are, and what is done to several of them."""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from edgeserve._broker.base import SubscriptionInfo, TopicInfo
from edgeserve._broker.local import locks
from edgeserve._broker.local.database import Durability, ForeignFile
from edgeserve._broker.local.memory import memory_folder
from edgeserve._broker.local.names import file_name
from edgeserve._broker.local.session import ForkedSession, Session
from edgeserve._broker.local.subscription import Subscription
from edgeserve._broker.local.topic import Topic
from edgeserve.address import LocalAddress
from edgeserve.errors import BrokerError, UsageError


@lru_cache(maxsize=1024)
def _path(folder: Path, name: str) -> Path:
    return folder / file_name(name)


class Folder:
    """The files of one broker. Methods that take a session are called within it."""

    def __init__(self, address: LocalAddress) -> None:
        """Make the folder, if it is not there.

        Raises:
            BrokerError: It can't be made, or not be written to.
        """
        self.address = str(address)
        self.max_topic_bytes = address.max_topic_bytes
        in_memory = address.folder is None
        with self.errors():
            self._path = address.folder if address.folder is not None else memory_folder(address.path or "")
            self._topics = self._path / "topics"
            self._subscriptions = self._path / "subscriptions"
            self.lifelines = self._path / "processes"
            for part in (self._topics, self._subscriptions, self.lifelines):
                part.mkdir(parents=True, exist_ok=True)
            locks.sweep(self.lifelines)
        self._durability = Durability.FULL if address.sync_full else Durability.NORMAL
        if in_memory:
            self._durability = Durability.OFF

    # Files.

    def topic(self, session: Session, name: str) -> Topic:
        """A topic's file, made if need be."""
        path = _path(self._topics, name)
        return session.use(path, partial(Topic, path, name, self._durability))

    def subscription(self, session: Session, name: str) -> Subscription:
        """A subscription's file, made if need be."""
        path = _path(self._subscriptions, name)
        return session.use(path, partial(Subscription, path, name, self._durability))

    def existing(self, session: Session, topic: str) -> Topic:
        """A topic that is there.

        Raises:
            UsageError: There is none of that name.
        """
        if _path(self._topics, topic).exists():
            found = self.topic(session, topic)
            if found.is_made:
                return found
        raise UsageError(f"there is no topic {topic!r} at {self.address}")

    def is_alive(self, lifeline: str) -> bool:
        """Whether the process of a consumer lives."""
        return locks.is_held(self.lifelines / lifeline)

    def subscribe(self, session: Session, topic: str, subscription: str) -> str:
        """Keep a topic's messages for a subscription from now on. The topic's `uid`."""
        found = self.topic(session, topic)
        if subscription not in found.subscriptions():
            self.trim_for_all(session, found)  # a new one starts with what somebody has not acknowledged
        return found.subscribe(subscription)

    # What concerns a topic and its subscriptions.

    def trim(self, session: Session, topic: Topic, subscription: str) -> bool:
        """Remove a slice of what all have acknowledged, one subscription's newest progress known. Whether any."""
        progress = self.subscription(session, subscription).progress(topic.name)
        if progress is not None:
            topic.acknowledged(subscription, progress.acknowledged)
        return topic.trim()

    def trim_for_all(self, session: Session, topic: Topic) -> None:
        """Remove all that all have acknowledged, also where nobody was left to do it."""
        for subscription in topic.subscriptions():
            while self.trim(session, topic, subscription):
                pass

    def topics(self, session: Session) -> Sequence[TopicInfo]:
        """All topics, by name."""
        found = []
        for path in self._topics.glob("*.db"):
            topic = session.use(path, partial(Topic, path, None, self._durability))
            if topic.is_made:
                found.append(self._info(session, topic))
            session.close_surplus()
        return sorted(found)

    def _info(self, session: Session, topic: Topic) -> TopicInfo:
        found = []
        for name in topic.subscriptions():
            subscription = self.subscription(session, name)
            progress = subscription.progress(topic.name)
            cursor = progress.cursor if progress is not None else 0
            messages, size = topic.backlog(cursor, subscription.outstanding(topic.name))
            found.append(SubscriptionInfo(name, messages, size, subscription.consumers(topic.name, self.is_alive)))
        return TopicInfo(topic.name, topic.count(), topic.used_bytes(), found)

    def delete_topic(self, session: Session, name: str) -> None:
        """Remove a topic with all it holds.

        Raises:
            UsageError: There is none, or a consumer that lives has it.
        """
        topic = self.existing(session, name)
        subscriptions = {each: self.subscription(session, each) for each in topic.subscriptions()}
        for subscription, file in subscriptions.items():
            _refuse_if_used(name, subscription, file.consumers(name, self.is_alive))
        for subscription, file in subscriptions.items():
            leave = partial(topic.unsubscribe, subscription)
            _refuse_if_used(name, subscription, file.forget(name, self.is_alive, leave))
        topic.remove()

    def delete_subscription(self, session: Session, name: str, subscription: str) -> None:
        """Remove a subscription of a topic.

        Raises:
            UsageError: There is none, or a consumer that lives has it.
        """
        topic = self.existing(session, name)
        if subscription not in topic.subscriptions():
            raise UsageError(f"topic {name!r} has no subscription {subscription!r} at {self.address}")
        leave = partial(topic.unsubscribe, subscription)
        users = self.subscription(session, subscription).forget(name, self.is_alive, leave)
        _refuse_if_used(name, subscription, users)
        self.trim_for_all(session, topic)

    # What can go wrong.

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what SQLite and the system report as a BrokerError that says what to do.

        Raises:
            BrokerError: Instead of theirs.
        """
        try:
            yield
        except (sqlite3.Error, OSError, ForkedSession) as error:
            raise BrokerError(self.explain(error), self.address) from error

    def explain(self, error: Exception) -> str:
        """What went wrong, in words for the user."""
        if isinstance(error, (ForeignFile, ForkedSession)):
            return str(error)
        if self.is_full(error):
            return f"the disk of {self.address} is full ({error}): nothing stored is damaged; make room and try again"
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return f"{self.address} is, or lies in, a file: expected a folder"
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            return f"a file at {self.address} is no database: it was not made by the local broker ({error})"
        return (
            f"the local broker at {self.address} failed ({error}): it needs a folder that this user may write to, on "
            "a disk of this machine; another is chosen by local://PATH or EDGESERVE_HOME"
        )

    def is_full(self, error: Exception) -> bool:
        """Whether the disk is what failed."""
        if isinstance(error, OSError):
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not isinstance(error, sqlite3.OperationalError):
            return False
        # SQLite has no word of its own for a full disk in each of its calls.
        return "full" in str(error) or ("I/O" in str(error) and shutil.disk_usage(self._path).free < 1 << 20)


def _refuse_if_used(topic: str, subscription: str, consumers: int) -> None:
    if consumers:
        raise UsageError(
            f"subscription {subscription!r} of topic {topic!r} is in use by {consumers} consumer"
            f"{'s' if consumers > 1 else ''}: close them first"
        )
