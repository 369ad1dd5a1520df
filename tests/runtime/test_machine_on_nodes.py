"""What a machine's callbacks hear and what its effects do, on whole nodes (MAC, EFF, AUX and MON rows)."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.nodes import Nodes, until

import barque
from barque.machine.effects import (
    Aux,
    DemonitorNode,
    DemonitorProcess,
    MonitorNode,
    MonitorProcess,
    ReadLog,
)
from barque.machine.machine import AuxKind, AuxResult, Member
from barque.types import ClientRef, ReplyMode


class Observed(barque.Machine[list[Any]]):
    """Keeps every command in its state, and notes what the callbacks of this node's member hear."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.ticks = 0
        self.read: list[list[Any]] = []
        self.aux: list[tuple[str, AuxKind, Any]] = []
        self.metas: list[barque.CommandMeta] = []

    def init(self, args: dict[str, Any]) -> list[Any]:
        """No commands yet."""
        return []

    def apply(self, meta: barque.CommandMeta, command: Any, state: list[Any]) -> Any:
        """Keep the command; some commands ask for an effect."""
        state.append(command)
        self.metas.append(meta)
        match command:
            case ["read", indexes, node]:
                return state, None, [ReadLog(indexes, self._note_read, node)]
            case ["aux", value]:
                return state, None, [[Aux(value)], []]
            case "watch me":
                return state, None, [MonitorProcess(meta.origin)]
            case "leave me":
                return state, None, [DemonitorProcess(meta.origin)]
            case ["watch", node, incarnation]:
                return state, None, [MonitorProcess(ClientRef(node, incarnation))]
            case ["watch", node]:
                return state, None, [MonitorNode(node)]
            case ["leave", node]:
                return state, None, [DemonitorNode(node)]
            case ["at", unix_ms]:
                return state, None, [barque.Timer("alarm", at_ms=unix_ms)]
            case "append":
                return state, None, barque.Append("appended")
            case "draw":
                state.append([meta.random.random(), meta.random.getrandbits(64), meta.random.choice("abc")])
                return state, None
            case _:
                return state, None

    def _note_read(self, commands: list[Any]) -> list[Any]:
        self.read.append(commands)
        return [barque.Append(["found", *commands])]

    def state_enter(self, raft_state: str, state: list[Any]) -> Any:
        """Note the state."""
        self.entered.append(raft_state)
        return []

    def tick(self, now_ms: int, state: list[Any]) -> Any:
        """Count."""
        self.ticks += 1
        return []

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Member) -> AuxResult:
        """Note what comes; `["watch", node]` monitors a node for the aux machine."""
        self.aux.append((raft_state, kind, command))
        match command:
            case ["watch", node]:
                return AuxResult(aux, reply="watched", effects=[MonitorNode(node, aux=True)])
            case ["leave", node]:
                return AuxResult(aux, reply="left", effects=[DemonitorNode(node, aux=True)])
            case ["look", index]:
                facts = [raft_state, member.leader_id, member.last_applied, member.read_commands([index])]
                return AuxResult(aux, reply=[*facts, member.machine_state, member.effective_machine_version])
            case _:
                return AuxResult(aux, reply=None)

    def heard(self, command: Any) -> bool:
        """Whether this member's aux machine was told this."""
        return any(told == command for _, _, told in self.aux)


BUILT_IN = (barque.Down, barque.NodeUp, barque.NodeDown, barque.Timeout)


class Some(Nodes):
    """Nodes, each with a machine object of its own."""

    machines: dict[str, Observed]

    async def begin(self) -> None:
        """Start all nodes."""
        self.machines = {name: Observed() for name in self.addresses}
        for name in self.addresses:
            await self.again(name)

    async def again(self, name: str) -> None:
        """Start one node."""
        await self.start(name, machines={"observed": self.machines[name]})

    def state_on(self, name: str) -> list[Any]:
        """The machine's state on this node."""
        found: list[Any] = self.running[name].system.processes["it"].server.machine_state
        return found

    async def has(self, name: str, command: Any) -> None:
        """Wait until the member on this node has applied a command."""

        async def applied() -> bool:
            return command in self.state_on(name)

        await until(applied, f"{command!r} on {name}")


@contextlib.asynccontextmanager
async def some_nodes(directory: Path, count: int) -> AsyncIterator[Some]:
    """Nodes with observed machines, which are stopped at the end."""
    some = Some(directory, count)
    await some.begin()
    try:
        yield some
    finally:
        await some.stop()


async def test_a_machine_hears_of_each_state_that_its_member_enters(tmp_path: Path) -> None:
    """CORE-05, CORE-11, CORE-19, MAC-05: from `recovered` to `leader`, and `eol` at the deletion."""
    async with some_nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("it", "observed")
        entered = single.machines["n1"].entered
        assert entered == ["recovered", "follower", "pre_vote", "candidate", "leader"]
        await client.delete_cluster("it")
        assert "eol" in entered[5:]


async def test_a_replay_repeats_no_effect(tmp_path: Path) -> None:
    """CORE-04, EFF-32, EFF-31, LIFE-05: a restart applies old commands again and appends nothing."""
    async with some_nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("it", "observed")
        await client.process_command("it", "append")
        await single.has("n1", "appended")
        await single.stop()
        await single.again("n1")
        await client.process_command("it", "last")
        assert single.state_on("n1") == ["append", "appended", "last"]


async def test_a_restart_knows_how_far_the_machine_was(tmp_path: Path) -> None:
    """COMMIT-08, LIFE-08: a stop stores the last applied index, and the next start begins there."""
    async with some_nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("it", "observed")
        for number in range(5):
            await client.process_command("it", number)
        applied = single.running["n1"].system.processes["it"].server.last_applied
        await single.stop()
        await single.again("n1")
        assert single.running["n1"].system.processes["it"].server.persisted_last_applied == applied


async def test_a_machine_is_told_where_and_when_a_command_stands(tmp_path: Path) -> None:
    """CMD-03, CMD-19: index, term, version, the leader's time, the caller's node and the reply mode."""
    async with some_nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("it", "observed")
        position = await client.append_command("it", "first")
        await client.process_command("it", "second")
        first, second = single.machines["n1"].metas
        assert (first.index, first.term) == (position.index, position.term)
        assert (second.index, second.term, second.machine_version) == (position.index + 1, position.term, 0)
        assert second.system_time_ms >= first.system_time_ms > 1_600_000_000_000
        assert second.origin == single.running["n1"].requests.me
        assert (first.reply_mode, second.reply_mode) == (
            ReplyMode.AFTER_LOG_APPEND,
            ReplyMode.AWAIT_CONSENSUS,
        )


async def test_every_member_draws_the_same_random_numbers(tmp_path: Path) -> None:
    """CMD-19: also when it applies the commands anew; each command has numbers of its own."""
    async with some_nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("it", "observed")
        for _ in range(3):
            await client.process_command("it", "draw")
        await two.stop("n2")
        await two.again("n2")
        await client.process_command("it", "last")
        for name in two.addresses:
            await two.has(name, "last")
        first, second = (two.state_on(name) for name in two.addresses)
        drawn = [item for item in first if isinstance(item, list)]
        assert first == second
        assert len({tuple(numbers) for numbers in drawn}) == 3
        assert len({number for numbers in drawn for number in numbers[:2]}) == 6


async def test_a_leader_reads_its_log_back(tmp_path: Path) -> None:
    """EFF-11: the leader alone reads; missing entries are left out; the callback's effects are performed."""
    async with some_nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("it", "observed")
        first = await client.append_command("it", "one")
        indexes = [first.index, first.index + 1_000]
        await client.process_command("it", ["read", indexes, None])
        for name in two.addresses:
            await two.has(name, ["found", "one"])
        leader = await two.leader(client, "it")
        assert {name: two.machines[name].read for name in two.addresses} == {
            name: [["one"]] if name == leader else [] for name in two.addresses
        }


async def test_a_named_voter_reads_its_own_log(tmp_path: Path) -> None:
    """EFF-12, EFF-30: the voter on the named node reads; the leader does if no voter lives there."""
    async with some_nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("it", "observed")
        first = await client.append_command("it", "one")
        leader = await two.leader(client, "it")
        follower = "n2" if leader == "n1" else "n1"
        reads = two.machines[follower].read
        await client.process_command("it", ["read", [first.index], follower])

        async def has_read() -> bool:
            return reads == [["one"]]

        await until(has_read, "the follower to read")
        assert two.machines[leader].read == []
        await client.process_command("it", ["read", [first.index], "n9"])
        await two.has(follower, ["found", "one"])
        assert (two.machines[leader].read, reads) == ([["one"]], [["one"]])


async def test_only_members_that_led_heard_a_machine_tick(tmp_path: Path) -> None:
    """MAC-06: a leader's machine is ticked, a follower's is not."""
    async with some_nodes(tmp_path, 3) as three, three.client() as client:
        await client.start_cluster("it", "observed")

        async def ticked() -> bool:
            return any(machine.ticks > 3 for machine in three.machines.values())

        await until(ticked, "ticks")
        for machine in three.machines.values():
            assert "leader" in machine.entered or machine.ticks == 0


async def test_every_members_aux_machine_is_told_what_happens(tmp_path: Path) -> None:
    """AUX-03, EFF-18, EFF-31, COMMIT-06, TIME-01: effects, progress and ticks reach followers too."""
    async with some_nodes(tmp_path, 2) as two, two.client() as client:
        await client.start_cluster("it", "observed")
        await client.process_command("it", ["aux", "told"])

        async def all_heard() -> bool:
            words = ("told", "eval", "tick")
            return all(machine.heard(word) for machine in two.machines.values() for word in words)

        await until(all_heard, "both aux machines to hear all")
        leader = await two.leader(client, "it")
        follower = two.machines["n2" if leader == "n1" else "n1"]
        assert ("follower", AuxKind.CAST, "tick") in follower.aux


async def test_a_machine_hears_of_nodes_that_it_watches(tmp_path: Path) -> None:
    """EFF-06, EFF-07, MAC-04, MON-03: the present state at once, each change, and nothing after the end."""
    async with some_nodes(tmp_path, 3) as three, three.client("n1") as client:
        await client.start_cluster("it", "observed", nodes=["n1"])
        for node in ("n2", "n3"):
            await client.process_command("it", ["watch", node])
            await three.has("n1", barque.NodeUp(node))
        await client.process_command("it", ["leave", "n3"])
        await three.stop("n3")
        await three.stop("n2")
        await three.has("n1", barque.NodeDown("n2"))

        async def n3_is_away() -> bool:
            return "n3" not in three.running["n1"].transport.connected()

        await until(n3_is_away, "n1 to notice that n3 has gone")
        await client.process_command("it", "last")
        assert barque.NodeDown("n3") not in three.state_on("n1")


async def test_a_machine_hears_of_clients_that_it_watches(tmp_path: Path) -> None:
    """EFF-06, EFF-07, MAC-04, MON-02: a client goes with its node; one that has gone is reported at once."""
    async with some_nodes(tmp_path, 3) as three, three.client("n1") as client:
        await client.start_cluster("it", "observed", nodes=["n1"])
        gone: dict[str, ClientRef] = {}
        for node in ("n2", "n3"):
            async with three.client(node) as other:
                await other.process_command("it", "watch me")
                gone[node] = three.machines["n1"].metas[-1].origin
                if node == "n3":
                    await other.process_command("it", "leave me")
        await client.process_command("it", ["watch", "n3"])
        await three.stop("n3")
        await three.has("n1", barque.NodeDown("n3"))
        await three.stop("n2")
        await three.has("n1", barque.Down(gone["n2"], "noconnection"))
        assert not [c for c in three.state_on("n1") if isinstance(c, barque.Down) and c.pid == gone["n3"]]
        await client.process_command("it", ["watch", "n3", gone["n3"].incarnation])
        await three.has("n1", barque.Down(gone["n3"], "noconnection"))


async def test_an_aux_machine_watches_nodes_for_itself(tmp_path: Path) -> None:
    """EFF-08, MON-01: on a follower too; the machine's own state hears nothing of it."""
    async with some_nodes(tmp_path, 3) as three, three.client("n1") as client:
        await client.start_cluster("it", "observed", nodes=["n1", "n2"])
        leader = await three.leader(client, "it")
        follower = "n2" if leader == "n1" else "n1"
        machine = three.machines[follower]
        async with three.client(follower) as asked:
            assert await asked.aux_command("it", ["watch", "n3"]) == "watched"

        async def is_told() -> bool:
            return machine.heard(barque.NodeDown("n3") if "n3" not in three.running else barque.NodeUp("n3"))

        await until(is_told, "the aux machine to hear that n3 is up")
        await three.stop("n3")
        await until(is_told, "the aux machine to hear that n3 is down")
        assert [c for c in three.state_on(follower) if isinstance(c, BUILT_IN)] == []


async def test_a_timer_for_a_time_that_is_over_fires_at_once(tmp_path: Path) -> None:
    """EFF-10: `at_ms` is Unix milliseconds on the leader's clock."""
    async with some_nodes(tmp_path, 1) as single, single.client() as client:
        await client.start_cluster("it", "observed")
        await client.process_command("it", ["at", 1_000])
        await single.has("n1", barque.Timeout("alarm"))


async def test_an_aux_machine_sees_its_member(tmp_path: Path) -> None:
    """AUX-05, AUX-06: state, leader, log and version, also while the member stands for election."""
    async with some_nodes(tmp_path, 2) as two, two.client("n1") as client:
        await client.start_cluster("it", "observed")
        position = await client.append_command("it", "one")
        await client.process_command("it", "two")
        await two.has("n1", "two")
        await two.stop("n2")

        async def stands() -> bool:
            return two.running["n1"].system.processes["it"].state == "pre_vote"

        await until(stands, "n1 to stand for election")
        seen = await client.aux_command("it", ["look", position.index])
        applied = two.running["n1"].system.processes["it"].server.last_applied
        assert seen == ["pre_vote", None, applied, ["one"], ["one", "two"], 0]
