"""An operator asks for what must be refused: a removal that would leave a cluster without its quorum.

As many nodes are down as the cluster can do without. Removing one of the others would be in force at once,
and nobody could commit it or take it back. So the leader must refuse, and the cluster go on as it is.
"""

import asyncio
from typing import TYPE_CHECKING

from barque.core.quorum import majority
from barque.core.state import Server
from barque.errors import BarqueError
from barque.testing.checkers.safety import Violation
from barque.testing.sim.clusters import SimCluster

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis
    from barque.testing.sim.host import Host

_NOTICE_S = 5.0
"""A leader mostly knows within this time that a node is down; if not, the operator gives up."""


def losing_removal(nemesis: "Nemesis") -> None:
    """Nodes go down and stay down while an operator asks to remove a member that the others need."""
    sim, rng = nemesis.sim, nemesis.rng
    cluster = rng.choice([cluster for cluster in sim.clusters if cluster.formed] or [None])
    leader = cluster.leader() if cluster is not None else None
    if cluster is None or leader is None or any(host.kept_down or not host.up for host in sim.hosts):
        return
    voters = sorted(member.node for member, peer in leader.cluster.items() if peer.voter)
    down = rng.sample(
        [node for node in voters if node != leader.id.node], len(voters) - majority(len(voters))
    )
    left = [node for node in voters if node not in down]
    if not down or len(left) - 1 >= majority(len(voters) - 1):
        return
    hosts = [host for host in sim.hosts if host.name in down]
    for host in hosts:
        host.kept_down = True
        host.crash(power=False)
    nemesis.count("losing_removal", f"{'|'.join(down)} of {cluster.name}")
    sim.keep(sim.loop.create_task(_ask(nemesis, cluster, leader, hosts, rng.choice(left))))


async def _ask(
    nemesis: "Nemesis", cluster: SimCluster, leader: Server, down: "list[Host]", leaves: str
) -> None:
    """Ask for the removal when the leader knows who is down; judge; then start the nodes again."""
    sim, silent = nemesis.sim, {host.name for host in down}
    deadline = sim.loop.time() + _NOTICE_S
    while sim.loop.time() < deadline:
        role = leader.leadership()
        if role is None or silent <= {member.node for member in role.silent}:
            break
        await asyncio.sleep(0.05)
    admin = nemesis.rng.choice(cluster.clients)
    answer = "done"
    try:
        await admin.ask(lambda client: client.remove_member(cluster.name, leaves))
    except BarqueError as error:
        answer = type(error).__name__
    sim.transcript.note(admin.name, f"remove {leaves} of {cluster.name}: {answer}")
    if all(host.kept_down for host in down):
        _judge(nemesis, cluster, leaves, sorted(silent), answer)
    for host in down:
        if host.kept_down:
            host.kept_down = False
            host.start()


def _judge(nemesis: "Nemesis", cluster: SimCluster, leaves: str, down: list[str], answer: str) -> None:
    """No member may have taken up a configuration without the member that was to leave."""
    for _, server in cluster.servers():
        if leaves not in {member.node for member in server.cluster}:
            states = (f"{server.id} goes by {sorted(map(str, server.cluster))}", f"down: {down}; {answer}")
            text = f"{leaves} was removed although the others are no majority without it"
            nemesis.sim.report(Violation("a change leaves a quorum (D3)", text, states))
            return
