"""What a Pulsar cluster tells and does over HTTP only: which topics there are, and removing them."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from edgeserve._broker.base import SubscriptionInfo, TopicInfo
from edgeserve.address import PulsarAddress
from edgeserve.errors import BrokerError, UsageError

_DEFAULT = "persistent/public/default"
_TIMEOUT_S = 5.0


class Admin:
    """A cluster's HTTP interface."""

    def __init__(self, address: PulsarAddress) -> None:
        self._address = address
        first_host = urlsplit(f"//{urlsplit(address.url).netloc.split(',')[0]}").hostname or ""
        host = f"[{first_host}]" if ":" in first_host else first_host
        self._web_url = (address.web_url or f"http://{host}:8080").rstrip("/")
        self._timeout_s = min(_TIMEOUT_S, address.connection_timeout_ms / 1000)

    def topics(self) -> Sequence[TopicInfo]:
        """The topics of the default namespace, by name."""
        names = self._ask("GET", _DEFAULT)
        infos = (self._info(name) for name in sorted(names))
        return [info for info in infos if info is not None]

    def _info(self, full_name: str) -> TopicInfo | None:
        path = _path(full_name)
        try:
            stats = self._ask("GET", f"{path}/stats?getPreciseBacklog=true&subscriptionBacklogSize=true")
            stored = self._ask("GET", f"{path}/internalStats")
        except _NotFoundError:
            return None  # removed since it was listed
        except _BadNameError:
            return TopicInfo(_short(full_name), None, 0, ())  # Pulsar makes topics that its HTTP interface cannot name
        subscriptions = [
            SubscriptionInfo(name, of["msgBacklog"], _known(of.get("backlogSize")), len(of["consumers"]))
            for name, of in sorted(stats["subscriptions"].items())
        ]
        return TopicInfo(_short(full_name), stored.get("numberOfEntries"), stats["storageSize"], subscriptions)

    def subscription_type(self, topic: str, subscription: str) -> str | None:
        """How Pulsar says that a subscription is shared; None if it does not say."""
        try:
            stats = self._ask("GET", f"{_path(topic)}/stats")
        except (BrokerError, UsageError):
            return None
        kind = stats["subscriptions"].get(subscription, {}).get("type")
        return str(kind) if kind is not None else None

    def delete(self, topic: str, subscription: str | None) -> None:
        """Remove a subscription, or a topic with all that it holds."""
        path = _path(topic)
        try:
            stats = self._ask("GET", f"{path}/stats")
        except (_NotFoundError, _BadNameError) as error:
            raise UsageError(f"there is no topic {topic!r}") from error
        subscriptions: Mapping[str, Any] = stats["subscriptions"]
        if subscription is not None and subscription not in subscriptions:
            raise UsageError(f"topic {topic!r} has no subscription {subscription!r}")
        leaving = subscriptions if subscription is None else {subscription: subscriptions[subscription]}
        for name, of in leaving.items():
            if of["consumers"]:
                raise UsageError(
                    f"subscription {name!r} of topic {topic!r} is in use: {len(of['consumers'])} consumers"
                )
        if subscription is None and stats["publishers"]:
            raise UsageError(f"topic {topic!r} is in use: {len(stats['publishers'])} producers")
        for name in leaving:
            self._remove(f"{path}/subscription/{quote(name, safe='')}", f"subscription {name!r} of topic {topic!r}")
        if subscription is None:
            self._remove(path, f"topic {topic!r}")

    def _remove(self, path: str, what: str) -> None:
        try:
            self._ask("DELETE", path)
        except _NotFoundError:
            return  # somebody else was faster
        except _ConflictError as error:
            raise UsageError(f"{what} is in use") from error

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(f"{self._web_url}/admin/v2/{path}", method=method)  # noqa: S310
        if self._address.token is not None:
            request.add_header("Authorization", f"Bearer {self._address.token}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s, context=self._tls()) as response:  # noqa: S310
                body = response.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = f"Pulsar's HTTP interface at {self._web_url} says {error.code} {error.reason}"
            kind = {400: _BadNameError, 404: _NotFoundError, 409: _ConflictError, 412: _ConflictError}.get(
                error.code, BrokerError
            )
            raise kind(f"{method} {path}: {reason}", str(self._address)) from error
        except (OSError, ValueError) as error:
            raise BrokerError(
                f"nothing answers at {self._web_url}, where Pulsar's HTTP interface would be ({error}): give its "
                "address with PulsarAddress(url, web_url='http://HOST:PORT')",
                str(self._address),
            ) from error
        try:
            return json.loads(body) if body else None
        except (ValueError, RecursionError) as error:
            raise BrokerError(
                f"what answers at {self._web_url} is not Pulsar's HTTP interface: {method} {path} gave {len(body):,} "
                f"bytes that are no JSON ({error})",
                str(self._address),
            ) from error

    def _tls(self) -> ssl.SSLContext | None:
        if not self._web_url.startswith("https:"):
            return None
        context = ssl.create_default_context(cafile=self._address.tls_trust_certs_path)
        if self._address.tls_certificate_path is not None:
            context.load_cert_chain(self._address.tls_certificate_path, self._address.tls_private_key_path)
        return context


class _NotFoundError(BrokerError):
    """There is nothing of that name."""


class _BadNameError(BrokerError):
    """No name that Pulsar takes over HTTP."""


class _ConflictError(BrokerError):
    """It is in use."""


def _path(topic: str) -> str:
    kind, separator, rest = topic.partition("://")
    parts = rest.split("/", 2) if separator else topic.split("/", 2)
    if separator and kind != "persistent":
        raise UsageError(f"topic {topic!r} stores nothing")
    if len(parts) == 1 and not separator:
        return f"{_DEFAULT}/{quote(topic, safe='')}"
    if len(parts) != 3:
        raise UsageError(f"{topic!r} is no topic: expected NAME or persistent://TENANT/NAMESPACE/NAME")
    return "persistent/" + "/".join(quote(part, safe="") for part in parts)


def _short(full_name: str) -> str:
    return full_name.removeprefix("persistent://public/default/")


def _known(size: int | None) -> int | None:
    return None if size is None or size < 0 else size
