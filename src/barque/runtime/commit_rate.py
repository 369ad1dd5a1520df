"""How fast a server commits: a leaky integrator, fed by the ticks of busy servers (COMMIT-10)."""

import math

from barque.core.roles import RaftState
from barque.core.state import Server

_TICKS = 6
"""What happened so many ticks ago counts a third of what happens now."""


class CommitRate:
    """Entries a second: `per_s` smoothed, `last_per_s` between the last two ticks."""

    __slots__ = ("_at_s", "_decay_s", "_index", "_last_per_s", "_per_s")

    def __init__(self, server: Server, tick_s: float, now_s: float) -> None:
        self._decay_s = _TICKS * tick_s
        self._at_s, self._index = now_s, server.commit_index
        self._per_s = self._last_per_s = 0.0

    def note(self, server: Server, now_s: float) -> None:
        """Take the commit index of now. A snapshot that is installed commits nothing: begin anew then."""
        passed_s = now_s - self._at_s
        if passed_s <= 0.0:
            return
        if server.raft_state is RaftState.RECEIVE_SNAPSHOT:
            self._per_s = self._last_per_s = 0.0
        else:
            self._last_per_s = (server.commit_index - self._index) / passed_s
            self._per_s += (self._last_per_s - self._per_s) * -math.expm1(-passed_s / self._decay_s)
        self._at_s, self._index = now_s, server.commit_index

    def overview(self, now_s: float) -> dict[str, float]:
        """The figures of now: an idle server is not ticked, and its rate has fallen since."""
        faded = math.exp(-(now_s - self._at_s) / self._decay_s)
        return {"commit_rate": round(self._per_s * faded, 3), "commit_rate_last": round(self._last_per_s, 3)}
