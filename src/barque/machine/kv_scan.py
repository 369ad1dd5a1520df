"""The order in which SCAN walks: keys by a stable hash, so that a cursor means the same everywhere.

A cursor is the lowest hash not yet returned. It needs no memory on the server, survives a
change of leader, and may go on at any member: a key that exists throughout a scan keeps its hash
and is returned. Hashes have 52 bits because some clients keep cursors in floating point numbers.
"""

from collections.abc import Callable
from hashlib import blake2b

HASH_BITS = 52
"""The width of a cursor: exact in an IEEE double."""

_KEYS_PER_BUCKET = 64
_KEYS_PER_BUCKET_MAX = 512


def scan_hash(key: bytes) -> int:
    """The place of a key in the order of scans: the same in every process, version and platform."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> (64 - HASH_BITS)


class ScanIndex:
    """Keys in buckets by the upper bits of their hash. Derived from the dictionary, never part of the state.

    Writes do not touch it: a dictionary keeps new keys at its end, so `page` finds what is new by
    walking backwards until it meets a key it knows. That is sound because `forget` drops each deleted key
    (one that is set again goes to the end again). The first scan pays for all keys at once, about 1 µs each.
    """

    __slots__ = ("_buckets", "_shift", "_values")

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values
        self._build()

    def _build(self) -> None:
        wanted = max(1, len(self._values) // _KEYS_PER_BUCKET)
        bits = (wanted - 1).bit_length()
        self._shift = HASH_BITS - bits
        self._buckets: list[list[bytes]] = [[] for _ in range(1 << bits)]
        shift, buckets = self._shift, self._buckets
        for key in self._values:
            buckets[scan_hash(key) >> shift].append(key)

    def _catch_up(self) -> None:
        if len(self._values) > len(self._buckets) * _KEYS_PER_BUCKET_MAX:
            self._build()
            return
        for key in reversed(self._values):
            bucket = self._buckets[scan_hash(key) >> self._shift]
            if key in bucket:
                break
            bucket.append(key)

    def forget(self, key: bytes) -> None:
        """The key has been deleted. Call it before the key can be set again."""
        bucket = self._buckets[scan_hash(key) >> self._shift]
        if key in bucket:  # else it came and went since the last page
            bucket.remove(key)

    def page(self, cursor: int, count: int, matches: Callable[[bytes], object]) -> tuple[int, list[bytes]]:
        """About `count` keys from `cursor` on: the next cursor (0: none left) and the matching keys.

        Keys of one hash are never parted, because no cursor could point between them.
        """
        self._catch_up()
        found: list[bytes] = []
        seen = 0
        last = -1
        for number in range(cursor >> self._shift, len(self._buckets)):
            ordered = sorted((scan_hash(key), key) for key in self._buckets[number])
            for place, key in ordered:
                if place < cursor:
                    continue
                if seen >= count and place != last:
                    return place, found
                seen += 1
                last = place
                if matches(key):
                    found.append(key)
        return 0, found
