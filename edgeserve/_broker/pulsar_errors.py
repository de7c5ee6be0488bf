"""What the errors of Pulsar's client become, by the names that its exceptions and its result codes share.

It imports nothing of Pulsar's, so that a test can hold it against whatever the installed client exports.
"""

from __future__ import annotations

import enum

from edgeserve.errors import BrokerError, BrokerUnreachable, DeliveryError, EdgeServeError, UsageError

__all__ = ["BUSY", "HINTS", "KINDS", "TIMEOUT", "TOO_BIG", "Kind", "delivery_error", "translated", "unreachable"]

BUSY = "ConsumerBusy"
TIMEOUT = "Timeout"
TOO_BIG = "MessageTooBig"


class Kind(enum.Enum):
    """Whose move it is after an error."""

    USAGE = "the call is wrong"
    UNREACHABLE = "the broker did not answer, and may later"
    REFUSED = "the broker answered, and said no"
    TOO_LARGE = "the message is over the broker's limit"
    INTERRUPTED = "a signal arrived while the client waited"


KINDS = {
    "PulsarException": Kind.REFUSED,
    "UnknownError": Kind.REFUSED,
    "InvalidConfiguration": Kind.USAGE,
    "Timeout": Kind.UNREACHABLE,
    "LookupError": Kind.REFUSED,
    "ConnectError": Kind.UNREACHABLE,
    "ReadError": Kind.UNREACHABLE,
    "AuthenticationError": Kind.REFUSED,
    "AuthorizationError": Kind.REFUSED,
    "ErrorGettingAuthenticationData": Kind.REFUSED,
    "BrokerMetadataError": Kind.REFUSED,
    "BrokerPersistenceError": Kind.REFUSED,
    "ChecksumError": Kind.REFUSED,
    "ConsumerBusy": Kind.USAGE,
    "NotConnected": Kind.UNREACHABLE,
    "AlreadyClosed": Kind.REFUSED,
    "InvalidMessage": Kind.REFUSED,
    "ConsumerNotInitialized": Kind.REFUSED,
    "ProducerNotInitialized": Kind.REFUSED,
    "ProducerBusy": Kind.REFUSED,
    "TooManyLookupRequestException": Kind.UNREACHABLE,
    "InvalidTopicName": Kind.USAGE,
    "InvalidUrl": Kind.USAGE,
    "ServiceUnitNotReady": Kind.UNREACHABLE,
    "OperationNotSupported": Kind.REFUSED,
    "ProducerBlockedQuotaExceededError": Kind.REFUSED,
    "ProducerBlockedQuotaExceededException": Kind.REFUSED,
    "ProducerQueueIsFull": Kind.REFUSED,
    "MessageTooBig": Kind.TOO_LARGE,
    "TopicNotFound": Kind.REFUSED,
    "SubscriptionNotFound": Kind.REFUSED,
    "ConsumerNotFound": Kind.REFUSED,
    "UnsupportedVersionError": Kind.REFUSED,
    "TopicTerminated": Kind.REFUSED,
    "CryptoError": Kind.REFUSED,
    "IncompatibleSchema": Kind.REFUSED,
    "ConsumerAssignError": Kind.REFUSED,
    "CumulativeAcknowledgementNotAllowedError": Kind.REFUSED,
    "TransactionCoordinatorNotFoundError": Kind.REFUSED,
    "InvalidTxnStatusError": Kind.REFUSED,
    "NotAllowedError": Kind.REFUSED,
    "TransactionConflict": Kind.REFUSED,
    "TransactionNotFound": Kind.REFUSED,
    "ProducerFenced": Kind.REFUSED,
    "MemoryBufferIsFull": Kind.REFUSED,
    "Interrupted": Kind.INTERRUPTED,
}

HINTS = {
    "AlreadyClosed": "it is closed",
    "AuthenticationError": "the broker does not accept who we are: check the token or certificate of PulsarAddress",
    "AuthorizationError": "the token or certificate of PulsarAddress has no right to do this",
    "ErrorGettingAuthenticationData": "the token or certificate of PulsarAddress cannot be read",
    "ConsumerBusy": "the subscription is shared in another way already: give this one another name, or remove it",
    "IncompatibleSchema": "the topic has a schema, and takes no plain bytes",
    "InvalidConfiguration": "an argument is empty or out of range",
    "InvalidTopicName": "the broker refuses the name: expected NAME or persistent://TENANT/NAMESPACE/NAME, without '/'",
    "ProducerBlockedQuotaExceededError": "its backlog quota is used up: something does not acknowledge",
    "ProducerBlockedQuotaExceededException": "its backlog quota is used up: something does not acknowledge",
    "TopicNotFound": "there is no such tenant, namespace or topic, and the broker makes none by itself",
    "TopicTerminated": "it is terminated and takes no more messages",
}


def _sentence(what: str, name: str) -> str:
    hint = HINTS.get(name)
    return f"{what}: {hint} ({name})" if hint is not None else f"{what}: Pulsar says {name}"


def translated(what: str, name: str, address: str, waited_ms: int) -> EdgeServeError:
    """The error that stands for Pulsar's `name`, which came when `what` was tried.

    `Kind.INTERRUPTED` is not for here: it is the user's Ctrl-C and leaves as that.
    """
    kind = KINDS.get(name, Kind.REFUSED)
    if kind is Kind.USAGE:
        return UsageError(_sentence(what, name))
    if kind is Kind.UNREACHABLE:
        return unreachable(what, address, waited_ms, f"Pulsar says {name}")
    return BrokerError(_sentence(what, name), address)


def unreachable(what: str, address: str, waited_ms: int, why: str) -> BrokerUnreachable:
    """The error for a broker that did not answer in time, with what to try."""
    return BrokerUnreachable(
        f"{what}: no answer from an Apache Pulsar at {address} within {waited_ms / 1000:.1f} s ({why}). Is it running, "
        "is the address right, does a firewall let it through? Without one, pulsar_node=None uses the local broker",
        address,
        waited_ms,
    )


def delivery_error(topic: str, name: str, address: str) -> DeliveryError:
    """The error for a send that Pulsar did not confirm."""
    return DeliveryError(_sentence(f"a message for topic {topic!r} was not confirmed", name), address)
