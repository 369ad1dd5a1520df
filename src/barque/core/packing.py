"""How the chunks of a snapshot may be compressed on their way (docs/protocol/wire.md).

A sender packs only as its settings say and as the receiver has said that it can unpack. zlib is always there;
zstd comes with Python 3.14, or with the package `zstandard` (`barque[zstd]`). A chunk says how long it is
unpacked, and what would be longer is refused while it is being unpacked: a few bytes that stand for a
gigabyte never take its memory.
"""

import enum
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from barque.errors import ConfigurationError

UNPACKED_BYTES_MAX = 16 * 1024 * 1024
"""The largest chunk (`[snapshots] chunk_size_bytes`)."""

_SIZE = struct.Struct("<I")  # ahead of packed data: its size when it is unpacked
_WINDOW_LOG_MAX = 24
"""The memory that a zstd frame may ask for, 16 MiB, as a power of two."""


class Packing(enum.IntEnum):
    """A way to compress a chunk. The number stands in the message."""

    NONE = 0
    ZLIB = 1
    ZSTD = 2


class UnpackError(ValueError):
    """The data cannot be unpacked, or not to what it says."""


class _Codec(NamedTuple):
    pack: Callable[[bytes], bytes]
    unpack: Callable[[bytes, int], bytes]
    """Returns at most as many bytes as the second argument says; raises whatever its library raises."""


def _zlib_codec() -> _Codec:
    def unpack(data: bytes, limit: int) -> bytes:
        return zlib.decompressobj().decompress(data, limit)

    return _Codec(lambda data: zlib.compress(data, 1), unpack)


def _zstd_codec() -> _Codec | None:
    """Zstd of the standard library, or else of the package; None without both."""
    if sys.version_info >= (3, 14):
        from compression import zstd

        options = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        return _Codec(
            lambda data: zstd.compress(data, 1),
            lambda data, limit: zstd.ZstdDecompressor(options=options).decompress(data, limit),
        )
    try:
        import zstandard
    except ImportError:
        return None

    def unpack(data: bytes, limit: int) -> bytes:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG_MAX)
        with decompressor.stream_reader(data) as reader:  # never takes the size that the frame claims
            found: bytes = reader.read(limit)
            return found

    return _Codec(lambda data: zstandard.ZstdCompressor(level=1).compress(data), unpack)


def _codecs() -> dict[Packing, _Codec]:
    codecs: dict[Any, _Codec | None] = {Packing.ZLIB: _zlib_codec(), Packing.ZSTD: _zstd_codec()}
    return {packing: codec for packing, codec in codecs.items() if codec is not None}


_CODECS = _codecs()


def available() -> tuple[int, ...]:
    """What this process can unpack, as the numbers that it tells a sender."""
    return tuple(sorted(_CODECS))


def packing_named(name: str) -> Packing:
    """The packing that the settings name. Raises `ConfigurationError` if it needs what is not installed."""
    packing = Packing[name.upper()]
    if packing is not Packing.NONE and packing not in _CODECS:
        raise ConfigurationError(
            f"[snapshots] compression = {name!r} needs a package that is not installed; run: "
            f"pip install 'barque[{name}]'"
        )
    return packing


def pack(data: bytes, packing: Packing) -> tuple[bytes, Packing]:
    """The data packed, and how; as it was if packing would not make it shorter."""
    if packing not in _CODECS:
        return data, Packing.NONE
    packed = _SIZE.pack(len(data)) + _CODECS[packing].pack(data)
    return (packed, packing) if len(packed) < len(data) else (data, Packing.NONE)


def unpack(data: bytes, packing: int) -> bytes:
    """The inverse of `pack`. Raises `UnpackError`, and takes at most `UNPACKED_BYTES_MAX` for the result."""
    if packing == Packing.NONE:
        return data
    codec = _CODECS.get(packing)  # type: ignore[call-overload]  # a number of the other side's
    if codec is None:
        raise UnpackError(f"packing {packing} is not known here")
    if len(data) < _SIZE.size:
        raise UnpackError("the data ends inside its size")
    (size,) = _SIZE.unpack_from(data)
    if not 0 < size <= UNPACKED_BYTES_MAX:
        raise UnpackError(f"{size} bytes are no chunk; the largest has {UNPACKED_BYTES_MAX}")
    try:
        found: bytes = codec.unpack(data[_SIZE.size :], size + 1)
    except Exception as error:  # each library has errors of its own
        raise UnpackError(f"the data cannot be unpacked: {error!r}") from error
    if len(found) != size:
        raise UnpackError(f"the data has not the {size} bytes that it says")
    return found
