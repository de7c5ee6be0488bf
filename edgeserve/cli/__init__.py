"""The `edgeserve` command."""

from edgeserve.cli.entry import app, main

__all__ = ["app", "main"]
