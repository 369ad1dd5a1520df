"""Servers that are stopped, started again and deleted one by one (runtime/admin_servers.py, System.stop)."""

from pathlib import Path

import msgspec
import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.errors import ChangeNotPermitted, ConfigurationError, NoLeader, Refused, UnknownCluster
from barque.types import Index, Membership, ServerId, Uid


def state_of(some: Nodes, node: str) -> str:
    """The state of the server of `sum` on a node."""
    process = some.running[node].system.processes.get("sum")
    return "absent" if process is None else process.state


async def reads(some: Nodes, node: str, expected: int) -> None:
    """Wait until the server on a node has applied what it should."""

    async def has_it() -> bool:
        process = some.running[node].system.processes["sum"]
        return process.failure is None and process.server.machine_state == expected

    await until(has_it, f"{node} to have {expected}")


async def test_api7_a_stopped_server_keeps_its_files_and_its_cluster_goes_on(tmp_path: Path) -> None:
    """API-06, API-07: the leader is stopped and hands over; both are told so twice; it catches up again."""
    async with nodes(tmp_path) as three, three.client("n1", "n2", "n3") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        leader = await three.leader(client, "sum")
        stopped = await client.stop_server("sum", leader)
        assert stopped == barque.ServerState(server=ServerId("sum", leader), state="stopped", changed=True)
        assert not (await client.stop_server("sum", leader)).changed
        assert await client.process_command("sum", 2) == 3
        status = await client.status()
        [gone] = [m for m in status.clusters[0].members if m.server.node == leader]
        assert gone.role == "stopped"
        assert f"barque server restart sum {leader}" in (gone.failure or "")
        again = await client.restart_server("sum", leader)
        assert (again.server.node, again.state, again.changed) == (leader, "follower", True)
        assert not (await client.restart_server("sum", leader)).changed
        await reads(three, leader, 3)
        for other in ("n1", "n2", "n3"):
            if other != leader:
                await client.stop_server("sum", other)
        async with three.client("n1" if leader != "n1" else "n2") as asked:
            with pytest.raises(UnknownCluster, match=r"an operator has stopped it.*ask another node"):
                await asked.local_query("sum")
        await client.restart_server("sum", "n1")
        await client.restart_server("sum", "n2")
        assert await until(lambda: client.process_command("sum", 10), "a leader") == 13
        with pytest.raises(UnknownCluster, match="no member of 'other'"):
            await client.stop_server("other", "n1")
        with pytest.raises(ConfigurationError, match="n9"):
            await client.restart_server("sum", "n9")


async def test_sys23_what_was_stopped_stays_stopped_and_the_strategy_counts(tmp_path: Path) -> None:
    """LIFE-02, SYS-23: all, none, or some clusters start with a node; never one that was stopped."""
    some = Nodes(tmp_path, 1)
    await some.start()
    try:
        async with some.client() as client:
            for cluster in ("sum", "other", "third"):
                await client.start_cluster(cluster, "adder")
                assert await client.process_command(cluster, 7) == 7
            await client.stop_server("sum")

        async def states(strategy: object) -> dict[str, str]:
            await some.stop()
            some.settings["server_recovery_strategy"] = strategy
            await some.start()
            processes = some.running["n1"].system.processes
            return {name: "runs" if p.failure is None else p.state for name, p in processes.items()}

        assert await states("all") == {"sum": "stopped", "other": "runs", "third": "runs"}
        assert await states(("third",)) == {"sum": "stopped", "other": "stopped", "third": "runs"}
        assert await states("none") == dict.fromkeys(("sum", "other", "third"), "stopped")
        async with some.client() as client:
            overview = await client.key_metrics("third")
            assert (overview.state, overview.membership) == ("noproc", None)
            assert overview.last_applied == 2
            for cluster in ("sum", "other", "third"):
                await client.restart_server(cluster)
                assert await until(lambda c=cluster: client.consistent_query(c), "a leader") == 7
        assert await states("all") == dict.fromkeys(("sum", "other", "third"), "runs")
    finally:
        await some.stop()


async def test_a_restart_after_a_vote_that_is_not_on_disk_makes_it_durable_first(tmp_path: Path) -> None:
    """The new server takes over what the old one has noted; a failed sync starts nothing."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        system = one.running["n1"].system
        await client.stop_server("sum")
        record = system.storage.meta.read(system.processes["sum"].uid)
        assert record is not None
        real = system.storage.sync_meta

        def fail() -> None:
            raise barque.StorageError("a test")

        system.storage.sync_meta = fail  # type: ignore[method-assign]
        with pytest.raises(barque.StorageError, match="a test"):
            await client.restart_server("sum")
        assert state_of(one, "n1") == "stopped"
        system.storage.sync_meta = real  # type: ignore[method-assign]
        await client.restart_server("sum")
        assert await until(lambda: client.consistent_query("sum"), "a leader") == 1


async def test_a_failed_server_restarts_with_other_code_and_not_after_a_bug(tmp_path: Path) -> None:
    """API-06, LIFE-01: a machine's error comes again, until its code is other; a violated invariant stays."""
    async with nodes(tmp_path, 1) as one, one.client() as client:
        await client.start_cluster("sum", "adder")
        await client.start_cluster("other", "adder")
        with pytest.raises(barque.BarqueError):
            await client.process_command("sum", "boom", timeout_s=0.3)
        system = one.running["n1"].system
        assert state_of(one, "n1") == "failed"
        assert "MachineFault" in str(system.processes["sum"].failure)
        again = await client.restart_server("sum")
        assert again.changed

        async def has_failed() -> bool:
            return state_of(one, "n1") == "failed"

        await until(has_failed, "the same error")

        class Mended(Adder):
            def apply(self, meta: barque.CommandMeta, command: object, state: int) -> object:
                return (state, "no boom") if command == "boom" else super().apply(meta, command, state)

        system._machines["adder"] = Mended()  # type: ignore[index]
        await client.restart_server("sum")
        assert await until(lambda: client.process_command("sum", 2), "a leader") == 2
        system.processes["other"].fail(barque.InvariantViolation("a test"))
        with pytest.raises(Refused, match="stop its node and start it again"):
            await client.restart_server("other")


async def test_api2_start_cluster_is_idempotent_for_the_same_arguments(tmp_path: Path) -> None:
    """API-02: a second start with the same arguments changes nothing; another one is refused."""
    async with nodes(tmp_path) as three, three.client() as client:
        first = await client.start_cluster("sum", "adder", arguments={"start": 5})
        assert await client.process_command("sum", 1) == 6
        assert await client.start_cluster("sum", "adder", arguments={"start": 5}) == first
        assert await client.process_command("sum", 1) == 7
        for machine, arguments, places in (
            ("adder", {"start": 6}, None),
            ("adder", {"start": 5}, ["n1", "n2"]),
            ("kv", {}, None),
        ):
            with pytest.raises(ConfigurationError, match="exists already"):
                await client.start_cluster("sum", machine, arguments=arguments, nodes=places)
        await client.stop_server("sum", "n3")
        again = await client.start_cluster("sum", "adder", arguments={"start": 5})
        assert again.started == ("n1", "n2")
        assert "barque server restart sum n3" in again.not_started["n3"]


async def test_api3_start_or_restart_a_cluster(tmp_path: Path) -> None:
    """API-03: it forms a cluster that is not there, and starts the servers of one that is."""
    async with nodes(tmp_path) as three, three.client() as client:
        first = await client.start_or_restart_cluster("sum", "adder")
        assert first.started == ("n1", "n2", "n3")
        assert await client.process_command("sum", 4) == 4
        for node in ("n1", "n2", "n3"):
            await client.stop_server("sum", node)
        with pytest.raises(NoLeader, match="these servers do not run"):
            await client.start_cluster("sum", "adder", timeout_s=1.0)
        with pytest.raises(NoLeader, match="an operator has stopped it"):
            await client.process_command("sum", 4, timeout_s=2.0)
        assert await client.start_or_restart_cluster("sum", "adder") == first
        assert await client.process_command("sum", 1) == 5


async def test_api5_a_cluster_is_formed_server_by_server(tmp_path: Path) -> None:
    """API-05, API-09, API-20, API-28: uids are drawn, servers started, one of them campaigns."""
    async with nodes(tmp_path, 3) as three, three.client("n1") as client:
        uid = await client.new_uid("sum", "n2")
        assert uid.startswith("SUM")
        assert len(uid) == 15
        members = ["n1", "n2", "n3"]
        started = [
            await client.start_server(
                "sum", node, "adder", members=members, uid=uid if node == "n2" else None
            )
            for node in members
        ]
        assert [str(s.server) for s in started] == ["sum@n1", "sum@n2", "sum@n3"]
        assert started[1].uid == uid
        await client.trigger_election("sum", "n2")
        assert await client.process_command("sum", 3) == 3
        assert await client.leader("sum") == ServerId("sum", "n2")
        assert await client.initial_members("sum", "n3") == [ServerId("sum", n) for n in members]
        with pytest.raises(ConfigurationError, match="exists already"):
            await client.start_server("sum", "n1", "adder", members=members)
        with pytest.raises(ConfigurationError, match="must be among them"):
            await client.start_server("more", "n1", "adder", members=["n2"])
        with pytest.raises(ConfigurationError, match="was used before"):
            await client.start_server("more", "n2", "adder", members=["n2"], uid=uid)
        with pytest.raises(ConfigurationError, match="name"):
            await client.new_uid("no name!")


async def test_api8_a_server_is_deleted_without_its_cluster(tmp_path: Path) -> None:
    """API-08: on another node than the connected one; a caller who asks again hears that nothing is there."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        assert await client.force_delete_server("sum", "n3") == [ServerId("sum", "n3")]

        async def is_gone() -> bool:
            return state_of(three, "n3") == "absent"

        await until(is_gone, "the server to be deleted")
        with pytest.raises(UnknownCluster):
            await client.force_delete_server("sum", "n3")
        assert await client.process_command("sum", 1) == 1


async def test_api26_key_metrics_come_without_the_server(tmp_path: Path) -> None:
    """API-26, MEMB-09, OVW-03, CNT-09: of a server that runs, was stopped, or is not there."""
    async with nodes(tmp_path, 2) as two, two.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        await client.process_command("sum", 1)
        here = await client.key_metrics("sum")
        assert (here.state, here.membership, here.node) == ("leader", Membership.VOTER, "n1")
        assert here.last_applied == here.commit_index == here.last_index == here.last_written_index == 2
        assert (here.term, here.snapshot_index) == (1, 0)
        await client.stop_server("sum")
        stopped = await client.key_metrics("sum")
        expected = msgspec.structs.replace(
            here, state="noproc", membership=None, commit_latency_ms=stopped.commit_latency_ms
        )
        assert stopped == expected
        nothing = await client.key_metrics("sum", "n2")
        assert nothing == barque.KeyMetrics(node="n2", state="unknown")


async def test_memb5_a_member_joins_with_a_vote_or_a_target_and_is_demoted(tmp_path: Path) -> None:
    """MEMB-05: a voter outright, a promotable one with a target, and a vote that is taken away."""
    async with nodes(tmp_path, 4) as four, four.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder", nodes=["n1", "n2"])
        await client.process_command("sum", 1)
        voter = await client.add_member("sum", "n3", catch_up=False)
        assert voter.membership is Membership.VOTER
        late = await client.add_member("sum", "n4", membership=Membership.PROMOTABLE, target=Index(12))
        assert late.membership is Membership.PROMOTABLE

        async def membership_of(node: str) -> Membership:
            info = await client.members_info("sum")
            return next(m.membership for m in info.members if m.server.node == node)

        await reads(four, "n4", 1)
        assert await membership_of("n4") is Membership.PROMOTABLE
        for _ in range(10):
            await client.process_command("sum", 1)

        async def votes() -> bool:
            return await membership_of("n4") is Membership.VOTER

        await until(votes, "the promotion at the target")
        assert (await client.demote_member("sum", "n4")).membership is Membership.NON_VOTER
        assert await membership_of("n4") is Membership.NON_VOTER
        leader = await four.leader(client, "sum")
        await client.demote_member("sum", leader)

        async def another_leads() -> bool:
            found = await client.leader("sum")
            return found is not None and found.node != leader

        await until(another_leads, "another leader")
        assert await until(lambda: client.process_command("sum", 1), "a leader") == 12
        assert await membership_of(leader) is Membership.NON_VOTER
        rest = [n for n in ("n1", "n2", "n3") if n != leader]
        await client.demote_member("sum", rest[0])
        with pytest.raises(ChangeNotPermitted, match="last voter"):
            await client.demote_member("sum", rest[1])


async def test_api12_a_member_leaves_and_its_files_stay(tmp_path: Path) -> None:
    """API-12: it is stopped, also after a restart of its node, until another one takes its place."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 3)
        await reads(three, "n3", 3)
        uid = three.running["n3"].system.processes["sum"].uid
        await client.remove_member("sum", "n3", keep_data=True)

        async def is_stopped() -> bool:
            return state_of(three, "n3") == "stopped"

        await until(is_stopped, "the server to stop")
        await three.stop("n3")
        await three.start("n3")
        assert state_of(three, "n3") == "stopped"
        assert (tmp_path / "n3" / "servers" / uid / "config").exists()
        again = await client.add_member("sum", "n3")
        assert again.uid != uid
        await reads(three, "n3", 3)
        assert not (tmp_path / "n3" / "servers" / str(Uid(uid))).exists()
