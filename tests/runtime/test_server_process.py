"""One server as its node runs it: queue, held effects, ticks and ends (runtime/server_process.py)."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.core.effects import Effect, NextEvent
from barque.core.messages import AppendEntriesRpc, ElectionTimeout, NodeStatus, Tick
from barque.core.state import RaftState
from barque.errors import BarqueError
from barque.machine.machine import AuxKind, AuxResult, Member
from barque.runtime.server_process import ServerProcess
from barque.testing.core.cluster import CoreCluster


class Recorder:
    """Notes the effects of a server and performs none; `hold` holds the rest after each list."""

    def __init__(self) -> None:
        self.performed: list[Effect] = []
        self.failed: list[ServerProcess] = []
        self.changes = 0
        self.error: Exception | None = None

    def perform(self, process: ServerProcess, effects: list[Effect]) -> None:
        """See `EffectPerformer`."""
        if self.error is not None:
            raise self.error
        self.performed += effects

    def state_changed(self, process: ServerProcess, old: RaftState, old_leader: Any) -> None:
        """See `EffectPerformer`."""
        self.changes += 1

    def server_failed(self, process: ServerProcess) -> None:
        """See `EffectPerformer`."""
        self.failed.append(process)


def follower() -> tuple[ServerProcess, Recorder, dict[ServerProcess, None]]:
    """A follower of three, and the record of its effects."""
    recorder, active = Recorder(), dict[ServerProcess, None]()
    return ServerProcess(CoreCluster("a", "b", "c")["a"].server, recorder, active), recorder, active


def test_a_message_that_comes_amid_a_step_waits() -> None:
    """What a server's own effects lead to is handled after them, in order."""
    process, recorder, _ = follower()
    seen: list[str] = []

    def perform(performing: ServerProcess, effects: list[Effect]) -> None:
        seen.append(performing.state)
        if len(seen) == 1:
            performing.handle(ElectionTimeout())
            seen.append("queued")

    recorder.perform = perform  # type: ignore[method-assign]
    process.handle(ElectionTimeout())
    assert seen[:3] == ["pre_vote", "queued", "pre_vote"]


def test_news_waits_behind_held_effects() -> None:
    """While a vote is being stored, news of a leader's node is held with the effects (`LIVENESS_EVENTS`)."""
    process, recorder, _ = follower()
    process.defer_until_synced()
    process.handle(NodeStatus("node_b", up=False))
    assert process.held is not None
    assert [type(effect) for effect in process.held] == [NextEvent]
    process.release()
    assert process.held is None
    assert [type(effect) for effect in recorder.performed] == [NextEvent]


def test_an_error_stops_this_server_for_good() -> None:
    """The cause is kept, the performer is told, and nothing is handled any more."""
    process, recorder, _ = follower()
    recorder.error = LookupError("a test")
    process.handle(ElectionTimeout())
    assert (process.state, process.failure) == ("failed", "LookupError: a test")
    assert recorder.failed == [process]
    recorder.error = None
    process.handle(ElectionTimeout())
    assert recorder.performed == []
    process.end("it ends as well")
    assert process.state == "failed"


def test_a_server_that_ends_on_purpose_has_not_failed() -> None:
    """Its state says so, and what it held is dropped."""
    process, recorder, _ = follower()
    process.defer_until_synced()
    process.end("a test")
    assert (process.state, process.held, recorder.failed) == ("stopped", None, [])


def test_an_idle_server_is_not_ticked() -> None:
    """Idle costs nothing: without unfinished business no message is handled."""
    process, _, active = follower()
    assert not process.tick(1)
    assert process not in active


class Ticking(Adder):
    """Its aux machine counts ticks."""

    def init_aux(self, name: str) -> int:
        """No tick yet."""
        return 0

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Member) -> AuxResult:
        """One more tick, or how many there were."""
        if kind is AuxKind.CALL:
            return AuxResult(aux, reply=aux)
        return AuxResult(aux + (command == "tick"))


async def test_followers_are_ticked(tmp_path: Path) -> None:
    """AUX-03: the aux machine of every member hears `tick`, not only the leader's."""
    some = Nodes(tmp_path, 3)
    await some.start(machines={"adder": Ticking()})
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
        for node in some.addresses:
            async with some.client(node) as client:

                async def is_ticked(client: barque.Client = client) -> bool:
                    return bool(await client.aux_command("sum", "how many?") >= 2)

                await until(is_ticked, f"ticks on {node}")
    finally:
        await some.stop()


async def test_a_terminating_leader_repeats_what_was_lost(tmp_path: Path) -> None:
    """CORE-09: a follower that missed the end of its cluster gets it with a tick, long before a timeout."""
    async with nodes(tmp_path) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        leader = three.running[await three.leader(client, "sum")]
        process = leader.system.processes["sum"]
        other = next(name for name in three.addresses if name != leader.name)
        send, broken = leader.transport.send, True

        def lose(to: str, name: str, message: Any, *who: str) -> bool:
            lost = broken and to == other and isinstance(message, AppendEntriesRpc)
            return lost or send(to, name, message, *who)

        leader.transport.send = lose  # type: ignore[method-assign]
        deleting = asyncio.ensure_future(client.delete_cluster("sum"))

        async def terminates() -> bool:
            return process.state == "terminating_leader"

        await until(terminates, "the leader to terminate")
        assert "sum" in three.running[other].system.processes
        broken = False

        async def is_gone() -> bool:
            return "sum" not in three.running[other].system.processes

        async with asyncio.timeout(5.0):  # the leader would give up after 30 s
            await until(is_gone, "the follower that missed the end to hear of it")
        with contextlib.suppress(BarqueError):  # the answer may be lost with the cluster
            await deleting


def test_a_tick_is_a_message_like_any_other() -> None:
    """A server that is ticked counts as active, so that the next tick looks at it again."""
    process, _, active = follower()
    process.handle(Tick(1))
    assert process in active
