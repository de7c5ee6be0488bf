"""The local broker: topics and subscriptions in SQLite files, for all processes of one machine, without a server."""

from edgeserve._broker.local.connection import connect

__all__ = ["connect"]
