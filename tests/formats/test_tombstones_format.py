"""Golden bytes and endings of the tombstones (docs/formats/tombstones.md), and which are kept."""

import msgspec
import pytest

from barque.log.checked_text import MalformedText
from barque.runtime import tombstones
from barque.runtime.tombstones import Tombstone, decode_tombstones, encode_tombstones
from barque.types import Uid

ONE = Tombstone(
    uid=Uid("KV1"),
    cluster_id="RABC",
    cluster="kv",
    whole_cluster=True,
    configured=False,
    at_ms=1000,
    reason="it was deleted",
)
TWO = msgspec.structs.replace(ONE, uid=Uid("KV2"), whole_cluster=False, configured=True, reason="é")
GOLDEN = (
    b"barque tombstones, format 1, crc32 01fd73fd\n"
    b'[\n{"uid":"KV1","cluster_id":"RABC","cluster":"kv","whole_cluster":true,"configured":false,'
    b'"at_ms":1000,"reason":"it was deleted"},\n'
    b'{"uid":"KV2","cluster_id":"RABC","cluster":"kv","whole_cluster":false,"configured":true,'
    b'"at_ms":1000,"reason":"\xc3\xa9"}\n]\n'
)
EMPTY = b"barque tombstones, format 1, crc32 040ba672\n[\n\n]\n"


def test_the_file_is_as_it_always_was() -> None:
    """Golden bytes, both ways."""
    assert encode_tombstones([ONE, TWO]) == GOLDEN
    assert decode_tombstones(GOLDEN) == [ONE, TWO]
    assert encode_tombstones([]) == EMPTY
    assert decode_tombstones(EMPTY) == []


def test_every_byte_counts() -> None:
    """A changed byte anywhere is found, and no part of the file is believed."""
    for offset in range(len(GOLDEN)):
        data = bytearray(GOLDEN)
        data[offset] ^= 0x40
        with pytest.raises(MalformedText):
            decode_tombstones(bytes(data))


def test_every_shorter_or_longer_file_is_damage() -> None:
    """The file is replaced whole, so there is no torn tail: any other ending is damage."""
    for end in range(len(GOLDEN)):
        with pytest.raises(MalformedText):
            decode_tombstones(GOLDEN[:end])
    with pytest.raises(MalformedText):
        decode_tombstones(GOLDEN + b"\0")


def test_what_cannot_come_back_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configured clusters always keep their last tombstone, others the newest few; unfinished ones stay."""
    monkeypatch.setattr(tombstones, "KEPT_MAX", 3)

    def made(number: int, *, configured: bool, cluster_id: str, whole: bool = False) -> Tombstone:
        return msgspec.structs.replace(
            ONE, uid=Uid(f"U{number}"), configured=configured, cluster_id=cluster_id, whole_cluster=whole
        )

    old = [
        made(0, configured=False, cluster_id="R0", whole=True),  # still has data
        made(1, configured=False, cluster_id="R1", whole=True),
        made(2, configured=True, cluster_id="C2"),  # another follows
        made(3, configured=True, cluster_id="C2"),
        made(4, configured=True, cluster_id="C2", whole=True),
        *(made(5 + i, configured=False, cluster_id=f"R{i}", whole=True) for i in range(3)),
    ]
    kept = tombstones.prune(old, {Uid("U0")})
    assert [tombstone.uid for tombstone in kept] == ["U0", "U3", "U4", "U5", "U6", "U7"]
