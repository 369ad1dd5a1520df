"""Histories as lines of JSON: what clients called, when, and what they were told.

docs/reference/history-format.md describes the format. The codec is pure: the caller hands in the lines.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from barque.errors import BarqueError
from barque.testing.checkers.history import Operation, Outcome

_encoder = msgspec.json.Encoder()


class BadHistory(BarqueError):
    """A line is not an operation. The message says which line, and what is wrong with it."""


class Record(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One operation. Times in nanoseconds since a moment that the whole history shares.

    `value` is what the client asked for, `result` the answer; `f` says what they mean. An operation with an
    unknown outcome has no `returned`: it may take effect at any later time, or never.
    """

    process: str
    f: str
    key: str
    value: Any = None  # any JSON value; `f` says what it means
    call: int
    returned: int | None = msgspec.field(default=None, name="return")
    outcome: Outcome
    result: Any = None  # any JSON value
    error: str = ""

    def __str__(self) -> str:
        asked = "" if self.value is None else f" {_text(self.value)}"
        answered = self.outcome is Outcome.OK and (self.result is not None or self.f == "read")
        told = f" → {_text(self.result)}" if answered else ""
        return f"{self.process}: {self.f}{asked} on {self.key}{told}: {self.outcome}"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def encode_record(record: Record) -> bytes:
    """Encode one operation as a line, with its newline."""
    return _encoder.encode(record) + b"\n"


def read_records(lines: Iterable[bytes]) -> Iterator[Record]:
    """Decode the operations of a history, in the order of its lines. Raises `BadHistory`."""
    decoder = msgspec.json.Decoder(Record)
    for number, line in enumerate(lines, 1):
        try:
            record = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise BadHistory(f"line {number}: {error}") from error
        if (record.outcome is Outcome.UNKNOWN) != (record.returned is None):
            raise BadHistory(f"line {number}: an operation has a return time unless its outcome is unknown")
        if record.returned is not None and record.returned < record.call:
            raise BadHistory(f"line {number}: it returned before it was called")
        yield record


def as_list_operations(records: Iterable[Record]) -> list[Operation]:
    """Convert a list-append history (`append` and `read`) for the exact checker of `history`.

    Times become seconds. The result of an acknowledged append is its place in the list.
    """
    operations = []
    for record in records:
        operation = Operation(record.process, record.key, record.call / 1e9)
        operation.outcome = record.outcome
        if record.f == "append":
            operation.element = str(record.value)
        if record.outcome is Outcome.OK and record.returned is not None:
            operation.returned = record.returned / 1e9
            operation.result = record.result
        operations.append(operation)
    return operations
