"""What a task's signature says: which parameter takes the examples of which source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeserve.errors import UsageError
from edgeserve.message_format import name_field

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def bind_sources(task: Callable[..., Any], inputs: Mapping[str, str] | None) -> dict[str, str]:
    """The sources that a task takes, by parameter, in the order of its parameters (or of `inputs`).

    Without `inputs`, each parameter takes the source of its own name. With it, the parameters that it leaves out
    keep their defaults.

    Raises:
        UsageError: The signature and `inputs` do not say, or a name can be no operator's.
    """
    if not callable(task):
        raise UsageError(f"the task is {task!r}: expected something that can be called")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise UsageError(f"inputs= is {inputs!r}: expected a mapping from parameters to sources")
    bound = _in_order(task, inputs) if inputs is not None else _from_signature(task)
    if not bound:
        raise UsageError("the task has no parameters: give it one for each source, named after the source")
    for parameter, source in bound.items():
        if not isinstance(parameter, str):
            raise UsageError(f"inputs= maps names of parameters to names of sources; {parameter!r} is no name")
        check_name(source, f"the source of parameter {parameter!r}")
    if len(set(bound.values())) < len(bound):
        raise UsageError(f"two parameters take the same source: {bound}")
    return bound


def check_name(name: object, what: str) -> bytes:
    """The name of an operator as it travels, 16 bytes.

    Raises:
        UsageError: It is empty, contains NUL, or is over 16 bytes of UTF-8; the message begins with `what`.
    """
    try:
        field = name_field(name)  # type: ignore[arg-type] # it checks
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error
    if not name:
        raise UsageError(f"{what}: the name of an operator is empty")
    return field


def check_long_name(name: object, what: str) -> None:
    """Check the name of an operator that sends nothing, so that it may be of any length.

    Raises:
        UsageError: It is empty or contains NUL; the message begins with `what`.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise UsageError(f"{what} is {name!r}: expected a name of one character or more, without NUL")


def check_takes(task: Callable[..., Any], values: Sequence[str]) -> None:
    """Check that a task can be called with so many values by position; `values` says what they are.

    Raises:
        UsageError: Its signature says that it can't.
    """
    try:
        signature = inspect.signature(task)
    except (TypeError, ValueError):
        return  # it does not say
    try:
        signature.bind(*values)
    except TypeError as error:
        raise UsageError(f"the task is called with ({', '.join(values)}), and can't be: {error}") from error


def check_callables(**functions: object) -> None:
    """Check optional functions, given by the names of their arguments.

    Raises:
        UsageError: One is neither None nor can be called.
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise UsageError(f"{name}= is {function!r}: expected something that can be called")


def _in_order(task: Callable[..., Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """The given sources in the order of the task's parameters, where its signature says one.

    Raises:
        UsageError: The task can't be called with them.
    """
    try:
        signature = inspect.signature(task)
    except (TypeError, ValueError):
        return dict(inputs)
    if all(isinstance(parameter, str) for parameter in inputs):
        try:
            signature.bind(**dict.fromkeys(inputs))
        except TypeError as error:
            raise UsageError(f"inputs= names {list(inputs)}, and the task can't be called so: {error}") from error
    named = [parameter for parameter in signature.parameters if parameter in inputs]
    others = [parameter for parameter in inputs if parameter not in named]
    return {parameter: inputs[parameter] for parameter in [*named, *others]}


def _from_signature(task: Callable[..., Any]) -> dict[str, str]:
    hint = "name the sources yourself: inputs={'parameter': 'source'}"
    try:
        parameters = inspect.signature(task).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"the task {task!r} does not say what its parameters are; {hint}") from error
    for parameter in parameters:
        if parameter.kind not in _NAMED:
            raise UsageError(f"the task's parameter {str(parameter)!r} names no source; {hint}")
        if parameter.default is not inspect.Parameter.empty:
            raise UsageError(
                f"the task's parameter {parameter.name!r} has a default, so that it is unclear whether it takes a "
                f"source; {hint} (those left out keep their defaults)"
            )
    return {parameter.name: parameter.name for parameter in parameters}
