"""Ra's server module by its own names (semantics §9)."""

import msgspec
import pytest

from barque.core import ra_server
from barque.core.events import Component, NodeEvent, ProcessDown
from barque.core.messages import AppendEntriesRpc, Tick
from barque.core.overview import members_info
from barque.core.state import PeerStatus, RaftState, ServerConfig
from barque.machine.machine import AuxKind, Machine
from barque.testing.core.cluster import CLIENT, CoreCluster, sent
from barque.testing.core.member import FixedEnvironment
from barque.testing.core.memory_log import MemoryLog
from barque.types import Index, Membership, ServerId, Term, Uid


def led() -> CoreCluster:
    """Three members; a leads and has committed a command."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x", "y")
    cluster.settle()
    return cluster


def test_names() -> None:
    """LIFE-14, `name/2`."""
    assert ra_server.name("bank", "1") == "ra_bank_server_1"


def test_a_server_is_made_and_recovered() -> None:
    """CORE-12, `init/1`, `recover/1`, `is_new/1`: a new one waits to be asked."""
    config = ServerConfig(
        id=ServerId("a", "n"),
        uid=Uid("u"),
        cluster_name="c",
        initial_members=(),
        machine=CoreCluster("a").machine,
    )
    server = ra_server.init(config, MemoryLog(Uid("u")), FixedEnvironment())
    assert ra_server.recover(server) == []
    assert server.raft_state is RaftState.FOLLOWER
    assert ra_server.is_new(server)
    assert ra_server.handle_state_enter(server, RaftState.CANDIDATE) == []


def test_what_a_server_tells_of_itself() -> None:
    """OVW-01, CNT-05, the accessors of §9, `is_fully_persisted/1`, `is_fully_replicated/1`."""
    cluster = led()
    server = cluster.server("a")
    a = cluster["a"].id
    assert (ra_server.id(server), ra_server.leader_id(server), ra_server.uid(server)) == (a, a, "uid_a")
    assert ra_server.log_id(server) == "a@node_a"
    assert (ra_server.current_term(server), ra_server.machine_version(server)) == (1, 0)
    assert ra_server.system_config(server).cluster_name == "c"
    assert ra_server.overview(server)["raft_state"] == "leader"
    assert ra_server.metrics(server) == ("c", 1, 0, 3, 3, 3, 0)
    assert ra_server.is_fully_persisted(server)
    assert ra_server.is_fully_replicated(server)
    assert not ra_server.is_new(server)


def test_a_machine_is_asked_and_its_log_is_read() -> None:
    """QRY-01, QRY-02, `machine_query/2`, `log_read/2`, `log_fold/3`: user commands, and all entries."""
    server = led().server("a")
    position, answer = ra_server.machine_query(server, msgspec.msgpack.encode(None))
    assert (position.index, answer) == (3, ("x", "y"))
    assert ra_server.log_read(server, [3, 1, 99, 2]) == ["y", "x"]
    assert ra_server.log_fold(server, lambda batch, found: [*found, batch.first_index], []) == [1, 2, 3]


def test_peers_are_changed_and_asked() -> None:
    """§2 `make_rpcs/1`, `update_peer/3`, `tick/1`: an unknown peer is an error."""
    cluster = led()
    server, b = cluster.server("a"), cluster["b"].id
    ra_server.update_peer(server, b, status=PeerStatus.DISCONNECTED, commit_index_sent=Index(0))
    assert sent(ra_server.make_rpcs(server), AppendEntriesRpc) == []
    ra_server.update_peer(server, b, status=PeerStatus.NORMAL)
    assert [to for to, _ in sent(ra_server.make_rpcs(server), AppendEntriesRpc)] == ["b"]
    assert [to for to, _ in sent(ra_server.tick(server, 0), AppendEntriesRpc)] == ["b"]
    with pytest.raises(KeyError):
        ra_server.update_peer(server, ServerId("z", "n"), status=PeerStatus.NORMAL)


def test_how_far_the_machine_is_is_remembered_once() -> None:
    """COMMIT-08, LIFE-08, `persist_last_applied/1`, `terminate/2`: never beyond the disk."""
    server = led().server("a")
    assert ra_server.persist_last_applied(server) == 3
    assert ra_server.persist_last_applied(server) is None
    assert ra_server.terminate(server) is None


def test_hints_downs_and_statuses_go_their_way() -> None:
    """SNAP-02, MON-02, MON-03, QRY-14: `update_release_cursor/3`, `handle_down/5`, `handle_node_status/6`."""
    cluster = led()
    server = cluster.server("a")
    ra_server.update_release_cursor(server, Index(2), ("x",), written=Index(99))
    assert server.pending_release_cursor.index == 2
    ra_server.handle_down(server, ProcessDown(Component.MACHINE, CLIENT, "gone"))
    assert server.leader_role().low_priority
    ra_server.handle_node_status(server, NodeEvent(Component.MACHINE, "n", up=True))
    assert server.log.next_index() == 5
    cluster.query("a")
    assert len(ra_server.process_new_leader_queries(server)) == 1
    assert ra_server.process_new_leader_queries(server) == []


def test_an_aux_machine_is_asked() -> None:
    """AUX-02, AUX-04, `handle_aux/4`: one that is not there says nothing."""
    assert ra_server.handle_aux(led().server("a"), AuxKind.CALL, "x") == (None, [])
    assert Machine.handle_aux is not None


def test_the_handlers_have_their_names() -> None:
    """CORE-01: (message, state) → (state, effects)."""
    cluster = led()
    state, _ = ra_server.handle_leader(cluster.server("a"), Tick(0))
    assert state is RaftState.LEADER
    assert ra_server.handle_follower(cluster.server("b"), Tick(0)).state is RaftState.FOLLOWER
    for handler in ("candidate", "pre_vote", "await_condition", "receive_snapshot"):
        assert callable(getattr(ra_server, f"handle_{handler}"))
    assert Term(1) == ra_server.current_term(cluster.server("b"))


def test_what_is_known_of_members() -> None:
    """OVW-01, §9 members_info: all of it on a leader, with a promotable's target; our own part elsewhere."""
    cluster = led()
    cluster.add("d")
    cluster.join("a", "d", Membership.PROMOTABLE, target=99)
    cluster.settle()
    d = cluster["d"].id
    leaders, followers = members_info(cluster.server("a")), members_info(cluster.server("b"))
    assert (leaders[d]["target"], leaders[d]["membership"]) == (99, "promotable")
    assert followers[d] == {}
    assert followers[cluster["b"].id]["match_index"] == cluster.server("b").commit_index
