"""No ghosts: other clusters, other incarnations and deleted servers are not heard (runtime/identity.py)."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Nodes, nodes, until

import barque
from barque.client.results import RemovedMember, StaleIncarnation
from barque.core.messages import (
    SENDER_OF,
    AppendEntriesReply,
    AuxCommand,
    Commands,
    DeleteCluster,
    ElectionTimeout,
    JoinMember,
    LeaveMember,
    PreVoteRpc,
    Queries,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    TimeoutNow,
    TransferLeadership,
)
from barque.core.state import RaftState
from barque.core.transitions import become_follower
from barque.errors import OutcomeUnknown
from barque.runtime import identity
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_record import configured_cluster_id
from barque.runtime.server_table import Ending
from barque.transport.wire import Envelope, LeaderIs, MemberRemoved, NodeMessage
from barque.types import Index, IndexTerm, Membership, ServerId, Term, Uid


def member(some: Nodes, node: str, cluster: str = "sum") -> ServerProcess:
    """The member on a node, which must be there."""
    return some.running[node].system.processes[cluster]


def members_of(process: ServerProcess) -> tuple[ServerId, ...]:
    """Whom it was formed with."""
    return process.server.cfg.initial_members


def uids_of(process: ServerProcess) -> dict[str, Uid]:
    """The incarnations that it was formed with."""
    return {str(m): u for m, u in process.server.cfg.initial_uids.items()}


async def start_alone(some: Nodes, node: str, like: ServerProcess, **changes: Any) -> ServerProcess:
    """Start a server of the same name and members on a node, behind the cluster's back."""
    system = some.running[node].system
    settings = {"cluster_id": like.server.cfg.cluster_id, "uids": uids_of(like), **changes}
    return system.create(system.plan("sum", "sum", "adder", {}, members_of(like), **settings))


async def wipe(some: Nodes, node: str) -> None:
    """Its disk is lost; it starts again with nothing."""
    await some.stop(node)
    shutil.rmtree(some.directory / node)
    await some.start(node)


async def gone(some: Nodes, node: str) -> None:
    """Wait until a node has no member any more."""

    async def is_gone() -> bool:
        return "sum" not in some.running[node].system.processes

    await until(is_gone, f"the member on {node} to disappear")


async def test_all_members_know_each_other_from_the_start(tmp_path: Path) -> None:
    """Who forms a cluster draws its id and all uids; each record has them, and a restart keeps them."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        configs = [member(three, node).server.cfg for node in three.addresses]
        [cluster_id] = {config.cluster_id for config in configs}
        [uids] = {tuple(sorted(config.initial_uids.items())) for config in configs}
        assert dict(uids) == {config.id: config.uid for config in configs}
        assert cluster_id != configured_cluster_id("barque", "sum")
        await three.stop()
        await three.start()
        again = member(three, "n2").server
        assert (again.cfg.cluster_id, tuple(sorted(again.cfg.initial_uids.items()))) == (cluster_id, uids)
        assert {m: peer.uid for m, peer in again.cluster.items()} == dict(uids)


async def test_two_clusters_of_one_name_never_hear_each_other(tmp_path: Path) -> None:
    """Their members meet on the same nodes under the same names; nothing is exchanged but counted."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        first = member(three, "n1")
        await wipe(three, "n3")
        second = await start_alone(three, "n3", first, cluster_id="ROTHER", uids={})

        async def both_were_refused() -> bool:
            second.handle(ElectionTimeout())
            await client.process_command("sum", 1)
            refused = [member(three, node).counters.foreign_messages for node in three.addresses]
            return all(count >= 3 for count in refused)

        await until(both_were_refused, "messages in both directions")
        assert second.server.raft_state is RaftState.PRE_VOTE
        assert second.server.current_term == 0
        assert second.server.machine_state == 0
        assert first.counters.stale_incarnations == 0


async def test_a_wiped_member_neither_votes_nor_leads(tmp_path: Path) -> None:
    """Under its old name and with another uid it cannot make a majority; status names it and the cure."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 5)
        await three.stop()
        await three.start("n2")  # no longer leads
        survivor = member(three, "n2")
        await wipe(three, "n3")
        old = uids_of(survivor)["sum@n3"]
        wiped = await start_alone(three, "n3", survivor, uids={**uids_of(survivor), "sum@n3": Uid("SUMNEW")})

        async def has_tried() -> bool:
            wiped.handle(ElectionTimeout())
            survivor.handle(ElectionTimeout())
            assert survivor.server.raft_state is not RaftState.LEADER
            assert wiped.server.raft_state is not RaftState.LEADER
            return survivor.counters.stale_incarnations >= 6

        await until(has_tried, "votes of another incarnation")
        assert survivor.server.voted_for != ServerId("sum", "n3")
        status = await client.status()
        shown = {m.server.node: m for m in status.clusters[0].members if m.role != "unreachable"}
        assert shown["n2"].stale_incarnations == (
            StaleIncarnation(
                server=ServerId("sum", "n3"), uid=Uid("SUMNEW"), cure="barque member replace sum sum@n3"
            ),
        )
        assert old != "SUMNEW"
        await three.start("n1")
        assert await client.consistent_query("sum") == 5
        wiped.handle(ElectionTimeout())
        await gone(three, "n3")  # a leader knows whom its committed configuration leaves out


async def test_a_wiped_member_gets_no_vote_even_where_nothing_is_written(tmp_path: Path) -> None:
    """Two of three had committed, and one of them lost its disk: with the third, whose log is as empty as
    its own, it would be a majority that has forgotten everything.
    """
    some = Nodes(tmp_path, 3)
    await some.start("n1")
    try:
        members = tuple(ServerId("sum", name) for name in some.addresses)
        uids = {str(m): Uid(f"SUM{m.node.upper()}") for m in members}
        node, sender = some.running["n1"], members[2]
        record = node.system.plan("sum", "sum", "adder", {}, members, cluster_id="R1", uids=uids)
        lagging = node.system.create(record)
        term = Term(lagging.server.current_term + 5)
        for uid, voted_for in (("SUMNEW", None), ("", None), (uids["sum@n3"], sender)):
            vote = RequestVoteRpc(term, sender, Index(0), Term(0))
            node.on_envelopes("n3", [Envelope("sum", vote, "R1", uid)])
            assert lagging.server.voted_for == voted_for
        assert lagging.counters.stale_incarnations == 2
    finally:
        await some.stop()


def test_whatever_a_server_says_is_checked() -> None:
    """Only what fronts send to servers needs no identity; a new message has to choose."""
    fronts = {Commands, Queries, TransferLeadership, JoinMember, LeaveMember, DeleteCluster, AuxCommand}
    assert set(RemoteMessage.__args__) == {*SENDER_OF, *fronts}


async def test_a_removed_member_is_told_and_disappears(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others confirm its removal when it is back; it deletes itself for good, and the cluster goes on."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)

        await three.stop("n3")
        await client.remove_member("sum", "n3")
        with caplog.at_level(logging.WARNING):
            await three.start("n3")
            await gone(three, "n3")
        assert "was removed from its cluster, or replaced: confirmed by n1, n2" in caplog.text
        await three.stop("n3")
        await three.start("n3")
        assert "sum" not in three.running["n3"].system.processes
        assert await client.process_command("sum", 1) == 2
        directory = three.running["n3"].system.directory
        cluster_id = member(three, "n1").server.cfg.cluster_id
        assert directory.deleted_cluster(cluster_id) is None
        assert directory.last_tombstone(cluster_id) is not None


async def test_a_removed_member_without_a_vote_is_told_by_the_next_announcement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It never campaigns, so it never asks; and who removed it has forgotten whom it wanted to tell."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2"])
        await client.add_member("sum", "n3", membership=Membership.NON_VOTER)
        assert await client.process_command("sum", 1) == 1
        await three.stop("n3")
        removed = await client.remove_member("sum", "sum@n3")
        assert removed == RemovedMember(member=ServerId("sum", "n3"), told=False)
        await three.stop("n1")
        await three.stop("n2")
        with caplog.at_level(logging.WARNING):
            for node in ("n3", "n1", "n2"):
                await three.start(node)
            await gone(three, "n3")
        assert "was removed from its cluster" in caplog.text


@pytest.mark.parametrize(
    ("term", "uids", "stays"),
    [
        (7, ("SUMX",), False),
        (7, None, True),  # the leader cannot say
        (7, ("SUMX", "OWN"), True),
        (5, ("SUMX",), True),  # it was made to join in this term, perhaps after the announcement
        (6, ("SUMX",), True),  # it has met a later leader
    ],
)
async def test_an_announcement_sends_nobody_away_who_may_be_a_member(
    tmp_path: Path, term: int, uids: tuple[str, ...] | None, *, stays: bool
) -> None:
    """Only a leader later than the one that made it join, and than all it has met, is believed at all."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        node, process = single.running["n1"], member(single, "n1")
        server = process.server
        config = msgspec.structs.replace(server.cfg, min_vote_position=IndexTerm(Index(1), Term(5)))
        server.cfg = config
        become_follower(server)
        server.current_term = Term(7 if term == 6 else 5)
        named = None if uids is None else tuple(Uid(server.cfg.uid if uid == "OWN" else uid) for uid in uids)
        said = LeaderIs("sum", ServerId("sum", "n2"), Term(term), server.cfg.cluster_id, named)
        node.on_envelopes("n2", [Envelope("", said)])
        node.wake()
        await asyncio.sleep(0)
        assert node.dispatcher.removals.is_suspected(process) is not stays
        assert process.failure is None  # one node's word deletes nothing


async def test_who_has_met_a_later_leader_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was deposed without knowing it must not send away whom its successor has added."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        node, process = single.running["n1"], member(single, "n1")
        monkeypatch.setattr(identity, "is_removed", lambda *_: True)
        said: list[NodeMessage] = []
        monkeypatch.setattr(node.dispatcher, "send_to_node", lambda _, message: said.append(message))
        cluster_id, term = process.server.cfg.cluster_id, process.server.current_term
        for later in (1, 0):
            vote = PreVoteRpc(1, 0, Term(term + later), 77, ServerId("sum", "n2"), Index(0), Term(0))
            node.on_envelopes("n2", [Envelope("sum", vote, cluster_id, "SUMX")])
            assert said == [MemberRemoved(cluster_id, "SUMX")][later:]
            process.handle(ElectionTimeout())
            term = process.server.current_term


async def test_a_member_that_missed_the_deletion_is_told(tmp_path: Path) -> None:
    """It comes back, campaigns, and goes; the next cluster of that name has nothing to do with it."""
    async with nodes(tmp_path, 4) as four, four.client("n1", "n2", "n4") as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2", "n3"])
        for _ in range(3):
            await client.process_command("sum", 1)
            await client.call("trigger_election", {"cluster": "sum"})  # to terms that the next one lacks
        await four.stop("n3")
        for node in ("n1", "n2"):
            four.running[node].servers.finish(member(four, node), Ending("a test", whole_cluster=True))
        await gone(four, "n1")
        await gone(four, "n2")
        await client.start_cluster("sum", "adder", nodes=["n1", "n2", "n4"])
        for through in ("n1", "n4"):
            async with four.client(through) as one:
                await one.process_command("sum", 10)
        await four.start("n3")
        await gone(four, "n3")
        async with four.client("n3") as other:
            assert await other.consistent_query("sum") == 20


async def test_followers_that_missed_the_deletion_are_told_by_their_leader(tmp_path: Path) -> None:
    """They trust its node, which lives, and would never ask; a new connection hears it again."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.transfer_leadership("sum", "n1")
        leader = three.running["n1"]
        cluster_id = member(three, "n1").cluster_id
        for node in ("n1", "n2"):
            three.running[node].servers.finish(member(three, node), Ending("a test", whole_cluster=True))
        for node in ("n1", "n2", "n3"):
            await gone(three, node)
        said: list[tuple[str, NodeMessage]] = []
        leader.dispatcher.send_to_node = lambda to, message: said.append((to, message))  # type: ignore[assignment]
        leader.on_peer_connected("n3", three.running["n3"].incarnation)
        assert ("n3", MemberRemoved(cluster_id)) in said


async def test_callers_of_a_deleted_cluster_hear_what_is_true(tmp_path: Path) -> None:
    """What was sent has an unknown outcome, and what was not did not happen."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await client.transfer_leadership("sum", "n1")
        await three.stop("n2", "n3")
        node = three.running["n1"]
        waiting = asyncio.ensure_future(client.process_command("sum", 1))

        async def is_sent() -> bool:
            return node.requests.overview()["waiting"] == 1

        await until(is_sent, "the command to wait for its answer")
        node.servers.finish(member(three, "n1"), Ending("a test", whole_cluster=True))
        with pytest.raises(OutcomeUnknown, match="was deleted"):
            await waiting


async def test_a_configured_cluster_is_not_formed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was deleted on purpose: the log says what to do, and `cluster create` makes another one."""
    clusters = (barque.ClusterConfig(name="sum", machine="adder"),)
    async with nodes(tmp_path, 1, clusters=clusters) as single, single.client() as client:
        await client.process_command("sum", 1, timeout_s=10)
        assert member(single, "n1").server.cfg.cluster_id == configured_cluster_id("barque", "sum")
        single.running["n1"].servers.finish(member(single, "n1"), Ending("a test", whole_cluster=True))
        await gone(single, "n1")
        await single.stop()
        with caplog.at_level(logging.WARNING):
            await single.start()
        assert "barque cluster create sum" in caplog.text
        assert "sum" not in single.running["n1"].system.processes
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 7) == 7
        await single.stop()
        await single.start()
        assert await client.consistent_query("sum") == 7


async def test_servers_of_one_node_take_the_same_checks(tmp_path: Path) -> None:
    """Messages that never leave the node prove who sent them, too."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("one", "adder")
        await client.start_cluster("two", "adder")
        dispatcher = single.running["n1"].dispatcher
        one, two = member(single, "n1", "one"), member(single, "n1", "two")
        reply = AppendEntriesReply(ServerId("two", "n1"), Term(99), False, Index(1), Index(0), Term(0))
        assert dispatcher.send(one.server.id, reply, two)
        assert dispatcher.send_to_server(one.server.id, reply)  # nobody in particular
        assert one.counters.foreign_messages == 2
        assert one.server.current_term < 99
        assert dispatcher.send(two.server.id, reply, two)
        assert (two.counters.foreign_messages, two.counters.aer_replies_fail) == (0, 1)


async def test_a_stranger_is_logged_once_and_forgotten_when_the_member_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message of it is counted; an unsigned one counts as foreign."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        node, process = three.running["n1"], member(three, "n1")
        sender = ServerId("sum", "n2")
        cluster_id, uids = process.server.cfg.cluster_id, uids_of(process)
        vote = RequestVoteResult(sender, Term(0), True)
        with caplog.at_level(logging.WARNING, "barque.dispatcher"):
            for _ in range(3):
                node.on_envelopes("n2", [Envelope("sum", vote, cluster_id, "SUMX")])
        assert process.counters.stale_incarnations == 3
        assert [record.args[2] for record in caplog.records if record.args] == ["SUMX"]
        node.on_envelopes("n2", [Envelope("sum", vote, cluster_id, "")])
        assert process.counters.stale_incarnations == 4
        node.on_envelopes("n2", [Envelope("sum", vote, cluster_id, uids["sum@n2"])])
        assert not process.unknown_incarnations


async def test_ghosts_are_answered_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they say, and each of them; what is not known to be deleted is not answered at all."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        node, process = single.running["n1"], member(single, "n1")
        cluster_id, uid = process.cluster_id, process.uid
        node.system.delete(process, "a test", whole_cluster=True)
        said: list[tuple[str, NodeMessage]] = []
        monkeypatch.setattr(node.dispatcher, "send_to_node", lambda to, message: said.append((to, message)))
        ghost = ServerId("sum", "n2")
        vote = PreVoteRpc(1, 0, Term(3), 77, ghost, Index(6), Term(2))
        for message in (vote, TimeoutNow(ghost), vote):
            node.on_envelopes("n2", [Envelope("sum", message, cluster_id, uid)])
        node.on_envelopes("n3", [Envelope("else", TimeoutNow(ServerId("else", "n3")), cluster_id, uid)])
        node.on_envelopes("n2", [Envelope("sum", vote, "RUNHEARDOF", uid), Envelope("sum", vote)])
        assert said == [("n2", MemberRemoved(cluster_id)), ("n3", MemberRemoved(cluster_id))]
