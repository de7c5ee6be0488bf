"""Lazy data routing: payloads wait where they were made, their URLs travel, and whoever uses one fetches it.

A store keeps payloads (`FolderStore`, or one of your own by `register_store`); a server lets others at them
(`FtpServer`); `Fetching` says how an operator fetches. Only this package opens the URLs of payloads.
"""

from edgeserve._core.ledger import FetchStats
from edgeserve.routing.fetching import Fetching
from edgeserve.routing.folder import FolderStore
from edgeserve.routing.ftp_server import FtpServer
from edgeserve.routing.retention import Keep
from edgeserve.routing.store import PayloadStore, register_store
from edgeserve.routing.urls import PayloadUrl

__all__ = ["FetchStats", "Fetching", "FolderStore", "FtpServer", "Keep", "PayloadStore", "PayloadUrl", "register_store"]
