"""Decoders of commands and queries, shared by all servers whose machines have the same types."""

from functools import lru_cache
from typing import Any

import msgspec


def decoder_of(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for this type; servers with the same machine share one, and the memory that it takes."""
    try:
        return _shared_decoder(kind)
    except TypeError:  # some types have no hash
        return msgspec.msgpack.Decoder(kind)


@lru_cache(maxsize=256)
def _shared_decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)
