"""What members of whole nodes answer in trial elections, and what counts while a disk is slow."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Nodes, nodes, until
from tests.runtime.test_rules_on_nodes import lead_from, member

import barque
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    HeartbeatReply,
    HeartbeatRpc,
    PreVoteResult,
    PreVoteRpc,
)
from barque.core.state import RaftState
from barque.types import Index, ServerId


class Heard:
    """Notes what a node sends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: barque.Node) -> None:
        self.node = node
        self.sent: list[tuple[str, Any]] = []
        send = node.transport.send

        def noting(to: str, name: str, message: Any, *who: str) -> bool:
            self.sent.append((to, message))
            return send(to, name, message, *who)

        monkeypatch.setattr(node.transport, "send", noting)

    async def of(self, kind: type) -> list[tuple[str, Any]]:
        """Wait until messages of this kind have been sent."""
        self.node.wake()

        async def found() -> list[tuple[str, Any]]:
            return [(to, message) for to, message in self.sent if type(message) is kind]

        return list(await until(found, f"a {kind.__name__}"))


def question(some: Nodes, candidate: str, of: str) -> PreVoteRpc:
    """What the member on `candidate` would ask in a trial election, if its log were that of `of`."""
    server = member(some, of).server
    last = server.log.last_index_term()
    return PreVoteRpc(
        1, 0, server.current_term, 77, ServerId("sum", candidate), last.index, last.term, in_own_config=True
    )


@pytest.mark.parametrize(
    ("changed", "granted"),
    [({}, True), ({"version": 2}, False), ({"machine_version": 5}, False), ({"term": 0}, False)],
    ids=["as it should be", "a newer protocol", "a newer machine", "an old term"],
)
async def test_a_follower_answers_a_trial_election(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], granted: bool
) -> None:
    """ELEC-04, ELEC-06, ELEC-08: by protocol, machine version and term; the answer is no vote."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await lead_from(three, client, "n1")
        await client.process_command("sum", 1)
        server = member(three, "n2").server

        async def has_it() -> bool:
            return server.last_applied == member(three, "n1").server.last_applied

        await until(has_it, "n2 to have everything")
        heard, vote = Heard(monkeypatch, three.running["n2"]), server.voted_for
        asked = msgspec.structs.replace(question(three, "n3", "n2"), **changed)
        member(three, "n2").handle(asked)
        [(to, result), *_] = await heard.of(PreVoteResult)
        assert (to, result.token, result.vote_granted) == ("n3", 77, granted)
        assert server.voted_for == vote


async def test_a_member_that_stands_answers_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ELEC-09: two members that hold trial elections at once can grant each other's."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await three.stop("n2", "n3")

        async def stands() -> bool:
            return member(three, "n1").server.raft_state is RaftState.PRE_VOTE

        await until(stands, "n1 to stand for election")
        heard = Heard(monkeypatch, three.running["n1"])
        member(three, "n1").handle(question(three, "n2", "n1"))
        [(to, result), *_] = await heard.of(PreVoteResult)
        assert (to, result.token, result.vote_granted) == ("n2", 77, True)
        assert member(three, "n1").server.raft_state is RaftState.PRE_VOTE


async def test_a_leader_that_hears_of_a_trial_election_asserts_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ELEC-10: it sends every peer an RPC at once, and no answer."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        leader = await three.leader(client, "sum")
        others = sorted(name for name in three.addresses if name != leader)
        heard = Heard(monkeypatch, three.running[leader])
        member(three, leader).handle(question(three, others[0], leader))
        told = await heard.of(AppendEntriesRpc)
        assert sorted({to for to, _ in told}) == others
        assert not [message for _, message in heard.sent if type(message) is PreVoteResult]
        assert member(three, leader).server.raft_state is RaftState.LEADER


@pytest.mark.parametrize("slow", ["the leader", "a follower"])
async def test_a_slow_disk_delays_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """COMMIT-04, REPL-19: what a majority has written is committed, and applied before the rest has."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        leader = await three.leader(client, "sum")
        name = leader if slow == "the leader" else next(n for n in three.addresses if n != leader)
        server = member(three, name).server

        async def has_written() -> bool:
            return server.log.last_written() == server.log.last_index_term() and server.machine_state > 0

        await until(has_written, f"{slow} to write the first command")
        with monkeypatch.context() as patched:
            patched.setattr(three.running[name], "_write_log", lambda: None)
            assert await client.process_command("sum", 1) == 2

            async def has_applied() -> bool:
                return bool(server.machine_state == 2)

            await until(has_applied, f"{slow} to apply")
            assert server.log.last_written().index < server.last_applied
        three.running[name].wake()
        await until(has_written, f"{slow} to write the second command")


async def test_a_waiting_follower_answers_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QRY-19: one that lacks entries says so, and proves no leadership meanwhile."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder")
        await lead_from(two, client, "n1")
        leader, follower = member(two, "n1").server, member(two, "n2")
        heard, term = Heard(monkeypatch, two.running["n2"]), leader.current_term
        follower.handle(AppendEntriesRpc(term, leader.id, Index(0), Index(1_000), term, ()))
        assert follower.server.raft_state is RaftState.AWAIT_CONDITION
        follower.handle(HeartbeatRpc(9, term, leader.id))
        [(_, refusal), *_] = await heard.of(AppendEntriesReply)
        assert not refusal.success
        assert not [message for _, message in heard.sent if type(message) is HeartbeatReply]


async def test_a_follower_echoes_the_round_that_it_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QRY-07, QRY-08: an answer names its question's round, whatever was asked before."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder")
        await lead_from(two, client, "n1")
        leader, follower = member(two, "n1").server, member(two, "n2")
        heard = Heard(monkeypatch, two.running["n2"])
        for asked in (9, 4):
            follower.handle(HeartbeatRpc(asked, leader.current_term, leader.id))

        async def rounds() -> bool:
            return [message.query_index for _, message in await heard.of(HeartbeatReply)] == [9, 4]

        await until(rounds, "both answers")
