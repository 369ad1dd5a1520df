"""The batches that were read from segments last, so that what several peers lack is read once (REPL-08).

A leader reads the same old entries for each peer that lags, a little later for each. Files of segments never
change, so a batch that was read once stays right. To read one takes about 15 us, to find it here one.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from barque.core.entries import EntryBatch

CACHED_BYTES_MAX = 8 * 1024 * 1024
"""The most bytes that are kept, for all servers of a data directory. A larger batch is not kept."""

_BATCH_BYTES = 300
"""About what the objects of one batch take, besides its body."""


class BatchCache:
    """The most recently read batches, up to `bytes_max` of them."""

    def __init__(self, bytes_max: int = CACHED_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._batches: OrderedDict[tuple[Hashable, int], EntryBatch] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0

    def read(self, file: Hashable, number: int, load: Callable[[int], EntryBatch]) -> EntryBatch:
        """Batch `number` of a file that never changes; `load` reads it, and may raise, if it is absent."""
        key = (file, number)
        found = self._batches.get(key)
        if found is not None:
            self.hits += 1
            self._batches.move_to_end(key)
            return found
        batch = load(number)
        size = _BATCH_BYTES + len(batch.body)
        if size > self._bytes_max:
            return batch
        self._batches[key] = batch
        self.size_bytes += size
        while self.size_bytes > self._bytes_max:
            _, oldest = self._batches.popitem(last=False)
            self.size_bytes -= _BATCH_BYTES + len(oldest.body)
        return batch
