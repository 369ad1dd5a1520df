"""Nodes together: forming clusters, losing members, coming back (runtime/node.py, system.py, admin.py)."""

import asyncio
import contextlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import PATIENCE_S, Adder, Nodes, nodes, until

import barque
from barque.core.configuration import is_change_under_way
from barque.core.entries import encode_body
from barque.core.messages import Commands, ElectionTimeout, ServerDown
from barque.core.state import RaftState
from barque.errors import (
    ConfigurationError,
    NoLeader,
    NotAvailableYet,
    OutcomeUnknown,
    QueryTimeout,
    StorageError,
    UnknownCluster,
)
from barque.log.disk import OsDisk
from barque.runtime.failure_detector import FailureDetector
from barque.runtime.node_rpc import Caller
from barque.runtime.server_process import ServerProcess
from barque.transport.wire import NodeCallReply
from barque.types import Index, IndexTerm, ServerId


async def test_a_cluster_forms_and_counts(tmp_path: Path) -> None:
    """A cluster formed through one node is served by all of them."""
    async with nodes(tmp_path) as three, three.client("n1") as one, three.client("n3") as other:
        answer = await one.start_cluster("sum", "adder", arguments={"start": 5})
        assert answer == barque.StartedCluster(started=("n1", "n2", "n3"))
        assert await one.process_command("sum", 1) == 6
        assert await other.process_command("sum", 1) == 7
        assert await other.consistent_query("sum") == 7
        assert await one.members("sum") == [barque.ServerId("sum", n) for n in ("n1", "n2", "n3")]


async def test_one_node_is_a_cluster(tmp_path: Path) -> None:
    """A single member elects itself, acknowledges what is on its disk, and remembers it."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 41) == 41
        await single.stop()
        await single.start()
        assert await client.process_command("sum", 1) == 42


async def test_everything_is_there_after_a_restart_of_all(tmp_path: Path) -> None:
    """All nodes stop and start: state, term and membership come back from disk."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        for _ in range(20):
            await client.process_command("sum", 1)
        await three.stop()
        await three.start()
        assert await client.consistent_query("sum", timeout_s=10) == 20


async def test_a_lost_node_is_not_missed_and_catches_up(tmp_path: Path) -> None:
    """Two of three go on; the third, back again, applies what it missed."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("sum", "adder")
        await three.stop("n3")
        for _ in range(50):
            await client.process_command("sum", 1)
        await three.start("n3")
        process = three.running["n3"].servers.member_of("sum")
        assert process is not None

        async def caught_up() -> bool:
            return bool(process.server.machine_state == 50)

        await until(caught_up, "n3 to catch up")


async def test_the_followers_of_a_process_that_is_gone_wait_for_no_timer(tmp_path: Path) -> None:
    """The leader's connections break and its address refuses: another leads long before a timer ends."""
    unhurried = barque.TimeConfig(broadcast_time_ms=500, election_multiplier=1_000)
    async with nodes(tmp_path, time=unhurried) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        gone = three.running.pop(await three.leader(client, "sum"))
        leader = gone.system.processes["sum"].server.id

        async def all_follow() -> bool:
            servers = [node.system.processes["sum"].server for node in three.running.values()]
            return all(server.leader_id == leader for server in servers)

        await until(all_follow, "two followers")
        await gone.transport.stop()
        assert await client.process_command("sum", 1) == 2
        terms = {node.system.processes["sum"].server.current_term for node in three.running.values()}
        assert terms == {gone.system.processes["sum"].server.current_term + 1}
        await gone.stop()


async def test_without_a_majority_nothing_is_promised(tmp_path: Path) -> None:
    """One of three takes a command, cannot commit it, and does not say that it happened."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await three.stop("n2", "n3")
        with pytest.raises((NoLeader, OutcomeUnknown)):
            await client.process_command("sum", 1, timeout_s=0.5)


async def test_arguments_that_a_machine_does_not_take_are_refused(tmp_path: Path) -> None:
    """Nothing is left of the attempt, which would keep the nodes from starting or the name taken."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        with pytest.raises(
            ConfigurationError, match=r"'adder' cannot start with arguments .*'abc'.*ValueError"
        ):
            await client.start_cluster("sum", "adder", arguments={"start": "abc"})
        await client.start_cluster("sum", "adder", arguments={"start": 1})
        assert await client.process_command("sum", 1) == 2


async def test_a_machine_that_cannot_begin_any_more_stops_its_server_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code has changed: the node starts all the same, says why, and serves the others."""
    async with nodes(tmp_path) as three, three.client("n1", "n2") as client:
        await client.start_cluster("bad", "adder", arguments={"start": 7})
        await client.start_cluster("good", "adder")
        await three.stop("n3")
        init = Adder.init

        def picky(self: Adder, args: dict[str, Any]) -> int:
            if args.get("start") == 7:
                raise ValueError("seven is no longer a number")
            return init(self, args)

        monkeypatch.setattr(Adder, "init", picky)
        await three.start("n3")
        process = three.running["n3"].system.processes["bad"]
        assert process.failure == "ValueError: seven is no longer a number"
        assert await client.process_command("bad", 1, timeout_s=20) == 8
        assert await client.process_command("good", 1, timeout_s=20) == 1


async def test_each_call_is_answered_in_its_own_time(tmp_path: Path) -> None:
    """One that may wait for long does not keep a shorter one waiting for its answer."""
    async with nodes(tmp_path) as three:
        node, answers = three.running["n1"], asyncio.Queue[Any]()
        session = node.open_session()
        session.submit("nowhere", b"x", "consistent", lambda _: answers.put_nowait("the first"), 60_000)

        async def is_awaited() -> bool:
            return "request deadline" in node.timers

        await until(is_awaited, "the end of the first call's time")
        session.submit("nowhere", b"x", "consistent", answers.put_nowait, 50)
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await answers.get(), NoLeader)


async def test_a_machine_that_raises_stops_its_server_and_no_other(tmp_path: Path) -> None:
    """The failed member says why; a neighbour in the same process goes on."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("bad", "adder")
        await client.start_cluster("good", "adder")
        with pytest.raises((OutcomeUnknown, NoLeader)):
            await client.process_command("bad", "boom", timeout_s=0.5)
        assert await client.process_command("good", 1) == 1
        status = await client.status()
        failed = {c.name: c.members[0] for c in status.clusters}
        assert failed["bad"].role == "failed"
        assert "boom" in (failed["bad"].failure or "")
        assert failed["good"].role == "leader"


async def test_leadership_can_be_handed_over(tmp_path: Path) -> None:
    """A transfer moves the lead; to a server outside the configuration it is refused."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        before = await three.leader(client, "sum")
        target = next(n for n in three.addresses if n != before)
        await client.process_command("sum", 1)

        async def transferred() -> bool:
            return isinstance(await client.transfer_leadership("sum", target), barque.Transfer)

        await until(transferred, "the transfer to be accepted")

        async def leads() -> bool:
            found = await client.leader("sum")
            return found is not None and found.node == target

        await until(leads, "the target to lead")
        with pytest.raises(barque.Refused):
            await client.transfer_leadership("sum", "n9")


async def test_a_stopping_leader_hands_over(tmp_path: Path) -> None:
    """A clean stop of the leader's node leaves a new leader behind without a timeout."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        before = await three.leader(client, "sum")
        await three.stop(before)
        survivor = next(iter(three.running.values()))
        process = survivor.servers.member_of("sum")
        assert process is not None
        assert process.server.current_term > 1


async def test_no_command_suffers_when_the_node_of_many_leaders_stops(tmp_path: Path) -> None:
    """Commands keep coming: each is answered, and each has happened once. The next leaders serve them."""
    clusters = [f"sum{number}" for number in range(4)]
    async with nodes(tmp_path) as three, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(three.client(name)) for name in three.addresses]
        sent = {(client, cluster): 0 for client in clients for cluster in clusters}
        stopped = asyncio.Event()

        async def add(client: barque.Client, cluster: str) -> None:
            while not stopped.is_set():
                sent[client, cluster] += 1
                await client.process_command(cluster, 1)

        for cluster in clusters:
            await clients[0].start_cluster(cluster, "adder")  # its first leader is on n1
            await clients[0].process_command(cluster, 0)
        leading = three.running["n1"].system.processes.values()
        assert all(process.server.raft_state is RaftState.LEADER for process in leading)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                for cluster in clusters:
                    group.create_task(add(client, cluster))

            async def go_to_the_leaders() -> bool:
                return min(sent.values()) > 3

            await until(go_to_the_leaders, "all clients to know who leads")
            await three.stop("n1")
            stopped.set()
        for cluster in clusters:
            total = sum(sent[client, cluster] for client in clients)
            assert await clients[1].consistent_query(cluster) == total


async def test_machine_timers_and_appends_become_commands(tmp_path: Path) -> None:
    """A timer that the machine set, and a command that it appended, are applied on all members."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", "later") == "set"
        assert await client.process_command("sum", "again") == "asked"

        async def all_have() -> bool:
            processes = [node.servers.member_of("sum") for node in three.running.values()]
            return all(p is not None and p.server.machine_state == 1100 for p in processes)

        await until(all_have, "100 from the timer and 1000 from the append, everywhere")


async def test_machine_messages_reach_clients(tmp_path: Path) -> None:
    """`SendMsg` to a command's origin reaches the clients of that node, wherever the leader is."""
    async with nodes(tmp_path) as three:
        for name in three.addresses:
            async with three.client(name) as client:
                if name == "n1":
                    await client.start_cluster("sum", "adder")
                events = client.machine_events()
                assert await client.process_command("sum", "tell") == "told"
                assert await anext(events) == ("sum", {"sum": 0})


async def test_bad_requests_are_refused_with_the_cause(tmp_path: Path) -> None:
    """Unknown machines, taken names, unknown clusters and features that are not there yet each say so."""
    async with nodes(tmp_path) as three, three.client() as client:
        with pytest.raises(ConfigurationError, match="machine 'nosuch' is not among"):
            await client.start_cluster("sum", "nosuch")
        await client.start_cluster("sum", "adder")
        with pytest.raises(ConfigurationError, match="exists already"):
            await client.start_cluster("sum", "adder", arguments={"start": 1})
        with pytest.raises(UnknownCluster):
            await client.members("nosuch")
        with pytest.raises(NotAvailableYet, match="snapshots"):
            await client.call("snapshot", {})
        with pytest.raises(barque.InvalidCommand, match="bad arguments"):
            await client.call("member_add", {})
        with pytest.raises(barque.InvalidCommand, match="unknown verb"):
            await client.call("nonsense", {})


async def test_counters_tell_what_happened(tmp_path: Path) -> None:
    """The overview's counters agree with what was done, and with where the member stands."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        for _ in range(7):
            await client.process_command("sum", 1)
        await client.consistent_query("sum")
        overview = await client.overview("sum")
        counters = overview.counters
        assert (counters["commands"], counters["consistent_queries"]) == (7, 1)
        for name in ("commit_index", "last_applied", "last_index", "last_written_index"):
            assert counters[name] == getattr(overview, name) == 8
        assert counters["term"] == overview.current_term


async def test_reads_go_on_while_members_change(tmp_path: Path) -> None:
    """§6.4: a linearizable read waits for the term's noop only; the next change of members waits (§4.1).

    The followers' disks hang meanwhile, so the change stays pending; heartbeats need no disk.
    """
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        leader = await client.leader("sum")
        assert leader is not None
        server = three.running[leader.node].system.processes["sum"].server
        followers = [node for name, node in three.running.items() if name != leader.node]
        writes = [node._write_log for node in followers]
        for node in followers:
            node._write_log = lambda: False
        removal = asyncio.ensure_future(client.remove_member("sum", ServerId("sum", followers[0].name)))

        async def pending() -> bool:
            return is_change_under_way(server)

        await until(pending, "the change to be appended")
        assert await client.consistent_query("sum") == 1
        assert is_change_under_way(server)
        for node, write in zip(followers, writes, strict=True):
            node._write_log = write
            node.wake()
        await removal


async def test_an_idle_leader_that_loses_its_peers_at_once_steps_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """§6.2: also if they are lost before the failure detector has judged them, and nobody asks anything."""
    monkeypatch.setattr(FailureDetector, "poll", lambda _self, _now: [])
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        leader = await client.leader("sum")
        assert leader is not None
        await three.stop(*(name for name in three.running if name != leader.node))
        server = three.running[leader.node].system.processes["sum"].server

        async def nobody_leads() -> bool:
            return server.leader_id is None

        await until(nobody_leads, "the last node to lose its majority")


async def test_status_names_the_unreachable(tmp_path: Path) -> None:
    """Status comes from any one node, and says of the others why they did not answer."""
    async with nodes(tmp_path) as three, three.client("n2") as client:
        await client.start_cluster("sum", "adder")
        await three.stop("n1", "n3")
        status = await client.status()
        states = {n.name: n.state for n in status.nodes}
        assert states == {"n1": "unreachable", "n2": "running", "n3": "unreachable"}
        assert all(n.failure for n in status.nodes if n.state == "unreachable")


async def test_a_data_directory_belongs_to_one_node(tmp_path: Path) -> None:
    """A second node on the same directory is refused; the first goes on."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        second = barque.Node(single.config("n1"), {"adder": Adder()})
        with pytest.raises(barque.BarqueError):
            await second.start()
        assert await client.process_command("sum", 1) == 1


async def test_a_taken_address_is_an_error_at_once(tmp_path: Path) -> None:
    """A node whose address is taken does not start, says so, and leaves its directory usable."""
    first, second = Nodes(tmp_path / "a", 1), Nodes(tmp_path / "b", 1)
    second.addresses = first.addresses
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    await first.start()
    try:
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await second.start()
    finally:
        await first.stop()
    await second.start()
    await second.stop()


async def test_configured_clusters_form_by_themselves(tmp_path: Path) -> None:
    """Clusters named in the configuration exist as soon as a majority of nodes runs."""
    clusters = (barque.ClusterConfig(name="kv", machine="kv"),)
    async with nodes(tmp_path, clusters=clusters) as three, three.client() as client:
        from barque.machine.kv_commands import Get, Set

        async def write() -> Any:
            """Nodes that start one after the other may elect twice; what comes in between is unknown."""
            return await client.process_command("kv", Set(b"k", b"v"), timeout_s=10) or True

        await until(write, "a cluster that commits")
        assert await client.consistent_query("kv", Get(b"k")) == b"v"
        await three.stop("n1")
        await three.start("n1")
        assert await client.consistent_query("kv", Get(b"k"), timeout_s=10) == b"v"


async def test_who_missed_that_its_leader_stopped_hears_it_with_the_next_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader's node lives on, so nobody else would ever doubt it: the cluster would hang."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        node = three.running[await three.leader(client, "sum")]
        process = node.system.processes["sum"]
        others = [other for other in three.running.values() if other is not node]

        async def all_follow() -> bool:
            return all(o.system.processes["sum"].server.leader_id == process.server.id for o in others)

        await until(all_follow, "two followers")
        send = node.transport.send
        with monkeypatch.context() as broken:

            def lose(to: str, name: str, message: object, *who: str) -> bool:
                return isinstance(message, ServerDown) or send(to, name, message, *who)  # type: ignore[arg-type]

            broken.setattr(node.transport, "send", lose)
            process.fail(RuntimeError("this server only"))
        assert await all_follow()
        for other in others:
            node.on_peer_connected(other.name, other.incarnation)
        assert await client.process_command("sum", 2) == 3


async def test_a_suspicion_does_not_outlive_the_connection_that_disproves_it(tmp_path: Path) -> None:
    """A restarted leader was heard of before it was connected, then suspected by its old rhythm: a hang."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n3"])
        assert await client.process_command("sum", 1) == 1
        asked, leading = three.running["n1"], three.running["n3"]
        asked.requests.node_lost("n3")
        assert asked.requests.leader_of("sum") is None
        asked.on_peer_connected("n3", leading.incarnation + 1)
        assert asked.requests.leader_of("sum") == ServerId("sum", "n3")


async def test_a_node_that_connects_amid_a_change_hears_who_leads(tmp_path: Path) -> None:
    """It has no member, so nothing but the announcement tells it; a change may wait for long."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder", nodes=["n1"])
        assert await client.process_command("sum", 1) == 1
        leader = three.running["n1"].system.processes["sum"].server
        leader.cluster_index_term = IndexTerm(Index(leader.last_applied + 1), leader.current_term)
        assert is_change_under_way(leader)
        await three.stop("n3")
        await three.start("n3")

        async def knows() -> bool:
            return three.running["n3"].requests.leader_of("sum") == leader.id

        await until(knows, "the announcement")


async def test_a_node_that_has_stopped_begins_no_work(tmp_path: Path) -> None:
    """A request that comes while its connections close is answered, and leaves no task."""
    async with nodes(tmp_path, 1) as single:
        node = single.running["n1"]
        await single.stop("n1")
        answers: list[tuple[Any, str | None, str]] = []
        node.rpc.serve("ping", {}, lambda *answer: answers.append(answer), Caller("a test"))
        assert answers == [(None, "Stopped", "the node is stopping")]
        node.rpc._answer_later("n2", NodeCallReply(1, None, "Stopped", ""))
        assert not node.rpc._tasks  # an answer that finds no connection does not wait for one


async def test_what_a_node_works_on_when_it_stops_may_have_happened(tmp_path: Path) -> None:
    """A change that is cut off, here or on the node that was asked, is not called refused."""
    async with nodes(tmp_path, 1) as single:
        calls = single.running["n1"].rpc
        answers: list[tuple[str, str | None]] = []

        async def works(_verb: str, _arguments: dict[str, Any]) -> None:
            await asyncio.sleep(60.0)

        calls._handler, calls._send = works, lambda _node, _message: True
        for verb in ("member_add", "ping"):
            calls.serve(
                verb, {}, lambda _v, error, _t, verb=verb: answers.append((verb, error)), Caller("a test")
            )  # type: ignore[misc]
        asked = [asyncio.create_task(calls.call("n2", verb, {}, 60.0)) for verb in ("member_add", "ping")]
        await asyncio.sleep(0)
        await single.stop("n1")
        assert answers == [("member_add", "OutcomeUnknown"), ("ping", "QueryTimeout")]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(end) for end in ends] == [OutcomeUnknown, QueryTimeout]


async def test_a_meta_store_that_works_again_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failed sync of terms and votes holds everything back, and is forgotten with the next that works."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        system = single.running["n1"].system
        sync, failed = system.storage.sync_meta, []

        def fail_once() -> None:
            if not failed:
                failed.append(True)
                raise StorageError("a test: the disk said no")
            sync()

        monkeypatch.setattr(system.storage, "sync_meta", fail_once)
        await client.start_cluster("sum", "adder")
        assert await client.process_command("sum", 1) == 1
        assert failed
        assert system.failure is None


class _Unreadable(OsDisk):
    """A disk that cannot read the records of its servers."""

    def read_file(self, path: str) -> bytes:
        if path.endswith("/config"):
            raise OSError(5, "Input/output error", path)
        return super().read_file(path)


async def test_a_node_that_cannot_read_its_servers_says_which_file(tmp_path: Path) -> None:
    """It refuses to start with a `StorageError`, as without endy other file, and lets go of the directory."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        await single.stop()
        with pytest.raises(StorageError, match=r"servers/SUM\w+/config"):
            await barque.Node(single.config("n1"), disk=_Unreadable()).start()
        await single.start()
        assert await client.process_command("sum", 1) == 1


async def test_what_a_timer_lets_a_server_send_leaves_in_a_turn(tmp_path: Path) -> None:
    """A candidate's questions do not wait in the outbox until something else happens to its node."""
    async with nodes(tmp_path) as three, three.client("n1") as client:
        await client.start_cluster("sum", "adder")
        await client.process_command("sum", 1)
        found = [(node, node.system.processes["sum"]) for node in three.running.values()]
        [node, process] = next(pair for pair in found if pair[1].server.raft_state is RaftState.FOLLOWER)
        process.handle(ElectionTimeout())
        assert process.server.raft_state is RaftState.PRE_VOTE
        long_ago_s = -node.clock.monotonic() - 1
        node.system.performer.timers._arm(process, "election", long_ago_s, ElectionTimeout())
        node.turn.is_scheduled = False
        node.timers.run_due(0.0)  # another round: no state changes, which would ask for a turn
        assert process.server.raft_state is RaftState.PRE_VOTE
        assert node.turn.is_scheduled


async def formed(single: Nodes, client: barque.Client, **settings: int) -> tuple[barque.Node, ServerProcess]:
    """The only node and its server, with these settings."""
    await client.start_cluster("sum", "adder")
    await client.process_command("sum", 0)
    node = single.running["n1"]
    process = node.system.processes["sum"]
    process.server.cfg = msgspec.structs.replace(process.server.cfg, **settings)
    return node, process


async def test_commands_of_low_priority_are_appended_once_a_turn(tmp_path: Path) -> None:
    """CMD-06: the rest waits for a turn of its own, so that normal commands that arrive now overtake it."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        node, process = await formed(single, client, low_priority_commands_flush_size=2)
        server = process.server
        ends = [server.log.next_index()]
        process.handle(Commands(5, encode_body([b"\x01"] * 5), low_priority=True))
        for _ in range(2):
            node._turn()
            ends.append(server.log.next_index())
        process.handle(Commands(1, encode_body([b"\x02"])))
        node._turn()
        ends.append(server.log.next_index())
        assert [end - start for start, end in pairwise(ends)] == [2, 2, 2]
        assert not server.leader_role().low_priority
        assert await client.process_command("sum", 0) == 7


async def test_a_long_commit_is_applied_over_several_turns(tmp_path: Path) -> None:
    """The loop gets a turn between two slices, so that other clusters and votes are not held up."""
    async with nodes(tmp_path, 1) as single, single.client() as client:
        node, process = await formed(single, client, apply_entries_max=1)
        server = process.server
        before, applied = server.last_applied, [0]
        process.handle(Commands(9, encode_body([b"\x01"] * 9)))
        node.wake()
        while applied[-1] < 9:
            await asyncio.sleep(0)
            applied.append(server.last_applied - before)
        assert max(new - old for old, new in pairwise(applied)) < 9
        assert await client.process_command("sum", 0) == 9


async def test_a_turn_that_was_asked_for_does_not_run_after_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last turn is that of `stop` itself: a later one would write to files that are closed."""
    async with nodes(tmp_path, 1) as single:
        node, turns = single.running["n1"], 0

        def run() -> None:
            nonlocal turns
            turns += 1

        monkeypatch.setattr(node.turn, "_run", run)
        node.wake()
        await node.stop()
        await asyncio.sleep(0.01)
        assert turns == 0


async def test_the_log_may_be_on_another_disk(tmp_path: Path) -> None:
    """SYS-02: `wal/` is a link before the first start; files are made, used and recycled behind it."""
    fast = tmp_path / "fast"
    for folder in (fast, tmp_path / "n1"):
        folder.mkdir(mode=0o700)
    (tmp_path / "n1" / "wal").symlink_to(fast)
    made = Nodes(tmp_path, 1)
    for total in (1, 2):
        await made.start()
        async with made.client() as client:
            if total == 1:
                await client.start_cluster("sum", "adder")
            assert await client.process_command("sum", 1) == total
        await made.stop()
    assert list(fast.glob("*.wal"))
    assert (tmp_path / "n1" / "wal").is_symlink()


async def test_nodes_in_one_process_have_logs_of_their_own(tmp_path: Path) -> None:
    """SYS-26: what is another system in Ra is another node here: with its own directory, log and clusters."""
    first, second = Nodes(tmp_path / "first", 1), Nodes(tmp_path / "second", 1)
    for some in (first, second):
        some.directory.mkdir()
        await some.start()
    async with first.client() as one, second.client() as other:
        for client in (one, other):
            await client.start_cluster("sum", "adder")
        assert await one.process_command("sum", 1) == 1
        assert await other.process_command("sum", 5) == 5
    for some in (first, second):
        await some.stop()
    assert all(list((some.directory / "n1" / "wal").iterdir()) for some in (first, second))
