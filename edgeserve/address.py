"""Where a broker is: the strings and objects that `pulsar_node` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from edgeserve._core.checks import check_count
from edgeserve.errors import UsageError

__all__ = ["Address", "LocalAddress", "PulsarAddress", "parse_address"]

MEMORY = ":memory:"
_PORTS = {"pulsar": 6650, "pulsar+ssl": 6651}


@dataclass(frozen=True)
class PulsarAddress:
    """An Apache Pulsar cluster, with what it takes to be let in.

    Attributes:
        url: `pulsar://HOST:PORT` or, with TLS, `pulsar+ssl://HOST:PORT`.
        token: A JSON web token to log in with. It is shown nowhere.
        tls_trust_certs_path: The certificates to trust, a PEM file; None for the system's.
        tls_certificate_path: This client's certificate, a PEM file, where the cluster asks for one.
        tls_private_key_path: Its key, a PEM file.
        connection_timeout_ms: How long to wait for the broker before `BrokerUnreachable`.
        web_url: The cluster's HTTP address, which `edgeserve topics` asks; None for port 8080 of the same host.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    tls_trust_certs_path: str | None = None
    tls_certificate_path: str | None = None
    tls_private_key_path: str | None = None
    connection_timeout_ms: int = 10_000
    web_url: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            hosts = [urlsplit(f"//{host}") for host in parts.netloc.split(",")]
            is_address = parts.scheme in _PORTS and all(host.hostname and (host.port or True) for host in hosts)
        except ValueError:  # a port that is none, or brackets that do not close
            is_address = False
        if not is_address:
            raise UsageError(
                f"{self.url!r} is no address of an Apache Pulsar: expected pulsar://HOST:PORT or pulsar+ssl://HOST:PORT"
            )
        if parts.username is not None or parts.password is not None:
            raise UsageError("an address has no user or password: log in with PulsarAddress(url, token=...)")
        check_count("connection_timeout_ms", self.connection_timeout_ms)

    def __str__(self) -> str:
        return self.url


def data_folder() -> Path:
    """Where edgeserve keeps files unless it is told otherwise: `$EDGESERVE_HOME`, else the user's data folder."""
    home = os.environ.get("EDGESERVE_HOME")
    if home:
        return Path(home).absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir("edgeserve", appauthor=False))


@dataclass(frozen=True)
class LocalAddress:
    """The local broker: topics in the files of one folder, for the processes of one machine.

    Attributes:
        path: The folder; None for `$EDGESERVE_HOME`, else the user's data folder. `:memory:NAME` is a broker that
            lives and ends with this process.
        max_topic_bytes: What a topic may hold; beyond it a send waits until something was acknowledged everywhere.
        sync_full: Whether a confirmed message also survives a power cut, not only the death of every process.
    """

    path: str | None = None
    max_topic_bytes: int = 1 << 30
    sync_full: bool = False

    def __post_init__(self) -> None:
        if self.path is not None and not self.path:
            raise UsageError("the local broker's folder is empty: expected local://PATH, or None for the default")
        check_count("max_topic_bytes", self.max_topic_bytes)

    @property
    def folder(self) -> Path | None:
        """The folder of the files, absolute; None for a broker in memory."""
        if self.path is None:
            return data_folder()
        return None if self.path.startswith(MEMORY) else Path(self.path).expanduser().absolute()

    def __str__(self) -> str:
        return f"local://{self.folder or self.path}"


Address = str | PulsarAddress | LocalAddress | None
"""What `pulsar_node` takes: `pulsar://…`, `pulsar+ssl://…`, `local://PATH`, an address object, or None (local)."""


def parse_address(pulsar_node: Address) -> PulsarAddress | LocalAddress:
    """Turn what `pulsar_node` was given into an address.

    `local://PATH` takes the options `?sync=full` and `?max_topic_bytes=N`.

    Raises:
        UsageError: It is none; the message says what was expected.
    """
    if pulsar_node is None:
        return _resolved(LocalAddress())
    if isinstance(pulsar_node, LocalAddress):
        return _resolved(pulsar_node)
    if isinstance(pulsar_node, PulsarAddress):
        return pulsar_node
    if not isinstance(pulsar_node, str):
        raise UsageError(f"pulsar_node is a {type(pulsar_node).__name__}: expected a URL, an address object or None")
    scheme, separator, rest = pulsar_node.partition("://")
    if separator and scheme == "local":
        path, _, query = rest.partition("?")
        return _resolved(_local(unquote(path), dict(parse_qsl(query, keep_blank_values=True)), pulsar_node))
    if separator and scheme in ("pulsar", "pulsar+ssl"):
        return PulsarAddress(pulsar_node.rstrip("/"))
    raise UsageError(
        f"{pulsar_node!r} is no broker's address: expected pulsar://HOST:PORT, pulsar+ssl://HOST:PORT, local://PATH, "
        "or None for the local broker"
    )


def _resolved(address: LocalAddress) -> LocalAddress:
    """The same folder by one name, so that whoever names it shares one connection."""
    try:
        folder = address.folder
        real = None if folder is None else os.path.realpath(folder)
    except (ValueError, RuntimeError, OSError) as error:  # NUL, no Unicode, or `~` of somebody who is not there
        raise UsageError(f"the local broker's folder {address.path!r} can't be one: {error}") from error
    return address if real is None else replace(address, path=real)


def _local(path: str, options: Mapping[str, str], given: str) -> LocalAddress:
    unknown = options.keys() - {"sync", "max_topic_bytes"}
    if unknown or options.get("sync", "normal") not in ("normal", "full"):
        raise UsageError(f"{given!r}: expected the options sync=normal, sync=full or max_topic_bytes=N, if any")
    try:
        max_topic_bytes = int(options.get("max_topic_bytes", 1 << 30))
    except ValueError as error:
        raise UsageError(f"{given!r}: max_topic_bytes is not a whole number") from error
    return LocalAddress(path, max_topic_bytes, options.get("sync") == "full")
