"""Signatures of targets: their parameters, and the defaults that a node can hold."""

from __future__ import annotations

import inspect
import re
from typing import Any

from crossstage.config.names import NameNotFoundError, locate

STAGE = "stage"
"""The parameter that receives the number of a stage; a node never holds it."""


def signature_of(target: Any) -> inspect.Signature | None:
    """The signature of a class, a function, or the object of a dotted name; None if Python cannot read it."""
    try:
        return inspect.signature(locate(target) if isinstance(target, str) else target)
    except (NameNotFoundError, TypeError, ValueError):
        return None


def named_parameters(signature: inspect.Signature | None) -> dict[str, inspect.Parameter]:
    """The parameters that a caller can give by name, without `**keywords`."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {} if signature is None else signature.parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in by_name}


def takes_any_keyword(signature: inspect.Signature | None) -> bool:
    """Whether every keyword is accepted: the signature has `**keywords`, or it is unknown."""
    return signature is None or any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())


def plain_defaults(target: Any) -> dict[str, Any]:
    """The defaults of a target that are plain data, by parameter, in the signature's order; tuples become lists.

    Plain data are None, bools, numbers and strings, and lists, tuples and dicts of these. The parameter `stage` is
    left out.
    """
    parameters = named_parameters(signature_of(target))
    return {
        name: _with_lists(parameter.default)
        for name, parameter in parameters.items()
        if name != STAGE and _is_plain(parameter.default)
    }


def takes_list(target: Any, name: str) -> bool:
    """Whether the annotation of a parameter names a kind of list, as in `int | Sequence[int]`."""
    parameter = named_parameters(signature_of(target)).get(name)
    return parameter is not None and bool(re.search(r"(?i)sequence|list|tuple|iterable", str(parameter.annotation)))


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) is str:  # omegaconf would read these as an interpolation and as a missing value
        return "${" not in value and value != "???"
    return value is None or type(value) in (bool, int, float)


def _with_lists(value: Any) -> Any:
    if type(value) in (list, tuple):
        return [_with_lists(item) for item in value]
    return {key: _with_lists(item) for key, item in value.items()} if type(value) is dict else value
