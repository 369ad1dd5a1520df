"""A fingerprint of a machine's contract: what must be equal on all members of a cluster.

Members decode the same bytes, so they must know the same commands. The fingerprint covers the version and the
types of commands and queries: names, tags, fields and their types. It does not cover what `apply` does with
them, nor comments and docstrings.
"""

import hashlib
from typing import Any

import msgspec

from barque.machine.machine import Machine


def fingerprint(machine: Machine[Any]) -> str:
    """Sixteen hexadecimal digits; equal for equal version and types."""
    parts = [machine.version, _shape(machine.command_type), _shape(machine.query_type)]
    encoded = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:16]


def _shape(kind: Any) -> Any:
    """The JSON schema of a type without its descriptions. Types without a schema count by their names."""
    try:
        return _without_texts(msgspec.json.schema(kind))
    except TypeError:
        return repr(kind)


def _without_texts(schema: Any) -> Any:
    if isinstance(schema, dict):
        texts = [key for key, value in schema.items() if key == "description" and isinstance(value, str)]
        return {key: _without_texts(value) for key, value in schema.items() if key not in texts}
    if isinstance(schema, list):
        return [_without_texts(value) for value in schema]
    return schema
