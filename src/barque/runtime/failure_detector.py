"""Which nodes are up? The accrual rule of Ra's failure detector, aten (FD-01 to FD-03).

Every node sends `Alive` to its peers each 100 ms. For each node we keep the last 1,000 intervals between
arrivals. The estimate that a node is down is the share of those intervals that, times 1.5, are not
longer than the silence now. Each second the estimates are looked at: 0.99 and more is down, less is up.
A node never heard of is down. Pure: times come in as arguments, in seconds of a monotonic clock.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque

HEARTBEAT_INTERVAL_S = 0.1
POLL_INTERVAL_S = 1.0


class _History:
    """The heartbeats of one node: scaled intervals, in order of arrival and in order of size."""

    __slots__ = ("arrivals", "last", "sizes", "up")

    def __init__(self, now: float) -> None:
        self.arrivals: deque[float] = deque()
        self.sizes: list[float] = []
        self.last = now
        self.up = False


class FailureDetector:
    """Judges nodes by the rhythm of their heartbeats.

    With fewer than `samples_min` intervals there is no rhythm yet; then a node is down after a silence of
    `poll_interval_s` × `scaling`. A poll that comes far too late judges nobody: this process was stopped or
    busy, and the heartbeats that it missed are still waiting to be read.
    """

    def __init__(
        self,
        *,
        window: int = 1000,
        scaling: float = 1.5,
        threshold: float = 0.99,
        poll_interval_s: float = POLL_INTERVAL_S,
        samples_min: int = 10,
    ) -> None:
        self._window = window
        self._scaling = scaling
        self._threshold = threshold
        self._poll_interval_s = poll_interval_s
        self._samples_min = samples_min
        self._histories: dict[str, _History] = {}
        self._watched: set[str] = set()
        self._last_poll: float | None = None
        self._listening_since = 0.0  # since this poll a node that was never heard of counts as silent

    def register(self, node: str) -> None:
        """Report this node's transitions from now on (FD-02)."""
        self._watched.add(node)

    def is_up(self, node: str) -> bool:
        """The opinion of the last poll; an unknown node is down."""
        history = self._histories.get(node)
        return history is not None and history.up

    def suspects(self, node: str) -> bool:
        """Whether a node was down at the last poll; one never heard of is given time to come."""
        history = self._histories.get(node)
        if history is not None:
            return not history.up
        if self._last_poll is None:
            return False
        return self._last_poll - self._listening_since >= self._poll_interval_s * self._scaling

    def heard_since(self, node: str, moment: float) -> bool:
        """Whether a heartbeat of this node has come since this moment."""
        history = self._histories.get(node)
        return history is not None and history.last >= moment

    def silence_s(self, node: str, now: float) -> float | None:
        """For how many seconds no heartbeat of this node has come; None if none ever came."""
        history = self._histories.get(node)
        return None if history is None else max(0.0, now - history.last)

    def heartbeat(self, node: str, now: float) -> None:
        """`Alive` has come from a node."""
        history = self._histories.get(node)
        if history is None:
            self._histories[node] = _History(now)
            return
        interval = 0.0
        if now > history.last:
            interval = (now - history.last) * self._scaling
            history.last = now
        arrivals, sizes = history.arrivals, history.sizes
        arrivals.append(interval)
        insort(sizes, interval)
        if len(arrivals) > self._window:
            del sizes[bisect_left(sizes, arrivals.popleft())]

    def estimate(self, node: str, now: float) -> float:
        """How likely the node is down, 0 to 1; 1 for a node never heard of."""
        history = self._histories.get(node)
        if history is None:
            return 1.0
        silence = now - history.last
        if len(history.sizes) < self._samples_min:
            return 1.0 if silence >= self._poll_interval_s * self._scaling else 0.0
        return bisect_right(history.sizes, silence) / len(history.sizes)

    def poll(self, now: float) -> list[tuple[str, bool]]:
        """Judge all nodes; returns (node, is up) for registered ones whose state has changed (FD-03)."""
        previous, self._last_poll = self._last_poll, now
        if previous is None:
            self._listening_since = now
        elif now - previous > 3 * self._poll_interval_s:
            self._listening_since = now
            return []
        changes = []
        for node, history in self._histories.items():
            up = self.estimate(node, now) < self._threshold
            if up != history.up:
                history.up = up
                if node in self._watched:
                    changes.append((node, up))
        return changes

    def overview(self, now: float) -> dict[str, dict[str, float | bool | int]]:
        """Facts about each node, for `status`."""
        return {
            node: {
                "up": history.up,
                "estimate": self.estimate(node, now),
                "silence_ms": max(0, int((now - history.last) * 1000)),
                "samples": len(history.sizes),
            }
            for node, history in self._histories.items()
        }
