"""One-shot events about a leader, while an earlier message of it still waits (`LIVENESS_EVENTS`)."""

import pytest

from barque.core.messages import AppendEntriesRpc, ElectionTimeout, NodeStatus, RemoteMessage, ServerDown
from barque.core.state import RaftState
from barque.testing.core.cluster import CoreCluster


def led_by_c() -> CoreCluster:
    """At rest; what is to be stored takes its time from now on."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("c")
    cluster.settle()
    cluster.hold_meta = True
    return cluster


@pytest.mark.parametrize("how", ["its server", "its node"])
def test_news_comes_after_what_was_said_before(how: str) -> None:
    """§10.8, FD-03: a candidate hears its leader, and follows it once its vote is stored; that one is gone.

    Its node lives, and says so once: who forgot it would follow without end. Found with core seed 86072426.
    """
    cluster = led_by_c()
    leader, follower = cluster.server("c"), cluster["a"]
    follower.handle(ElectionTimeout())
    assert follower.held is not None
    last = leader.log.last_index_term()
    said = AppendEntriesRpc(leader.current_term, leader.id, leader.commit_index, last.index, last.term, ())
    follower.take(said)
    news: RemoteMessage | NodeStatus = ServerDown(leader.id, connected=True)
    if how == "its node":
        news = NodeStatus(leader.id.node, up=False)
    follower.take(news)
    follower.sync_meta()
    assert follower.server.raft_state is RaftState.FOLLOWER
    assert follower.timer is not None
