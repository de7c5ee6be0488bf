"""What edgeserve raises. What your task or gate raises comes through as it is.

EdgeServeError
  UsageError (ValueError)         the call is wrong; nothing was sent
    PayloadTooLarge               has .size_bytes and .limit_bytes; lazy routing carries what is larger
  MissingExtra (ImportError)      the message has the command that installs it
  MalformedMessage (ValueError)   the bytes are wrong
  BrokerError                     address, permission or topic; has .address
    BrokerUnreachable             has .waited_ms
    DeliveryError                 a send failed; its input stays unacknowledged
  PayloadUnavailable              a payload can't be fetched; has .url (without credentials) and .reason
  PayloadNotStored                a payload can't be kept in its store; its example was not sent
  ScriptFailed                    a script that a Worker ran failed, or ran out of time; has .result
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "BrokerError",
    "BrokerUnreachable",
    "DeliveryError",
    "EdgeServeError",
    "MalformedMessage",
    "MissingExtra",
    "PayloadNotStored",
    "PayloadTooLarge",
    "PayloadUnavailable",
    "ScriptFailed",
    "UsageError",
]


class EdgeServeError(Exception):
    """The base of everything that edgeserve raises by itself."""


class UsageError(EdgeServeError, ValueError):
    """The call is wrong: an argument, a name, or an operator used after `close()`. Nothing was sent."""


class PayloadTooLarge(UsageError):
    """An example is larger than the broker takes.

    Attributes:
        size_bytes: How large the message would be, its ids and header included.
        limit_bytes: What the broker takes; None where the broker's own limit is smaller and it does not tell it.
    """

    def __init__(self, size_bytes: int, limit_bytes: int | None, topic: str) -> None:
        limit = f"limit of {limit_bytes:,}" if limit_bytes is not None else "own limit (its maxMessageSize)"
        super().__init__(
            f"a message of {size_bytes:,} bytes for topic {topic!r} is over the broker's "
            f"{limit}: send a smaller payload, or keep it where it was made and send its URL "
            "(lazy data routing)"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class MissingExtra(EdgeServeError, ImportError):
    """A feature needs a package that is not installed; the message has the command that installs it."""


class MalformedMessage(EdgeServeError, ValueError):
    """Bytes that are not what their format promises.

    Operators count a message that is no example and go on; raised by a gate, it is an error like any other of a gate.
    """


class BrokerError(EdgeServeError):
    """The broker refused: its address, a permission, or a topic.

    Attributes:
        address: The broker's address, without credentials.
    """

    def __init__(self, message: str, address: str) -> None:
        super().__init__(message)
        self.address = address


class BrokerUnreachable(BrokerError):
    """Nothing answered at the broker's address.

    Attributes:
        waited_ms: How long was waited for an answer, in ms.
    """

    def __init__(self, message: str, address: str, waited_ms: int) -> None:
        super().__init__(message, address)
        self.waited_ms = waited_ms


class DeliveryError(BrokerError):
    """A send was not confirmed by the broker. The inputs it was made from stay unacknowledged."""


class PayloadUnavailable(EdgeServeError):
    """A payload that waits elsewhere can't be fetched: it is gone, changed, too large, not allowed, or out of reach.

    Attributes:
        url: Its URL, without credentials.
        reason: Why.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"the payload {url}: {reason}")
        self.url = url
        self.reason = reason


class PayloadNotStored(EdgeServeError):
    """A payload can't be kept in its store, for lack of room perhaps. Its example was not sent."""


class ScriptFailed(EdgeServeError):
    """A script that a `Worker` ran ended with another exit code than 0, or was ended at its time limit.

    Attributes:
        result: How it ended, a `ScriptResult`.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result = result
