"""Figures of members and nodes, and casts to aux machines (runtime/reporting.py, runtime/commit_rate.py)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.core.roles import RaftState
from barque.core.state import Server
from barque.errors import ConfigurationError, UnknownCluster
from barque.machine.machine import AuxKind, AuxResult, Member
from barque.runtime.commit_rate import CommitRate


class Aux(Adder):
    """Its aux machine keeps the casts that clients send."""

    def init_aux(self, name: str) -> Any:
        """Nothing yet."""
        return []

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Member) -> AuxResult:
        """Keep what is text and was cast; refuse `"raise"`."""
        if command == "raise":
            raise RuntimeError("as told")
        kept = [*aux, command] if kind is AuxKind.CAST and isinstance(command, str) else aux
        return AuxResult([c for c in kept if c not in ("eval", "tick")], len(kept))


async def test_ovw1_a_members_overview_tells_what_waits_and_when(tmp_path: Path) -> None:
    """OVW-01, OVW-02, OVW-04, COMMIT-10, CNT-04, CNT-05: of a leader and of a follower."""
    some = Nodes(tmp_path, 2)
    await some.start(machines={"adder": Aux()})
    try:
        async with some.client("n1") as client:
            await client.start_cluster("sum", "adder")

            async def commits() -> bool:
                await client.process_command("sum", 1)
                return (await client.overview("sum")).commit_rate > 0

            await until(commits, "a rate of commits")
            leader = await some.leader(client, "sum")
            follower = "n2" if leader == "n1" else "n1"
            async with some.client(leader) as at_leader, some.client(follower) as at_follower:
                leads = await at_leader.overview("sum")
                follows = await at_follower.overview("sum")
            timers = leads.process["timers"]
            assert leads.process == {
                "leader_silent_ms": 0,
                "queued_commands": 0,
                "waits_for_sync": False,
                "timers": timers,
            }
            assert set(timers) <= {"quorum"}
            assert follows.process["leader_silent_ms"] >= 0
            assert (leads.waiting_queries, leads.pending_queries) == (0, 0)
            assert leads.aux == []
            assert leads.cluster_index == follows.cluster_index
            assert leads.log["pending"] == 0
            for name in ("invalid_reply_mode_commands", "checkpoints_written", "checkpoint_index"):
                assert leads.counters[name] == 0
            for name in ("num_segments", "snapshot_index", "commit_latency", "effective_machine_version"):
                assert name in leads.counters
            process = some.running[leader].system.processes["sum"]
            process.server.aux_state = object()
            async with some.client(leader) as at_leader:
                assert "object object" in (await at_leader.overview("sum")).aux
    finally:
        await some.stop()


async def test_api24_a_node_tells_the_counters_of_its_servers_and_of_its_log(tmp_path: Path) -> None:
    """API-24: of the connected node or another one; of all servers or of some clusters."""
    async with nodes(tmp_path, 2) as two, two.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.start_cluster("other", "adder", nodes=["n2"])
        await client.process_command("sum", 1)
        leader = await two.leader(client, "sum")
        found = await client.node_overview(leader)
        assert found.name == leader
        assert found.servers["sum"].cluster == "sum"
        assert found.servers["sum"].counters["commands"] == 1
        assert found.servers["sum"].counters["write_ops"] >= 2
        assert found.storage["wal"]
        assert "segment_writer" in found.storage
        assert set((await client.node_overview("n2")).servers) == {"sum", "other"}
        assert set((await client.node_overview("n2", clusters=["other"])).servers) == {"other"}
        with pytest.raises(ConfigurationError, match="n9"):
            await client.node_overview("n9")


async def test_api23_an_aux_machine_hears_casts(tmp_path: Path) -> None:
    """API-23: nobody waits for what it does with them, and its errors harm nobody."""
    some = Nodes(tmp_path, 1)
    await some.start(machines={"adder": Aux(), "plain": Adder()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
            await client.start_cluster("plain", "plain")
            await client.cast_aux_command("sum", "one")
            await client.cast_aux_command("sum", "raise")
            await client.cluster("sum").cast_aux_command("two")
            assert await client.aux_command("sum", 3) == 2
            assert (await client.overview("sum")).aux == ["one", "two"]
            await client.cast_aux_command("plain", "one")
            with pytest.raises(UnknownCluster):
                await client.cast_aux_command("other", "one")
    finally:
        await some.stop()


def test_commit10_a_rate_leaks_and_a_snapshot_is_no_commit() -> None:
    """It comes near the true rate, fades without commits, and begins anew with a snapshot."""
    server = cast(Server, SimpleNamespace(commit_index=0, raft_state=RaftState.FOLLOWER))
    rate = CommitRate(server, 1.0, 0.0)
    for second in range(1, 61):
        server.commit_index = barque.Index(100 * second)
        rate.note(server, float(second))
    assert rate.overview(60.0)["commit_rate"] == pytest.approx(100, rel=0.01)
    assert rate.overview(60.0)["commit_rate_last"] == 100.0
    assert rate.overview(66.0)["commit_rate"] == pytest.approx(100 / 2.718, rel=0.01)
    rate.note(server, 60.0)
    server.raft_state = RaftState.RECEIVE_SNAPSHOT
    rate.note(server, 61.0)
    server.raft_state, server.commit_index = RaftState.FOLLOWER, barque.Index(1_000_000)
    assert rate.overview(61.0) == {"commit_rate": 0.0, "commit_rate_last": 0.0}
