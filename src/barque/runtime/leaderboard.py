"""Who leads which cluster, as far as this node knows (REG-01, `ra_leaderboard`)."""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from barque.types import ServerId, Term


class Standing(msgspec.Struct, frozen=True):
    """What is known about one cluster. `leader` is None while nobody is known to lead."""

    leader: ServerId | None
    members: tuple[ServerId, ...]
    term: Term
    cluster_id: str = ""


Listener: TypeAlias = Callable[[str, Standing | None], None]
"""Called with the cluster and its new standing; None when the cluster was cleared."""


class Leaderboard:
    """Node-local: cluster name → leader, members and the term in which that was true."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._listeners: dict[int, Listener] = {}
        self._next_listener = 0

    def record(
        self,
        cluster: str,
        leader: ServerId | None,
        members: tuple[ServerId, ...],
        term: Term,
        cluster_id: str = "",
    ) -> bool:
        """Note who leads; whether that was news. News of an older term than what is known is dropped.

        Terms of another cluster of that name (it was deleted and created again) say nothing about these.
        """
        known = self._standings.get(cluster)
        if known is not None and term < known.term and cluster_id == known.cluster_id:
            return False
        standing = Standing(leader, members, term, cluster_id)
        if standing == known:
            return False
        self._standings[cluster] = standing
        self._tell(cluster, standing)
        return True

    def clear(self, cluster: str) -> None:
        """Forget a cluster: its last server here has ended."""
        if self._standings.pop(cluster, None) is not None:
            self._tell(cluster, None)

    def lookup(self, cluster: str) -> Standing | None:
        """All that is known about a cluster."""
        return self._standings.get(cluster)

    def lookup_leader(self, cluster: str) -> ServerId | None:
        """The leader, if one is known."""
        standing = self._standings.get(cluster)
        return None if standing is None else standing.leader

    def lookup_members(self, cluster: str) -> tuple[ServerId, ...] | None:
        """The members, if the cluster is known."""
        standing = self._standings.get(cluster)
        return None if standing is None else standing.members

    def overview(self) -> dict[str, Standing]:
        """All clusters."""
        return dict(self._standings)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Hear of every change, in the order of changes; the returned function ends that."""
        number = self._next_listener
        self._next_listener += 1
        self._listeners[number] = listener

        def end() -> None:
            self._listeners.pop(number, None)

        return end

    def _tell(self, cluster: str, standing: Standing | None) -> None:
        for listener in list(self._listeners.values()):
            listener(cluster, standing)
