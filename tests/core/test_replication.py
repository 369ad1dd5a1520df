"""AppendEntries from both ends, rule by rule (L-1 to L-6, L-16, F-1, F-2, F-5)."""

import pytest

from barque.core.effects import PersistTermAndVote, SendRpc
from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, NodeStatus, PipelineRpcs, Tick
from barque.core.replication import has_entries_to_send, make_rpc, pipelined_rpcs
from barque.core.step import has_unfinished_business
from barque.errors import InvariantViolation
from barque.testing.core.cluster import CoreCluster, sent
from barque.types import Index, ServerId, Term


def empty(leader: ServerId, term: int, prev: tuple[int, int], commit: int = 0) -> AppendEntriesRpc:
    """An AppendEntries without entries."""
    return AppendEntriesRpc(Term(term), leader, Index(commit), Index(prev[0]), Term(prev[1]))


def test_a_late_empty_rpc_takes_nothing_back() -> None:
    """An RPC that was overtaken must not drop what was acknowledged since: the leader counts on it."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.settle()
    late = empty(cluster["a"].id, 1, (1, 1), commit=1)
    cluster.partition("ab", "c")
    cluster.command("a", "x")
    cluster.settle()
    assert cluster.server("a").commit_index == 2
    cluster["b"].handle(late)
    assert cluster.log_terms("b") == [1, 1]


def test_a_late_empty_rpc_is_answered_with_what_it_proves() -> None:
    """An empty RPC in the middle of the log proves the log up to there, and says nothing of the rest."""
    cluster = CoreCluster("a", "b")
    cluster.load("b", [1, 1, 1])
    effects = cluster["b"].handle(empty(cluster["a"].id, 1, (2, 1)))
    [reply] = [effect.message for effect in effects if isinstance(effect, SendRpc)]
    assert reply == AppendEntriesReply(cluster["b"].id, Term(1), True, Index(3), Index(2), Term(1))


def test_the_new_term_is_stored_before_an_answer_that_names_it() -> None:
    """Whether an RPC fits, does not fit or is too far ahead: first the disk, then the answer (I12)."""
    for prev in ((1, 1), (1, 2), (5, 2)):
        cluster = CoreCluster("a", "b")
        cluster.load("b", [1])
        effects = cluster["b"].handle(empty(cluster["a"].id, 2, prev))
        kinds = [type(effect) for effect in effects if isinstance(effect, PersistTermAndVote | SendRpc)]
        assert kinds == [PersistTermAndVote, SendRpc]


def leader(*names: str, **settings: int) -> CoreCluster:
    """A cluster at rest whose leader is a; nothing gets through any more."""
    cluster = CoreCluster(*names, settings=settings)
    cluster.elect("a")
    cluster.partition(*names)
    return cluster


def reply(
    cluster: CoreCluster, name: str, success: bool, last: tuple[int, int], next_index: int
) -> AppendEntriesReply:
    """An answer to the leader of term 1."""
    return AppendEntriesReply(
        cluster[name].id, Term(1), success, Index(next_index), Index(last[0]), Term(last[1])
    )


def test_the_pipeline_has_an_end() -> None:
    """REPL-04: as many entries are in flight to one peer as the limit says and not one more."""
    cluster = leader("a", "b", max_pipeline_count=2)
    lengths = [len(sent(cluster.command("a", "x"), AppendEntriesRpc)) for _ in range(4)]
    assert lengths == [1, 1, 0, 0]
    [(_, more)] = sent(cluster["a"].handle(reply(cluster, "b", True, (2, 1), 3)), AppendEntriesRpc)
    assert more.entries[0].first_index == 4


def sent_bytes(cluster: CoreCluster) -> list[int]:
    """Send until the pipeline is full: the bytes of each RPC."""
    sizes = []
    while has_entries_to_send(cluster.server("a")):
        effects, _ = pipelined_rpcs(cluster.server("a"))
        sizes += [sum(len(batch.body) for batch in rpc.entries) for _, rpc in sent(effects, AppendEntriesRpc)]
    return sizes


def append(cluster: CoreCluster, *sizes: int) -> None:
    """Give the leader an entry of each size, unsent."""
    log = cluster.server("a").log
    for size in sizes:
        log.append(EntryBatch(log.next_index(), Term(1), 1, 0, encode_body([bytes(size)])))


def test_the_pipeline_is_bounded_in_bytes() -> None:
    """In-flight data is less than the limit before each RPC, so at most one RPC exceeds it."""
    cluster = leader("a", "b", max_pipeline_bytes=1_000, max_append_entries_rpc_bytes=300)
    append(cluster, *[250] * 20)
    sizes = sent_bytes(cluster)
    assert sum(sizes[:-1]) < 1_000 <= sum(sizes)
    peer = cluster.server("a").peers[0][1]
    assert peer.bytes_in_flight == sum(sizes)
    assert not sent(cluster["a"].handle(PipelineRpcs()), AppendEntriesRpc)
    cluster["a"].handle(reply(cluster, "b", True, (3, 1), 4))
    sent_bytes(cluster)
    assert [last for last, _ in peer.sent] == [4, 5, 6, 7]
    assert peer.bytes_in_flight == sum(size for _, size in peer.sent)


def test_an_entry_larger_than_the_pipeline_gets_through() -> None:
    """One RPC at a time always may leave, whatever its size; nothing large follows until it is answered."""
    cluster = leader("a", "b", max_pipeline_bytes=1_000)
    append(cluster, 50_000, 50_000)
    assert [size > 50_000 for size in sent_bytes(cluster)] == [True]
    cluster["a"].handle(reply(cluster, "b", True, (2, 1), 3))
    assert cluster.server("a").peers[0][1].next_index == 4


def test_lost_rpcs_make_room_when_the_peer_asks_again() -> None:
    """A full link drops: what was lost counts until a refusal tells so, and is sent again then."""
    cluster = leader("a", "b", max_pipeline_bytes=1_000, max_append_entries_rpc_bytes=700)
    append(cluster, 600, 600, 600)
    sent_bytes(cluster)
    peer = cluster.server("a").peers[0][1]
    [(_, probe)] = sent(cluster["a"].handle(Tick(0)), AppendEntriesRpc)
    assert (probe.prev_log_index, probe.entries) == (3, ()), "a full pipeline gets a question, not an entry"
    again = sent(cluster["a"].handle(reply(cluster, "b", False, (1, 1), 2)), AppendEntriesRpc)
    assert [batch.first_index for _, rpc in again for batch in rpc.entries][:1] == [2]
    sent_bytes(cluster)
    assert [last for last, _ in peer.sent] == [2, 3]
    cluster["a"].handle(reply(cluster, "b", True, (4, 1), 5))
    assert (peer.sent, peer.bytes_in_flight) == ([], 0)


def test_a_new_term_begins_with_an_empty_pipeline() -> None:
    """What a leader of a former term had on its way is not counted in a new one."""
    peer = leader("a", "b").server("a").peers[0][1]
    peer.sent, peer.bytes_in_flight = [(Index(9), 500)], 500
    peer.begin_term(Index(4))
    assert (peer.sent, peer.bytes_in_flight) == ([], 0)


def test_whether_there_are_entries_to_send_is_known_without_sending() -> None:
    """A commit index alone is no reason for a message; a peer with a full pipeline is none either."""
    cluster = leader("a", "b", max_pipeline_count=1)
    server = cluster.server("a")
    assert not has_entries_to_send(server)
    server.log.append(EntryBatch(Index(2), Term(1), 2, 0, encode_body([b"\x01", b"\x02"])))
    assert has_entries_to_send(server)
    pipelined_rpcs(server)
    assert not has_entries_to_send(server)
    assert not has_entries_to_send(cluster.server("b"))


def test_a_noop_goes_through_a_full_pipeline() -> None:
    """ELEC-24: `force`."""
    cluster = leader("a", "b", max_pipeline_count=1)
    cluster.command("a", "x", "y")
    server = cluster.server("a")
    assert pipelined_rpcs(server) == ([], False)
    effects, _ = pipelined_rpcs(server, force=True)
    assert len(effects) == 1


def test_more_that_could_be_sent_is_sent_in_the_next_round() -> None:
    """L-16: one round sends one RPC to each peer, and asks for another round if there is more."""
    cluster = leader("a", "b", max_append_entries_rpc_batch_size=1)
    cluster.command("a", *range(5))
    peers = cluster.server("a").peers
    assert [peer.next_index for _, peer in peers] == [7]
    for _, peer in peers:
        peer.next_index = Index(3)
    assert len(sent(cluster["a"].handle(PipelineRpcs()), AppendEntriesRpc)) == 4
    assert peers[0][1].next_index == 7


@pytest.mark.parametrize(
    ("last", "next_index", "match", "expected"),
    [
        ((9, 1), 4, 2, 4),  # (a) an entry that the leader does not have
        ((3, 1), 4, 3, 4),  # (b) the logs meet there
        ((2, 1), 4, 2, 4),  # (b) the end of what is on its disk, and it has more
        ((1, 1), 2, 1, 2),  # (c) it lost what it had acknowledged
        ((4, 9), 9, 2, 4),  # (d) another entry there: before it, but not before what is known to match
        ((3, 9), 9, 2, 3),
        ((2, 9), 9, 2, 3),
    ],
    ids=["a", "b", "b-known", "c", "d", "d-next", "d-match"],
)
def test_a_refusal_rewinds(last: tuple[int, int], next_index: int, match: int, expected: int) -> None:
    """L-6, its four cases; the peer is known to have entry 2 of five. It is sent the rest at once."""
    cluster = leader("a", "b")
    cluster.command("a", *range(4))
    cluster["a"].handle(reply(cluster, "b", True, (2, 1), 3))
    [(_, rpc)] = sent(cluster["a"].handle(reply(cluster, "b", False, last, next_index)), AppendEntriesRpc)
    assert cluster.server("a").peers[0][1].match_index == match
    assert rpc.prev_log_index == expected - 1


def test_the_end_of_a_former_leaders_log_is_not_counted() -> None:
    """A success whose last entry is not ours proves nothing about what we have there."""
    cluster = leader("a", "b", "c")
    cluster.command("a", "x")
    cluster["a"].sync()
    cluster["a"].handle(reply(cluster, "b", True, (2, 0), 3))
    assert cluster.server("a").peers[0][1].match_index == 1
    assert cluster.server("a").commit_index == 1


def test_an_answer_of_a_former_term_is_not_counted() -> None:
    """What a follower had then it may have lost since."""
    cluster = leader("a", "b", "c")
    cluster.command("a", "x")
    cluster["a"].sync()
    for success in (True, False):
        cluster["a"].handle(
            AppendEntriesReply(cluster["b"].id, Term(0), success, Index(3), Index(2), Term(1))
        )
    assert cluster.server("a").commit_index == 1


def test_nobody_answers_in_the_leaders_own_name() -> None:
    """A reply that claims to come from the leader itself counts for nothing."""
    cluster = leader("a", "b", "c")
    cluster.command("a", "x")
    cluster["a"].handle(reply(cluster, "a", True, (2, 1), 3))
    assert cluster.server("a").commit_index == 1


def test_a_duplicate_is_acknowledged_only_as_far_as_it_is_durable() -> None:
    """Historical bug 23: the fast path for entries that are there already must not skip the disk."""
    cluster = leader("a", "b")
    cluster.heal()
    effects = cluster.command("a", "x")
    [(_, rpc)] = sent(effects, AppendEntriesRpc)
    cluster["b"].handle(rpc)
    [(_, answer)] = sent(cluster["b"].handle(rpc), AppendEntriesReply)
    assert (answer.success, answer.last_index, answer.next_index) == (True, 1, 3)


def test_a_leader_cannot_send_what_it_no_longer_holds() -> None:
    """Nor can a snapshot take its place that it does not have; that would be our bug."""
    cluster = leader("a", "b")
    server = cluster.server("a")
    [(member, peer)] = server.peers
    peer.next_index = Index(9)
    with pytest.raises(InvariantViolation, match="neither entry 8 nor a snapshot"):
        make_rpc(server, member, peer, 1)


def test_a_follower_never_overwrites_what_it_has_applied() -> None:
    """State Machine Safety: such a request proves a fault of the sender, or of ours."""
    cluster = leader("a", "b")
    entry = EntryBatch(Index(1), Term(2), 1, 0, encode_body([b"\x01"]))
    rpc = AppendEntriesRpc(Term(2), cluster["a"].id, Index(0), Index(0), Term(0), (entry,))
    with pytest.raises(InvariantViolation, match="overwrite committed entry 1"):
        cluster["b"].handle(rpc)


def test_a_conflict_is_answered_with_what_is_applied_and_durable() -> None:
    """REPL-17: everything applied agrees with every leader, but only what is durable is claimed."""
    cluster = CoreCluster("a", "b", "c")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster.settle("a", "c")
    assert cluster.server("b").last_applied == 2
    cluster["b"].handle(AppendEntriesRpc(Term(1), cluster["a"].id, Index(1), Index(2), Term(0)))
    [(_, answer)] = [(to, m) for to, m in sent(cluster["b"].effects[-3:], AppendEntriesReply)]
    assert (answer.next_index, answer.last_index) == (3, 1)


def test_a_commit_index_is_told_until_it_has_arrived() -> None:
    """REPL-10, REPL-21: it travels alone, and a full channel drops; the next command may be a day away."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    cluster.command("a", "x")
    cluster["a"].sync()
    cluster.deliver(only=AppendEntriesRpc)
    cluster["b"].sync()
    cluster.deliver(only=AppendEntriesReply)
    cluster.network.clear()  # the commit index is lost
    leader = cluster.server("a")
    assert cluster.server("b").commit_index < leader.commit_index
    assert has_unfinished_business(leader)
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("b").commit_index == leader.commit_index
    assert not has_unfinished_business(leader)
    assert sent(cluster["a"].handle(Tick(0)), AppendEntriesRpc) == []


def test_who_comes_back_is_asked_what_it_knows() -> None:
    """REPL-23: it may have forgotten what it had been told to be committed."""
    cluster = CoreCluster("a", "b")
    cluster.elect("a")
    cluster.settle()
    cluster["b"].restart()
    cluster["a"].handle(NodeStatus("node_b", up=True))
    cluster.network.clear()
    assert cluster.server("b").commit_index < cluster.server("a").commit_index
    cluster["a"].handle(Tick(0))
    cluster.settle()
    assert cluster.server("b").commit_index == cluster.server("a").commit_index
