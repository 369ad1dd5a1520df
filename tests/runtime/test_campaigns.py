"""`barque.runtime.campaigns`: few servers of a node campaign at a time, members in turn."""

from types import SimpleNamespace
from typing import Any

from barque.core.roles import RaftState
from barque.runtime.campaigns import CAMPAIGNS_MAX, RANK_S, Campaigns, rank, rank_of_heir
from barque.runtime.timers import Timers
from barque.types import ServerId

NODES = ("n1", "n2", "n3")


class StubClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)


def process_of(cluster: str, node: str = "n1") -> Any:
    """A follower, as far as campaigns look at it."""
    members = dict.fromkeys(ServerId(cluster, name) for name in NODES)
    server = SimpleNamespace(id=ServerId(cluster, node), cluster=members, raft_state=RaftState.FOLLOWER)
    stub: Any = type("Process", (), {})()
    stub.server, stub.cluster_id = server, f"R{cluster}"
    return stub


class World:
    """Campaigns over many servers, each of which notes that it has begun."""

    def __init__(self, count: int, node: str = "n1") -> None:
        self.clock, self.timers = StubClock(), Timers()
        self.campaigns = Campaigns(self.timers, self.clock, patience_s=0.5)
        self.processes = [process_of(f"c{number}", node) for number in range(count)]
        self.begun: list[Any] = []

    def ask(self, process: Any) -> None:
        def campaign() -> None:
            self.begun.append(process)
            process.server.raft_state = RaftState.PRE_VOTE

        self.campaigns.ask(process, campaign)

    def end(self, process: Any) -> None:
        process.server.raft_state = RaftState.LEADER
        self.campaigns.state_left(process)

    def run(self, to: float) -> None:
        self.clock.now = to
        self.timers.run_due(to)


def test_few_servers_never_wait() -> None:
    """Up to the limit every server campaigns at once, and no timer is armed."""
    world = World(CAMPAIGNS_MAX)
    for process in world.processes:
        world.ask(process)
    assert world.begun == world.processes
    assert len(world.timers) == 0


def test_no_more_than_the_limit_campaign_at_a_time() -> None:
    """A server that has won, or follows, makes room for the next one; all get their turn."""
    world = World(3 * CAMPAIGNS_MAX)
    for process in world.processes:
        world.ask(process)
    assert len(world.begun) == CAMPAIGNS_MAX
    assert len(world.campaigns) == 2 * CAMPAIGNS_MAX
    for done in range(len(world.processes)):
        assert len(world.begun) == min(CAMPAIGNS_MAX + done, len(world.processes))
        world.end(world.begun[done])
        world.run(world.clock.now)
    assert set(world.begun) == set(world.processes)
    assert len(world.timers) == len(world.campaigns) == 0


def test_campaigns_that_cannot_succeed_make_room_when_patience_ends() -> None:
    """Without a majority no campaign ends; the others try all the same, some every half a second."""
    world = World(2 * CAMPAIGNS_MAX)
    for process in world.processes:
        world.ask(process)
    world.run(0.49)
    assert len(world.begun) == CAMPAIGNS_MAX
    world.run(0.5)
    assert len(world.begun) == 2 * CAMPAIGNS_MAX
    world.run(1.0)
    again = world.processes[0]
    world.ask(again)
    assert world.begun[-1] is again


def test_who_hears_of_a_leader_waits_no_longer() -> None:
    """A cancelled server, one that takes another state, and one that is deleted never campaign."""
    world = World(CAMPAIGNS_MAX + 4)
    for process in world.processes:
        world.ask(process)
    cancelled, moved, deleted, waits = world.processes[CAMPAIGNS_MAX:]
    assert cancelled in world.campaigns
    assert world.campaigns.cancel(cancelled)
    assert not world.campaigns.cancel(cancelled)
    world.campaigns.state_left(moved)
    world.campaigns.forget(deleted)
    assert [p in world.campaigns for p in (cancelled, moved, deleted, waits)] == [False] * 3 + [True]
    world.run(10.0)
    assert world.begun[CAMPAIGNS_MAX:] == [waits]


def test_a_campaign_that_ends_at_once_takes_no_room() -> None:
    """A server without a vote, and the only member of a cluster, do not hold a place."""
    world = World(2 * CAMPAIGNS_MAX)
    begun = []
    for process in world.processes:
        world.campaigns.ask(process, lambda process=process: begun.append(process))
    assert begun == world.processes


def test_members_of_a_cluster_take_turns_in_another_order_for_each_cluster() -> None:
    """Each cluster ranks its members 0, 1 and 2; over many clusters each node has every rank as often."""
    firsts = dict.fromkeys(NODES, 0)
    for number in range(600):
        ranks = {node: rank(process_of(f"c{number}", node)) for node in NODES}
        assert sorted(ranks.values()) == [0, 1, 2]
        firsts[min(ranks, key=lambda node: ranks[node])] += 1
    assert all(150 < count < 250 for count in firsts.values())


def test_a_server_of_first_rank_goes_first_but_not_for_ever() -> None:
    """Among servers that wait, lower ranks go first; but not before one that has waited for long."""
    world = World(CAMPAIGNS_MAX + 30)
    for process in world.processes:
        world.ask(process)
    waiting = world.processes[CAMPAIGNS_MAX:]
    late = process_of("c0", next(node for node in NODES if rank(process_of("c0", node)) == 0))
    world.clock.now = 2 * RANK_S + 0.1
    for process in world.processes[:CAMPAIGNS_MAX]:
        process.server.raft_state = RaftState.LEADER
    world.ask(late)  # patience has ended, but others wait
    world.run(world.clock.now)
    order = world.begun[CAMPAIGNS_MAX:]
    assert order[:-1] == sorted(waiting, key=lambda p: (rank(p), waiting.index(p)))
    assert order[-1] is late


def test_the_heirs_of_a_leader_take_turns() -> None:
    """The voters that are left agree on an order; each comes first in about as many clusters as another."""
    first = []
    for number in range(60):
        cluster, learner = f"c{number}", ServerId(f"c{number}", "n4")
        heirs = [process_of(cluster, node) for node in ("n2", "n3")]
        for heir in heirs:
            heir.server.cluster = {member: SimpleNamespace(voter=True) for member in heir.server.cluster}
            heir.server.cluster[learner] = SimpleNamespace(voter=False)
        ranks = {heir.server.id.node: rank_of_heir(heir, ServerId(cluster, "n1")) for heir in heirs}
        assert sorted(ranks.values()) == [0, 1]
        first.append(min(ranks, key=ranks.__getitem__))
    assert 20 <= first.count("n2") <= 40
