"""Decoders of commands and queries, shared by all servers whose machines have the same types."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec


class CommandDecoder(NamedTuple):
    """Decodes the commands of one type: many, as one array, or one, which may be a view of a body."""

    many: Callable[[bytes], list[Any]]
    one: Callable[[bytes | memoryview], Any]


def command_decoder_of(kind: Any) -> CommandDecoder:
    """The decoder for commands of this type, likewise shared."""
    try:
        return _shared_command_decoder(kind)
    except TypeError:
        return _make_command_decoder(kind)


def _make_command_decoder(kind: Any) -> CommandDecoder:
    return CommandDecoder(decoder_of(list[kind]).decode, decoder_of(kind).decode)


_shared_command_decoder = lru_cache(maxsize=256)(_make_command_decoder)


def decoder_of(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for this type; servers with the same machine share one, and the memory that it takes."""
    try:
        return _shared_decoder(kind)
    except TypeError:  # some types have no hash
        return msgspec.msgpack.Decoder(kind)


@lru_cache(maxsize=256)
def _shared_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)
