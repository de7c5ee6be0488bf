"""`CodeSource` sends scripts, and signs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgeserve._core.clock import Clock
from edgeserve._log.folder import LogPath
from edgeserve._payload import Gate
from edgeserve._sealing import Sealing
from edgeserve._topics import one_topic
from edgeserve.address import Address
from edgeserve.data_source.stream import STORE_ABOVE_BYTES, DataSource
from edgeserve.errors import UsageError
from edgeserve.gates import text_out
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.store import PayloadStore


class CodeSource(DataSource):
    """Sends scripts, as text. With a key they are signed, and a `Worker` that has it runs them; without, none does.

    Args:
        stream: Any iterable of str. With a key, an item that is but a URL of a known scheme stands for the script that
            is there: it is fetched once, to be signed, and the URL travels.
        pulsar_node, gate, topic: As for `DataSource`; the default gate encodes as UTF-8.
        log_path, log_filename, log_verbose: As for `DataSource`.
        key: What the scripts are signed with: 16 bytes or more, 32 random ones at best (`secrets.token_bytes(32)`).
            Whoever has it can run code on the nodes of its workers. None: nothing is signed.
        store: Where scripts are kept, so that only their URLs and signatures travel; None sends them whole.
        store_above_bytes: What is no larger than this travels whole all the same.
        fetching: How items that are URLs are fetched to be signed.
        clock: Where time is read; None for the machine's clocks.

    Raises:
        UsageError, BrokerError, BrokerUnreachable, PayloadNotStored: As for `DataSource`.
        PayloadUnavailable: Raised by a step whose item is a URL of what can't be fetched.
    """

    def __init__(
        self,
        stream: Iterable[Any],
        pulsar_node: Address,
        gate: Gate | None = text_out,
        topic: str = "src",
        *,
        log_path: LogPath = None,
        log_filename: str | None = None,
        log_verbose: bool = False,
        key: bytes | None = None,
        store: PayloadStore | None = None,
        store_above_bytes: int = STORE_ABOVE_BYTES,
        fetching: Fetching | None = None,
        clock: Clock | None = None,
    ) -> None:
        options: dict[str, Any] = {"store": store, "store_above_bytes": store_above_bytes}
        sealing = None
        if key is not None:
            sealing = Sealing(key, one_topic(topic), **options, fetching=fetching)
            options = {"packing": False}  # workers that share a topic share it message by message
        elif fetching is not None:
            raise UsageError("fetching= is for scripts that are fetched to be signed: give a key=")
        super().__init__(
            stream,
            pulsar_node,
            "code-source",
            gate,
            topic,
            log_path,
            log_filename,
            log_verbose=log_verbose,
            clock=clock,
            **options,
        )
        if sealing is not None:
            self._sealing = sealing
            self._parts.callback(self._close_flushed, sealing)
