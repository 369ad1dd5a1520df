"""`barque.testing.sim.memory_transport`: the same contract without sockets, and faults on request."""

import asyncio
import random

import pytest
from tests.transport.support import Recorder, until

from barque.core.messages import TimeoutNow
from barque.errors import ConfigurationError, ProtocolError
from barque.testing.sim.memory_transport import MemoryNetwork, MemoryTransport
from barque.transport import wire
from barque.transport.wire import Alive, LeaderIs
from barque.types import ServerId, Term

NAMES = ("n1", "n2", "n3")


class Trio:
    """Three connected nodes on a network that is stepped by hand."""

    def __init__(self, *, automatic: bool = False, seed: int = 0) -> None:
        self.network = MemoryNetwork(automatic=automatic, rng=random.Random(seed))
        self.recorders = {name: Recorder() for name in NAMES}
        self.nodes = {name: self.node(name) for name in NAMES}

    def node(self, name: str, incarnation: int = 1) -> MemoryTransport:
        return MemoryTransport(
            self.network,
            name=name,
            incarnation=incarnation,
            peers={other: other for other in NAMES if other != name},
            handler=self.recorders[name],
        )

    async def start(self) -> "Trio":
        for node in self.nodes.values():
            await node.start()
        if not self.network._automatic:
            self.network.deliver()
        return self

    def say(self, source: str, target: str, *terms: int) -> None:
        """One frame for each term."""
        for term in terms:
            self.nodes[source].send(target, "s", LeaderIs("kv", ServerId("s", source), Term(term)))
            self.nodes[source].flush()

    def heard(self, name: str) -> list[int]:
        return [message.term for message in self.recorders[name].messages()]


async def test_links_come_up_both_ways() -> None:
    """Every pair that started is connected, and says so once."""
    trio = await Trio().start()
    for name in NAMES:
        up = sorted(trio.recorders[name].events)
        assert up == [("up", other, 1) for other in NAMES if other != name]
        assert all(status.connected for status in trio.nodes[name].status().values())


async def test_messages_are_encoded_and_delivered_in_order() -> None:
    """Nothing arrives before delivery, then all in order, as new objects."""
    trio = await Trio().start()
    trio.say("n1", "n2", 1, 2, 3)
    assert trio.heard("n2") == []
    assert trio.network.deliver() == 3
    assert trio.heard("n2") == [1, 2, 3]
    assert trio.nodes["n2"].counters.messages_received == 3


async def test_an_envelope_says_who_speaks() -> None:
    """Cluster and incarnation travel with a message; what a node says has neither."""
    trio = await Trio().start()
    trio.nodes["n1"].send("n2", "s", TimeoutNow(ServerId("s", "n1")), "c1", "KV1")
    trio.nodes["n1"].send("n2", "", Alive())
    trio.nodes["n1"].flush()
    trio.network.deliver()
    found = [(e.cluster_id, e.sender_uid) for _, e in trio.recorders["n2"].received]
    assert found == [("c1", "KV1"), ("", "")]


async def test_partitions_swallow_frames() -> None:
    """Frames across a partition vanish, one way or both, until it heals."""
    trio = await Trio().start()
    trio.network.partition(["n1"], ["n2"], one_way=True)
    trio.say("n1", "n2", 1)
    trio.say("n2", "n1", 2)
    trio.say("n1", "n3", 3)
    trio.network.deliver()
    assert (trio.heard("n2"), trio.heard("n1"), trio.heard("n3")) == ([], [2], [3])
    trio.network.heal()
    trio.say("n1", "n2", 4)
    trio.network.deliver()
    assert trio.heard("n2") == [4]
    assert trio.network.lost_frames == 1


async def test_held_frames_wait_and_may_come_backwards() -> None:
    """A held link delays; released backwards, its frames arrive in reverse."""
    trio = await Trio().start()
    trio.network.faults("n1", "n2").held = True
    trio.say("n1", "n2", 1, 2, 3)
    trio.say("n1", "n3", 9)
    assert trio.network.deliver() == 1
    assert trio.network.waiting == 3
    trio.network.release("n1", "n2", backwards=True)
    trio.network.deliver()
    assert trio.heard("n2") == [3, 2, 1]


async def test_the_same_seed_gives_the_same_deliveries() -> None:
    """Drops, duplicates and reorders depend on the seed and on nothing else."""

    async def history(seed: int) -> list[int]:
        trio = await Trio(seed=seed).start()
        faults = trio.network.faults("n1", "n2")
        faults.drop_rate, faults.duplicate_rate, faults.reorder_rate = 0.2, 0.2, 0.3
        trio.say("n1", "n2", *range(100))
        trio.network.deliver()
        return trio.heard("n2")

    first = await history(4)
    assert first == await history(4)
    assert first != await history(5)
    assert len(first) != len(set(first))
    assert first != sorted(first)
    assert len(set(first)) < 100


async def test_a_stopped_node_is_noticed_and_a_new_incarnation_gets_nothing_old() -> None:
    """Frames meant for a former process never reach the next one."""
    trio = await Trio().start()
    trio.network.faults("n1", "n2").held = True
    trio.say("n1", "n2", 1)
    await trio.nodes["n2"].stop()
    trio.network.deliver()
    assert trio.recorders["n1"].events[-2:] == [("down", "n2", "the node has stopped"), ("gone", "n2", "")]
    assert not trio.nodes["n1"].send("n2", "s", Alive())
    again = trio.nodes["n2"] = trio.node("n2", incarnation=2)
    await again.start()
    trio.network.heal()
    trio.network.deliver()
    assert trio.recorders["n1"].events[-1] == ("up", "n2", 2)
    assert trio.heard("n2") == []
    assert trio.network.lost_frames == 1


async def test_a_broken_link_loses_what_is_under_way_and_comes_back() -> None:
    """Both sides learn of a disconnection, and then of the new link."""
    trio = await Trio().start()
    trio.say("n1", "n2", 1)
    trio.network.disconnect("n1", "n2")
    trio.network.deliver()
    assert [event[0] for event in trio.recorders["n1"].events if event[1] == "n2"] == ["up", "down", "up"]
    assert trio.heard("n2") == []


async def test_forged_senders_are_dropped() -> None:
    """The sender check is the same as over TCP."""
    trio = await Trio().start()
    trio.nodes["n1"].send("n2", "s", TimeoutNow(ServerId("s", "n3")))
    trio.nodes["n1"].flush()
    trio.network.deliver()
    assert trio.recorders["n2"].received == []
    assert trio.nodes["n2"].counters.forged_messages == 1


async def test_clients_work_the_same_way() -> None:
    """A client asks, is answered, and both ends learn of the end once."""
    trio, answers, ends = await Trio(automatic=True).start(), [], []
    await until(lambda: trio.recorders["n1"].events)
    link = trio.network.connect_client("n1", on_answers=answers.extend, on_closed=ends.append)
    (sink,) = trio.recorders["n1"].sinks
    link.send([wire.ClientCall(1, "x", {}, 1)])
    link.flush()
    await until(lambda: sink.requests)
    sink.connection.send([wire.ClientCallReply(1, "y")])
    trio.nodes["n1"].flush()
    await until(lambda: answers)
    await trio.nodes["n1"].stop()
    await until(lambda: ends)
    await asyncio.sleep(0)
    assert (ends, sink.closed, link.is_closed) == (["this node is stopping"], 1, True)
    assert not link.send([])
    with pytest.raises(ConfigurationError):
        trio.network.connect_client("n1", on_answers=answers.extend, on_closed=ends.append)


async def test_a_removed_peer_is_disconnected() -> None:
    """After `remove_peer` nothing is sent; after `set_peer` the link comes back."""
    trio = await Trio().start()
    trio.nodes["n1"].remove_peer("n2")
    assert trio.recorders["n1"].events[-1][0] == "down"
    assert not trio.nodes["n1"].send("n2", "s", Alive())
    trio.nodes["n1"].set_peer("n2", "n2")
    trio.network.deliver()
    assert trio.nodes["n1"].send("n2", "s", Alive())


async def test_our_own_malformed_messages_are_loud() -> None:
    """Both ends are ours here: a message that the decoder refuses is a bug, and raises."""
    trio = await Trio().start()
    trio.nodes["n1"].send("n2", "s", LeaderIs("kv", ServerId("s", "n1"), Term(-1)))
    trio.nodes["n1"].flush()
    with pytest.raises(ProtocolError):
        trio.network.deliver()
