"""Golden bytes of a data directory's identity, and every way to be no identity (docs/formats/identity.md)."""

import pytest

from barque.log.checked_text import MalformedText
from barque.log.identity import Owner, decode_identity, encode_identity

OWNER = Owner("barque", "n1")
GOLDEN = b'barque data directory, format 2, crc32 7865b314\n{"installation":"barque","node":"n1"}\n'
FORMAT_1 = b"barque data directory, format 1\n"


def test_the_file_is_as_it_always_was() -> None:
    """Golden bytes, both ways; format 1 named no owner."""
    assert encode_identity(OWNER) == GOLDEN
    assert decode_identity(GOLDEN) == OWNER
    assert decode_identity(FORMAT_1) is None


@pytest.mark.parametrize("golden", [GOLDEN, FORMAT_1])
def test_every_byte_counts(golden: bytes) -> None:
    """Any changed bit, and any shorter or longer file, is found."""
    for offset in range(len(golden)):
        for bit in range(8):
            data = bytearray(golden)
            data[offset] ^= 1 << bit
            with pytest.raises(MalformedText):
                decode_identity(bytes(data))
    for data in (*(golden[:end] for end in range(len(golden))), golden + b"\n"):
        with pytest.raises(MalformedText):
            decode_identity(data)


def test_a_newer_format_is_refused_by_its_number() -> None:
    """A file of a later release is not damage to be mended."""
    with pytest.raises(MalformedText, match="format 3 is not known here"):
        decode_identity(GOLDEN.replace(b"format 2", b"format 3"))
