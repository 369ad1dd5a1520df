"""The arguments of a machine: values that come back from disk and wire as they went.

Every member keeps them as JSON and decodes them at each start. A value that JSON would change (a date becomes
a text, infinity becomes null) would give one member another machine than its peers, so it is refused when it
is given.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from barque.errors import ConfigurationError

ARGUMENTS_BYTES_MAX = 256 * 1024
DEPTH_MAX = 32
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_PLAIN = "text, true or false, a number, a list, or a table with text as keys"


def canonical_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the arguments, exactly as every member will decode them.

    Raises `ConfigurationError` that names the first value that would not survive, and what to give instead.
    """
    _check("arguments", dict(arguments), 0)
    data = msgspec.json.encode(dict(arguments))
    if len(data) > ARGUMENTS_BYTES_MAX:
        raise ConfigurationError(
            f"arguments: {len(data)} bytes, at most {ARGUMENTS_BYTES_MAX} are kept; give the machine the "
            "rest as a command"
        )
    copy = msgspec.json.decode(data, type=dict[str, Any])
    if copy != arguments:
        raise ConfigurationError(f"arguments: they do not come back as they went; give {_PLAIN}")
    return copy


def _check(where: str, value: Any, depth: int) -> None:
    """Refuse a value whose exact type and content JSON cannot hold."""
    kind = type(value)
    if depth > DEPTH_MAX:
        raise ConfigurationError(f"{where[:80]}…: more than {DEPTH_MAX} levels; give a flatter table")
    if value is None or kind is bool:
        return
    if kind is str:
        _check_text(where, value)
    elif kind is int:
        if not _INT_MIN <= value <= _INT_MAX:
            raise ConfigurationError(f"{where}: an integer outside of 64 bits; give it as text")
    elif kind is float:
        if not math.isfinite(value):
            raise ConfigurationError(
                f"{where}: {value} is no number that can be kept; give a finite one, or text"
            )
    elif kind is list:
        for position, item in enumerate(value):
            _check(f"{where}[{position}]", item, depth + 1)
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ConfigurationError(f"{where}: the key {key!r} is a {type(key).__name__}; give text")
            _check_text(where, key)
            _check(f"{where}.{key}", item, depth + 1)
    else:
        raise ConfigurationError(f"{where}: a {kind.__name__} would not be kept as it is; give {_PLAIN}")


def _check_text(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{where}: the text is not Unicode: {error.reason}") from error
