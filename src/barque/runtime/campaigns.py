"""Lets few servers campaign at a time, so that thousands of clusters elect their leaders one after the other.

Theory of operation. When a node starts, or another one dies, the election timers of thousands of servers end
within half a second. If all of them campaigned then, the members of one cluster would ask for votes at the
same time, split them, and try again while the loops are behind: 1,000 clusters took 4 elections each.

So an election timer that ends asks here. `CAMPAIGNS_MAX` servers campaign at a time; a campaign ends when its
server is neither candidate nor pre-candidate any longer, or after `patience_s`: without a majority it ends in
no other way. The others wait. Most of them hear from a leader meanwhile, and never campaign.

Who waits is served by due time, and the members of one cluster are due one after the other: its *rank* among
them, drawn from the id of the cluster, puts a member back by `RANK_S` each. All nodes draw the same ranks.
So nodes that elect many leaders at the same time work on different clusters, and leaders are dealt out
evenly. With few servers nobody waits, and ranks mean nothing.
"""

import zlib
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from barque.core.roles import RaftState
from barque.runtime.clock import Clock
from barque.runtime.server_process import ServerProcess
from barque.runtime.timers import Timers
from barque.types import ServerId

CAMPAIGNS_MAX = 64
"""Campaigns of one node under way at a time; enough for syncs of many votes at once."""
RANK_S = 1.0
"""By so many seconds each further member of a cluster is put back, among servers that wait."""

_CAMPAIGNING = (RaftState.PRE_VOTE, RaftState.CANDIDATE)
_KEY = "campaigns"


class Campaigns:
    """The servers of one node that campaign, and those that wait to."""

    def __init__(self, timers: Timers, clock: Clock, patience_s: float) -> None:
        self._timers = timers
        self._clock = clock
        self._patience_s = patience_s
        self._running: dict[ServerProcess, float] = {}  # each with the end of our patience; earliest first
        self._waiting: dict[ServerProcess, tuple[int, Callable[[], None]]] = {}
        self._queue: list[tuple[float, int, ServerProcess]] = []  # a heap; may hold what waits no longer
        self._sequence = 0

    def __contains__(self, process: ServerProcess) -> bool:
        """Whether this server waits."""
        return process in self._waiting

    def __len__(self) -> int:
        """How many servers wait."""
        return len(self._waiting)

    def ask(self, process: ServerProcess, campaign: Callable[[], None]) -> None:
        """Call `campaign` now, or when it is this server's turn."""
        now = self._clock.monotonic()
        self._let_go(now)
        if not self._waiting and len(self._running) < CAMPAIGNS_MAX:
            self._begin(process, campaign, now)
            return
        self._sequence += 1
        self._waiting[process] = (self._sequence, campaign)
        heappush(self._queue, (now + RANK_S * rank(process), self._sequence, process))
        self._look_later(now)

    def state_left(self, process: ServerProcess) -> None:
        """The server has entered another state: it waits no longer, and perhaps campaigns no longer."""
        self._waiting.pop(process, None)
        if process in self._running and process.server.raft_state not in _CAMPAIGNING:
            self._ended(process)

    def cancel(self, process: ServerProcess) -> bool:
        """The server no longer wants to; whether it waited."""
        return self._waiting.pop(process, None) is not None

    def forget(self, process: ServerProcess) -> None:
        """The server is gone."""
        self._waiting.pop(process, None)
        self._ended(process)

    def _begin(self, process: ServerProcess, campaign: Callable[[], None], now: float) -> None:
        self._running.pop(process, None)
        self._running[process] = now + self._patience_s
        campaign()
        if process.server.raft_state not in _CAMPAIGNING:
            self._ended(process)  # it may not, or has won alone

    def _ended(self, process: ServerProcess) -> None:
        if self._running.pop(process, None) is not None and self._waiting:
            self._look_later(self._clock.monotonic())

    def _let_go(self, now: float) -> None:
        """Forget campaigns that take too long: they may still succeed."""
        while self._running:
            process = next(iter(self._running))
            if self._running[process] > now:
                break
            del self._running[process]

    def _look_later(self, now: float) -> None:
        """Come back when there is room: not at once, for a server may be in the middle of a step."""
        due = now
        if len(self._running) >= CAMPAIGNS_MAX:
            due = next(iter(self._running.values()))
        known = self._timers.deadline_of(_KEY)
        if known is None or due < known:
            self._timers.arm(_KEY, due, self._look)

    def _look(self) -> None:
        """Let the next ones campaign."""
        now = self._clock.monotonic()
        self._let_go(now)
        while self._queue and len(self._running) < CAMPAIGNS_MAX:
            _, sequence, process = heappop(self._queue)
            waiting = self._waiting.get(process)
            if waiting is not None and waiting[0] == sequence:
                del self._waiting[process]
                self._begin(process, waiting[1], now)
        if not self._waiting:
            self._queue.clear()
        elif len(self._queue) > 64 + 2 * len(self._waiting):
            self._queue = [item for item in self._queue if self._waits(item)]
            heapify(self._queue)
        if self._waiting:
            self._look_later(now)

    def _waits(self, item: tuple[float, int, ServerProcess]) -> bool:
        waiting = self._waiting.get(item[2])
        return waiting is not None and waiting[0] == item[1]


def rank(process: ServerProcess) -> int:
    """The place of this member among the members of its cluster, another one for each cluster."""
    return _place(process, process.server.cluster)


def rank_of_heir(process: ServerProcess, leader: ServerId) -> int:
    """The place of this member among the voters of its cluster without a leader that is gone."""
    voters = (member for member, peer in process.server.cluster.items() if peer.voter and member != leader)
    return _place(process, voters)


def _place(process: ServerProcess, ids: Iterable[ServerId]) -> int:
    members = sorted(map(str, ids))
    own = str(process.server.id)
    if own not in members:
        return 0
    return (members.index(own) - zlib.crc32(process.cluster_id.encode())) % len(members)
