"""The simulated network: everything that belongs to one connection ends with it."""

import random
from collections.abc import Iterator

import pytest
from tests.transport.support import Recorder

from barque.testing.sim.loop import VirtualLoop, VirtualProcess
from barque.testing.sim.network import SimNetwork, SimTransport
from barque.transport.wire import LeaderIs
from barque.types import ServerId, Term

NAMES = ("n1", "n2")


class Pair:
    """Two nodes on a network; each may start again as another process."""

    def __init__(self) -> None:
        self.loop = VirtualLoop()
        self.network = SimNetwork(self.loop, random.Random(1))
        self.recorders: dict[str, Recorder] = {}
        self.nodes: dict[str, SimTransport] = {}
        for name in NAMES:
            self.start(name, 1)
        self.run(0.1)

    def start(self, name: str, incarnation: int) -> None:
        peers = {other: other for other in NAMES if other != name}
        self.recorders[name] = handler = Recorder()
        process = VirtualProcess(self.loop, name)
        self.nodes[name] = SimTransport(
            self.network, process, name=name, incarnation=incarnation, peers=peers, handler=handler
        )
        self.network.add(self.nodes[name])

    def die(self, name: str) -> None:
        self.nodes[name].process.kill()
        self.network.gone(name, silent=False)

    def run(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run_forever()

    def say(self, term: int) -> None:
        """Send a message from n2 to n1."""
        self.nodes["n2"].send("n1", "s", LeaderIs("kv", ServerId("s", "n2"), Term(term)))
        self.nodes["n2"].flush()

    def heard(self) -> list[int]:
        return [message.term for message in self.recorders["n1"].messages() if isinstance(message, LeaderIs)]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected nodes."""
    found = Pair()
    yield found
    found.loop.close()


def test_frames_do_not_wait_for_those_of_a_process_that_died(pair: Pair) -> None:
    """A frame that a dead process would have written late does not delay the frames of its successor."""
    pair.nodes["n2"].process.charge(8.0)
    pair.say(1)
    pair.die("n2")
    pair.start("n2", 2)
    pair.run(0.1)
    pair.say(2)
    pair.run(0.1)
    assert pair.heard() == [2]


def test_frames_do_not_wait_for_those_that_were_written_to_a_node_that_had_died(pair: Pair) -> None:
    """Frames to a node that had died do not delay later frames, even if their writer dies as well."""
    pair.nodes["n2"].process.charge(8.0)
    pair.die("n1")
    pair.say(1)
    pair.die("n2")
    pair.start("n2", 2)
    pair.start("n1", 2)
    pair.run(0.1)
    pair.say(2)
    pair.run(0.1)
    assert pair.heard() == [2]


def test_what_waits_on_a_slow_link_is_lost_with_its_connection(pair: Pair) -> None:
    """Frames on a slow link end with its connection, and do not delay the next connection."""
    pair.network.slow_down("n2", "n1", bytes_a_second=1_000)
    for _ in range(20):
        pair.say(1)
    pair.network.disconnect("n1", "n2")
    pair.run(0.1)
    pair.say(2)
    pair.run(0.1)
    assert pair.heard() == [2]


def test_a_process_that_died_refuses_connections(pair: Pair) -> None:
    """Its peers hear that it is gone, once; when it starts again they hear that."""
    pair.die("n2")
    pair.run(2.0)
    assert [kind for kind, *_ in pair.recorders["n1"].events] == ["up", "down", "gone"]
    pair.start("n2", 2)
    pair.run(1.0)
    assert [kind for kind, *_ in pair.recorders["n1"].events] == ["up", "down", "gone", "up"]


@pytest.mark.parametrize("fault", ["partition", "power loss"])
def test_silence_refuses_no_connection(pair: Pair, fault: str) -> None:
    """Neither a network in parts nor a machine without power says that a process is gone."""
    if fault == "partition":
        pair.network.partition(["n1"], ["n2"])
    else:
        pair.nodes["n2"].process.kill()
        pair.network.gone("n2", silent=True)
    pair.network.disconnect("n1", "n2", "timed out")
    pair.run(2.0)
    assert [kind for kind, *_ in pair.recorders["n1"].events] == ["up", "down"]
