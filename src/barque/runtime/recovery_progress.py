"""Tell people how far the recovery of a big log is."""

import logging
from collections.abc import Callable

from barque.runtime.clock import Clock
from barque.types import Index, ServerId

logger = logging.getLogger("barque.node")

_EVERY_S = 1.0
_MIB = 1 << 20


class RecoveryProgress:
    """Logs a line once a second while a recovery goes on; nothing for one that is short."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun_s = self._told_s = clock.monotonic()
        self._applied = 0

    def read(self, done: int, total: int, entries: int) -> None:
        """So many bytes of the write-ahead log are read, of so many; they hold so many entries."""
        if self._is_due():
            share = f"{done / _MIB:,.0f} of {total / _MIB:,.0f} MiB"
            logger.info("reading the log: %s, %s", share, self._speed(entries))

    def begin_applying(self) -> None:
        """The log is read; its entries are applied next."""
        self._begun_s = self._clock.monotonic()

    def of(self, server: ServerId, last: Index) -> Callable[[int], None]:
        """Make a function that is told how many more entries the machine of this server has applied."""
        done = 0

        def applied(count: int) -> None:
            nonlocal done
            done += count
            self._applied += count
            if self._is_due():
                speed = self._speed(self._applied)
                logger.info(
                    "applying the log of %s up to entry %d: %s", server, last, f"{done:,} done, {speed}"
                )

        return applied

    def _speed(self, entries: int) -> str:
        seconds = max(self._told_s - self._begun_s, 0.001)
        return f"{entries:,} entries in all, {entries / seconds:,.0f} a second"

    def _is_due(self) -> bool:
        now = self._clock.monotonic()
        if now - self._told_s < _EVERY_S:
            return False
        self._told_s = now
        return True
