"""The cache of what was read from segments: a batch is read once, and what is kept is bounded."""

from tests.kit.storage import SMALL, UID, Node, batch

from barque.core.entries import EntryBatch
from barque.log.batch_cache import BatchCache
from barque.types import Index


def test_a_batch_is_read_once_for_several_readers() -> None:
    """REPL-08: a second read of the same range does not touch the disk; the cache has a bound in bytes."""
    node = Node(config=SMALL)
    log = node.storage.log(UID)
    for index in range(1, 61):
        log.append(batch(index))
        node.sync()
    node.tick()
    segments, end = log.segments, log.segments.end.index
    cache = segments._cache.batches
    first = segments.read(Index(1), end, 1 << 20, 1 << 30)
    node.disk.fault = lambda op, path: OSError(5, "EIO", path) if op == "pread" else None
    assert segments.read(Index(1), end, 1 << 20, 1 << 30) == first
    assert segments.read(Index(5), end, 3, 1 << 30) == first[4:7]
    assert cache.hits >= end + 3
    node.disk.fault = None
    cache._bytes_max = 2000
    assert segments.read(Index(1), end, 1 << 20, 1 << 30) == first


def test_a_cache_of_batches_keeps_the_newest() -> None:
    """REPL-08: what was read longest ago goes first; a batch above the bound is not kept."""
    cache = BatchCache(4 * 400)
    loaded: list[int] = []

    def load(number: int) -> EntryBatch:
        loaded.append(number)
        return batch(number, payload=b"x" * (5000 if number == 9 else 20))

    for number in (1, 2, 3, 1, 4, 5, 1, 2, 9, 9):
        assert cache.read("file", number, load).first_index == number
        assert cache.size_bytes <= 1600
    assert loaded == [1, 2, 3, 4, 5, 2, 9, 9]
    assert cache.hits == 2
