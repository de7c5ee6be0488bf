"""Imports of what is optional, with an error that says how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeserve.errors import MissingExtra


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Its import name.
        extra: The extra of edgeserve that installs it.
        purpose: What needs it, the beginning of the error's sentence.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # it is installed but something in it is missing, and its own error says more
        raise MissingExtra(f"{purpose} needs {module}: pip install 'edgeserve[{extra}]'") from error
