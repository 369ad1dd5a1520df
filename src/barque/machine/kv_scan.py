"""The order in which SCAN walks: keys by a stable hash, so that a cursor means the same everywhere.

A cursor is the lowest hash not yet returned. It needs no memory on the server, survives a
change of leader, and may go on at any member: a key that exists throughout a scan keeps its hash
and is returned. Hashes have 52 bits because some clients keep cursors in floating point numbers.
"""

from collections.abc import Callable
from hashlib import blake2b
from itertools import islice
from typing import Final

HASH_BITS: Final = 52
"""The width of a cursor: exact in an IEEE double."""

BEGINNING: Final = 1 << HASH_BITS
"""The cursor that goes on at the beginning, where 0 would say that the scan is done."""

PAGE_WORK: Final = 4 * 1024 * 1024
"""A page ends when its keys have cost so much."""

_KEYS_PER_BUCKET: Final = 64
_KEYS_PER_BUCKET_MAX: Final = 512
_SLICE_KEYS: Final = 20_000


def scan_hash(key: bytes) -> int:
    """The place of a key in the order of scans: the same in every process, version and platform."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> (64 - HASH_BITS)


class ScanIndex:
    """Keys in buckets by the upper bits of their hash. Derived from the dictionary, never part of the state.

    Writes do not touch it: a dictionary keeps new keys at its end, so the last `len(values) - known` keys are
    those that the index has not heard of. That is sound because `forget` counts each deleted key (one that
    is set again goes to the end again). To find its bucket costs about 1 µs a key, so many keys are taken
    in over several calls of `advance`, and the leader serves others in between.
    """

    __slots__ = ("_buckets", "_known", "_pending", "_shift", "_values")

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._values = values
        self._build()

    def _build(self) -> None:
        wanted = max(1, len(self._values) // _KEYS_PER_BUCKET)
        bits = (wanted - 1).bit_length()
        self._shift = HASH_BITS - bits
        self._buckets: list[list[bytes]] = [[] for _ in range(1 << bits)]
        self._pending: dict[bytes, None] = dict.fromkeys(self._values)
        """Keys that are in no bucket yet."""
        self._known = len(self._values)
        """How many keys of the dictionary are pending or in a bucket."""

    def advance(self) -> bool:
        """Take in some of the keys that are in no bucket; whether that was all, so that a page can be had."""
        values = self._values
        if len(values) > len(self._buckets) * _KEYS_PER_BUCKET_MAX:
            self._build()
        new = len(values) - self._known
        if new:
            self._pending.update(dict.fromkeys(islice(reversed(values), new)))
            self._known = len(values)
        for _ in range(min(_SLICE_KEYS, len(self._pending))):
            key, _none = self._pending.popitem()
            self._buckets[scan_hash(key) >> self._shift].append(key)
        return not self._pending

    def forget(self, key: bytes) -> None:
        """The key has been deleted. Call it before the key can be set again."""
        if key in self._pending:
            del self._pending[key]
            self._known -= 1
            return
        bucket = self._buckets[scan_hash(key) >> self._shift]
        if key in bucket:  # else it came and went since the last page
            bucket.remove(key)
            self._known -= 1

    @staticmethod
    def again(cursor: int) -> int:
        """The cursor that asks for the same page once more."""
        return cursor if 0 < cursor < BEGINNING else BEGINNING

    def page(
        self,
        cursor: int,
        count: int,
        matches: Callable[[bytes], object],
        cost: Callable[[bytes], int],
    ) -> tuple[int, list[bytes]]:
        """About `count` keys from `cursor` on: the next cursor (0: none left) and the matching keys.

        Keys of one hash are never parted, because no cursor could point between them.
        """
        if cursor < 0 or cursor == BEGINNING:
            cursor = 0
        found: list[bytes] = []
        seen = work = 0
        last = -1
        for number in range(cursor >> self._shift, len(self._buckets)):
            ordered = sorted((scan_hash(key), key) for key in self._buckets[number])
            for place, key in ordered:
                if place < cursor:
                    continue
                if (seen >= count or work >= PAGE_WORK) and place != last:
                    return place, found
                seen += 1
                work += cost(key)
                last = place
                if matches(key):
                    found.append(key)
        return 0, found

    def first_from(self, place: int) -> bytes:
        """The first key at or after this place, going round at the end. There must be one."""
        for cursor in (place, 0):
            _, found = self.page(cursor, 1, _everything, _nothing)
            if found:
                return found[0]
        raise AssertionError("there are no keys")


def _everything(key: bytes) -> bool:
    return True


def _nothing(key: bytes) -> int:
    return 0
