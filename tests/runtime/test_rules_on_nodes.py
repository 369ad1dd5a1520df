"""Rules of the core on whole nodes, with their performer, log and transport."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Adder, Nodes, nodes, until
from tests.runtime.test_members import Hasty, gone, role_of

import barque
from barque.core.messages import AppendEntriesRpc, HeartbeatRpc, TimeoutNow
from barque.core.roles import LeaderRole
from barque.core.state import RaftState
from barque.runtime.cluster_clock import ClusterClock
from barque.runtime.server_process import ServerProcess
from barque.types import Index, ServerId, Term


def member(some: Nodes, node: str) -> ServerProcess:
    """The member of `sum` on a node."""
    return some.running[node].system.processes["sum"]


async def lead_from(some: Nodes, client: barque.Client, node: str) -> None:
    """Wait until the member on this node leads."""

    async def leads() -> bool:
        await client.transfer_leadership("sum", node)
        return await role_of(some, node) == "leader"

    await until(leads, f"{node} to lead")


class Loss:
    """Loses what a node sends to another, while it is on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: barque.Node, lost: Callable[..., bool]) -> None:
        self.on = True
        send = node.transport.send

        def lossy(to: str, name: str, message: Any, *who: str) -> bool:
            return (self.on and lost(to, message)) or send(to, name, message, *who)

        monkeypatch.setattr(node.transport, "send", lossy)


async def test_a_terminating_leader_waits_no_longer_than_it_was_told(tmp_path: Path) -> None:
    """TIME-02: `await_condition_timeout_ms` bounds its wait for a member that stays away."""
    three = Hasty(tmp_path, 3)
    await three.start()
    try:
        async with three.client("n1", "n2") as client:
            await client.start_cluster("sum", "adder")
            await lead_from(three, client, "n1")
            await three.stop("n3")
            await client.delete_cluster("sum")
            assert await role_of(three, "n1") == "terminating_leader"
            await gone(three, "n1")
    finally:
        await three.stop()


async def test_an_overwritten_change_of_members_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MEMB-02 to MEMB-04: a change is in force from its append until another leader overwrites it."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await lead_from(three, client, "n1")
        await client.process_command("sum", 1)
        Loss(monkeypatch, three.running["n1"], lambda _to, message: type(message) is AppendEntriesRpc)
        removal = asyncio.ensure_future(client.remove_member("sum", "n3", timeout_s=1))

        async def is_in_force() -> bool:
            return len(member(three, "n1").server.cluster) == 2

        await until(is_in_force, "the change to be appended")
        await asyncio.gather(removal, return_exceptions=True)
        await three.stop("n1")
        async with three.client("n2", "n3") as others:
            assert await others.process_command("sum", 1) == 2
            await three.start("n1")
            back = member(three, "n1").server

            async def is_undone() -> bool:
                return len(back.cluster) == 3 and back.machine_state == 2

            await until(is_undone, "the overwritten change to be undone")
            assert len(await others.members("sum")) == 3


async def test_a_read_that_waits_when_its_leader_is_deposed_is_answered_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QRY-14: a deposed leader hands its reads back, and they are asked again where the new one leads."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 7)
        leader = await three.leader(client, "sum")
        old = member(three, leader)
        other = next(name for name in three.addresses if name != leader)
        loss = Loss(monkeypatch, three.running[leader], lambda _to, message: type(message) is HeartbeatRpc)
        async with three.client(leader) as asking:
            read = asyncio.ensure_future(asking.consistent_query("sum"))

            async def is_waiting() -> bool:
                role = old.server.role
                return isinstance(role, LeaderRole) and bool(role.waiting_queries)

            await until(is_waiting, "the read to wait for its round")
            assert not read.done()
            await lead_from(three, client, other)
            assert await read == 7
        assert loss.on
        assert old.server.raft_state is RaftState.FOLLOWER


async def test_two_leaders_in_one_term_stop_the_member_that_notices(tmp_path: Path) -> None:
    """ELEC-12: entries of another leader of its own term are a bug; the server stops, and says so."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        process = member(single, "n1")
        stranger = ServerId("sum", "n9")
        term = process.server.current_term
        process.handle(AppendEntriesRpc(term, stranger, Index(0), Index(0), Term(0), ()))
        assert "InvariantViolation" in (process.failure or "")


async def test_the_overview_tells_how_late_commands_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT-07: the time between the leader's timestamp of the last command and its application."""
    now = iter(range(2_000_000_000_000, 3_000_000_000_000, 1_000))
    monkeypatch.setattr(ClusterClock, "wall_ms", lambda _self: next(now))
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        overview = await client.overview("sum")
        assert overview.commit_latency_ms == overview.counters["commit_latency"]
        assert overview.commit_latency_ms >= 1_000


async def test_members_count_what_they_send_and_receive(tmp_path: Path) -> None:
    """EFF-24, CNT-03: RPCs on the leader, entries on the followers, elections where they were held."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        await client.local_query("sum")
        leader = await two.leader(client, "sum")
        leads, follows = (
            member(two, name).count_overview() for name in sorted(two.addresses, key=lambda n: n != leader)
        )
        assert leads["msgs_sent"] > leads["rpcs_sent"] > 0
        assert leads["aer_replies_success"] > 0
        assert leads["elections"] > 0
        assert leads["term_and_voted_for_updates"] > 0
        assert follows["aer_received_follower"] > 0
        assert leads["local_queries"] + follows["local_queries"] == 1


async def test_a_machine_may_be_one_function(tmp_path: Path) -> None:
    """MAC-01: `SimpleMachine` turns a function of command and state into a replicated machine."""
    some = Nodes(tmp_path, 2)
    machine: Any = barque.SimpleMachine(lambda command, state: [*state, command], [])
    await some.start(machines={"list": machine, "adder": Adder()})
    try:
        async with some.client() as client:
            await client.start_cluster("l", "list")
            assert await client.process_command("l", "a") == ["a"]
            assert await client.process_command("l", 2) == ["a", 2]
            assert await client.consistent_query("l") == ["a", 2]
    finally:
        await some.stop()


async def test_a_round_that_was_lost_is_asked_again_with_a_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QRY-06, QRY-09, QRY-12: a read waits for a majority's answers; ticks ask again."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 7)
        leader = await three.leader(client, "sum")
        process = member(three, leader)
        loss = Loss(monkeypatch, three.running[leader], lambda _to, message: type(message) is HeartbeatRpc)
        read = asyncio.ensure_future(client.consistent_query("sum"))

        async def is_waiting() -> bool:
            role = process.server.role
            return isinstance(role, LeaderRole) and bool(role.waiting_queries)

        await until(is_waiting, "the read to wait for its round")
        assert not read.done()
        loss.on = False
        assert await read == 7
        assert process.server.query_index > 0


async def test_a_handing_over_that_fails_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XFER-03, CORE-06: a leader whose target hears nothing waits, and leads again in the same term."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        leader = await three.leader(client, "sum")
        target = next(name for name in three.addresses if name != leader)
        process = member(three, leader)
        term = process.server.current_term
        Loss(monkeypatch, three.running[leader], lambda _to, message: type(message) is TimeoutNow)

        async def waits() -> bool:
            await client.transfer_leadership("sum", target)
            return process.server.raft_state is RaftState.AWAIT_CONDITION

        await until(waits, "the leader to wait")
        assert await client.process_command("sum", 1) == 2
        assert (process.server.raft_state, process.server.current_term) == (RaftState.LEADER, term)


async def test_a_member_without_a_vote_is_not_counted(tmp_path: Path) -> None:
    """COMMIT-03, ELEC-22, MEMB-08: one voter of two members commits, and is elected, alone."""
    async with nodes(tmp_path, 2) as two, two.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await client.add_member("sum", "n2", membership=barque.Membership.NON_VOTER)
        await two.stop("n2")
        assert await client.process_command("sum", 1) == 1
        await two.stop("n1")
        await two.start("n1")
        assert await client.process_command("sum", 1) == 2


async def test_a_leader_knows_where_its_peers_stand(tmp_path: Path) -> None:
    """CORE-15, OVW-01: next, match and commit index of each peer, and its vote and uid."""
    async with nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        leader = await two.leader(client, "sum")
        other = next(name for name in two.addresses if name != leader)
        async with two.client(leader) as asked:

            async def is_up_to_date() -> Any:
                peer = (await asked.overview("sum")).peers[f"sum@{other}"]
                return peer if peer["match_index"] == peer["commit_index_sent"] == 2 else None

            peer = await until(is_up_to_date, "the follower to have everything")
        assert (peer["next_index"], peer["voter"], peer["uid"]) == (3, True, member(two, other).uid)


class Newer(Adder):
    """The next version of the machine: it counts twice."""

    version = 1

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """Add twice, from version 1 on."""
        if isinstance(command, barque.MachineVersion):
            return state + 1_000, None
        return super().apply(meta, 2 * command, state)

    def which_module(self, version: int) -> barque.Machine[Any]:
        """The code of that version."""
        return self if version else Adder()


async def effective(some: Nodes, node: str, version: int) -> None:
    """Wait until the member on a node has this machine version in force."""

    async def is_in_force() -> bool:
        return member(some, node).server.effective_machine_version == version

    await until(is_in_force, f"version {version} on {node}")


async def test_a_member_without_the_version_stands_still_until_it_has_it(tmp_path: Path) -> None:
    """VER-01 to VER-03, SYS-24: `quorum` moves at once; older code keeps the log, and applies it later."""
    some = Nodes(tmp_path, 3, machine_upgrade_strategy="quorum")
    await some.start()
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder")
            await client.process_command("sum", 1)
            await some.stop("n1", "n2")
            await some.start("n1", "n2", machines={"adder": Newer()})

            async def has_moved() -> bool:
                await client.transfer_leadership("sum", "n1")
                return member(some, "n1").server.effective_machine_version == 1

            await until(has_moved, "the newer member to lead")
            assert await client.process_command("sum", 1) == 1_003
            old = member(some, "n3").server

            async def has_the_log() -> bool:
                return old.commit_index == member(some, "n1").server.commit_index

            await until(has_the_log, "the entries to arrive")
            assert (old.machine_state, old.last_applied < old.commit_index) == (1, True)
            await some.stop("n3")
            await some.start("n3", machines={"adder": Newer()})

            async def has_caught_up() -> bool:
                return member(some, "n3").server.machine_state == 1_003

            await until(has_caught_up, "the entries to be applied")
    finally:
        await some.stop()


async def test_a_cluster_moves_when_every_member_has_the_version(tmp_path: Path) -> None:
    """VER-04, VER-05: with `all` the leader asks for the others' versions, and waits for the last."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        for name in ("n1", "n2"):
            await three.stop(name)
            await three.start(name, machines={"adder": Newer()})
            assert await client.process_command("sum", 1) is not None
        assert await client.consistent_query("sum") == 2
        await three.stop("n3")
        await three.start("n3", machines={"adder": Newer()})
        for name in three.addresses:
            await effective(three, name, 1)
        assert await client.process_command("sum", 1) == 1_004
