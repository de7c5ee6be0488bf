"""Arguments of the public interface whose abilities this version does not have yet."""

from __future__ import annotations

from edgeserve.errors import UsageError


def refuse_log(*, log_path: str | None, log_filename: str | None, log_verbose: bool = False) -> None:
    """Refuse replay logs.

    Raises:
        UsageError: One of the arguments is not its default.
    """
    given = {"log_path": log_path is not None, "log_filename": log_filename is not None, "log_verbose": log_verbose}
    _refuse([name for name, is_given in given.items() if is_given], "replay logs")


def _refuse(names: list[str], ability: str) -> None:
    if names:
        raise UsageError(f"{', '.join(names)}: this version has no {ability} yet; leave the argument out")
