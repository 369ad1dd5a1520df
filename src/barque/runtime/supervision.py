"""Which failed servers start again by themselves (LIFE-01, SYS-25).

A server whose *disk* has refused a read or a write starts again at the next tick: the disk may be well by
then, and the server has nothing in memory that its files do not say. When that did not help for some times
within a period, the server stays down, and `status` says so. Every other failure would come again, or is
worse:

- what a *machine* raises, it raises again at the same entry, until its code is other;
- a *damaged* file stays damaged, until it is replaced;
- after a violated *invariant* nothing that the server has in memory may be used.
"""

import logging
from collections import deque
from collections.abc import Callable

from barque.errors import BarqueError, StorageError
from barque.runtime.server_process import ServerProcess
from barque.types import Uid

logger = logging.getLogger("barque.system")


class Supervisor:
    """Starts the servers of one node again: each at most `restarts_max` times in `period_s` seconds."""

    def __init__(
        self, restart: Callable[[str], ServerProcess], *, restarts_max: int, period_s: float
    ) -> None:
        self._restart = restart
        self._max = restarts_max
        self._period_s = period_s
        self._restarts: dict[Uid, deque[float]] = {}

    def failed(self, process: ServerProcess, now_s: float) -> bool:
        """A server has failed: start it again, or leave it down. True if that is to be tried again."""
        if not is_disk_failure(process):
            return False
        recent = self._restarts.setdefault(process.uid, deque())
        while recent and now_s - recent[0] > self._period_s:
            recent.popleft()
        server, cluster = process.server.id, process.server.cfg.cluster_name
        if len(recent) >= self._max:
            tried = f"it was started again {len(recent)} times in {self._period_s:g} s, and stays down"
            cure = f"mend the disk, then run: barque server restart {cluster} {server.node}"
            process.failure = f"{process.failure}; {tried}: {cure}"
            logger.error("server %s stays down: %s", server, process.failure)
            return False
        recent.append(now_s)
        logger.warning("server %s starts again: %s", server, process.failure)
        try:
            self._restart(server.name).restarts = process.restarts + 1
        except BarqueError as error:
            logger.error("server %s cannot start again: %s", server, error)
            return True
        return False

    def forget(self, uid: Uid) -> None:
        """The server is deleted, or an operator has started it: count from nothing."""
        self._restarts.pop(uid, None)


def is_disk_failure(process: ServerProcess) -> bool:
    """Whether the disk has refused something, and another start may do better."""
    kind = process.failure_type
    return kind is not None and (kind is StorageError or issubclass(kind, OSError))
