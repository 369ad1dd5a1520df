"""Faults of the network that need a plan: unusual majorities, slow and dead links, impostors."""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import AppendEntriesReply, AppendEntriesRpc, RequestVoteRpc
from barque.core.state import Server
from barque.testing.checkers.safety import Violation
from barque.testing.faults.bad_links import Impostor
from barque.transport import wire
from barque.types import Index, ServerId, Term

if TYPE_CHECKING:
    from barque.testing.faults.nemesis import Nemesis
    from barque.testing.sim.simulator import Simulation

STRANGE_TERM = 1 << 40
"""The term of false messages: a server in this term has accepted one."""


def swizzle(nemesis: "Nemesis") -> None:
    """Links are cut one after the other, and come back one after the other in another order."""
    network, rng = nemesis.sim.network, nemesis.rng
    links = list(itertools.combinations(nemesis.sim.names, 2))
    chosen = rng.sample(links, rng.randrange(2, len(links) + 1))
    step = nemesis.length() / len(chosen)
    nemesis.count("swizzle", " ".join(map("-".join, chosen)))

    def turn(link: tuple[str, str], *, cut: bool) -> None:
        if not nemesis.over:
            one, other = link
            network.faults(one, other).cut = network.faults(other, one).cut = cut

    for place, link in enumerate(chosen):
        nemesis.sim.loop.later(place * step, lambda link=link: turn(link, cut=True))
    rng.shuffle(chosen)
    start = len(chosen) * step + nemesis.election_s()
    for place, link in enumerate(chosen):
        nemesis.sim.loop.later(start + place * step, lambda link=link: turn(link, cut=False))


def bridge(nemesis: "Nemesis") -> None:
    """Two halves see each other through one node only, which sees both."""
    names = _shuffled(nemesis)
    half = len(names) // 2
    _cut(nemesis, "bridge", [(a, b) for a in names[:half] for b in names[half + 1 :]], both_ways=True)


def ring(nemesis: "Nemesis") -> None:
    """Each node sees its neighbours on a ring: every node sees a majority, each a different one.

    Three nodes are all neighbours; there, each node hears only one of the others.
    """
    names = _shuffled(nemesis)
    apart = [(a, names[(i + 2) % len(names)]) for i, a in enumerate(names)]
    _cut(nemesis, "ring", apart, both_ways=len(names) > 3)


def _shuffled(nemesis: "Nemesis") -> list[str]:
    names = list(nemesis.sim.names)
    nemesis.rng.shuffle(names)
    return names


def _cut(nemesis: "Nemesis", name: str, links: list[tuple[str, str]], *, both_ways: bool) -> None:
    nemesis.count(name, " ".join(map("-".join, links)))
    ways = [*links, *((b, a) for a, b in links)] if both_ways else links

    def turn(*, cut: bool) -> None:
        for source, target in ways:
            nemesis.sim.network.faults(source, target).cut = cut

    turn(cut=True)
    nemesis.later(lambda: turn(cut=False), nemesis.election_s())


def slow_link(nemesis: "Nemesis") -> None:
    """One direction of a link carries less than the log produces: frames queue, then sends are refused."""
    source, target = nemesis.rng.sample(nemesis.sim.names, 2)
    nemesis.count("slow_link", f"{source}-{target}")
    nemesis.sim.network.slow_down(source, target, nemesis.rng.choice((1_000, 5_000, 20_000)))
    nemesis.later(lambda: nemesis.sim.network.speed_up(source, target), nemesis.election_s())


def half_open(nemesis: "Nemesis") -> None:
    """A peer has silently forgotten a connection: what is sent vanishes, for a while."""
    sim = nemesis.sim
    if nemesis.rng.random() < 0.3:
        link = sim.network.silence_client(nemesis.rng)
        if link is not None:
            nemesis.count("half_open", f"{link.client}-{link.node}")
            sim.loop.later(nemesis.length() + nemesis.election_s(), link.lose, "timed out")
        return
    one, other = nemesis.rng.sample(sim.names, 2)
    nemesis.count("half_open", f"{one}-{other}")
    sim.network.open_half(one, other)
    nemesis.later(lambda: sim.network.notice(one, other), nemesis.election_s())


def wrong_peer(nemesis: "Nemesis") -> None:
    """Another node answers at a node's address; or messages of another cluster, or of the past, arrive."""
    (_another_answers if nemesis.rng.random() < 0.5 else _a_stranger_speaks)(nemesis)


def _another_answers(nemesis: "Nemesis") -> None:
    """All peers of a node dial it again, and find another installation, secret or name."""
    sim, victim = nemesis.sim, nemesis.rng.choice(nemesis.sim.names)
    if victim in sim.network.impostors:
        return

    def welcome(node: str) -> None:
        states = (f"{node} dials {victim}", f"there answers a node with another {kind}")
        sim.report(Violation("strangers are refused", "a handshake with the wrong node succeeds", states))

    kind = nemesis.rng.choice(Impostor.KINDS)
    nemesis.count("wrong_peer", f"{victim} {kind}")
    impostor = Impostor(kind, victim, sim.rng(f"impostor/{nemesis.fired['wrong_peer']}"), welcome)
    sim.network.impostors[victim] = impostor
    for name in sim.names:
        if name != victim:
            sim.network.disconnect(name, victim)

    def leave() -> None:
        sim.network.impostors.pop(victim, None)
        nemesis.fired["impostors refused"] += impostor.refusals

    nemesis.later(leave, nemesis.election_s())


def _a_stranger_speaks(nemesis: "Nemesis") -> None:
    """Messages in a peer's name reach a server: from another cluster, or from a former incarnation."""
    host, sim = nemesis.some_host(), nemesis.sim
    name = nemesis.rng.choice([name for name in sim.names if name != host.name])
    cluster = nemesis.rng.choice(sim.clusters).name
    server, transport = host.server(cluster), sim.network.transport(host.name)
    if server is None or transport is None:
        return
    sender = ServerId(cluster, name)
    peer = server.cluster.get(sender)
    if nemesis.rng.random() < 0.5:
        nemesis.count("wrong_peer", f"{host.name}: another cluster's {name}")
        letters = [wire.Envelope(cluster, m, "another cluster", "lists") for m in _lies(server, sender)]
    elif peer is not None and peer.uid is not None:
        nemesis.count("wrong_peer", f"{host.name}: a former {name}")
        former = peer.uid + "former"
        # A server may believe leaders and candidates whatever their uid: its configuration may be old, and
        # their logs prove who they are. Only replies are false here, as no member ever lies about its log.
        lies = [m for m in _lies(server, sender) if isinstance(m, AppendEntriesReply)]
        letters = [wire.Envelope(cluster, m, server.cfg.cluster_id, former) for m in lies]
    else:
        return
    transport.process.call(transport.deliver, name, wire.encode_envelopes(letters))


def _lies(server: Server, sender: ServerId) -> list[wire.PeerMessage]:
    """Messages that would do harm: false entries, a false term, a false acknowledgement."""
    last, term = server.log.last_index_term(), Term(STRANGE_TERM)
    batch = EntryBatch(Index(last.index + 1), term, 1, 0, encode_body([b"strange"]))
    return [
        AppendEntriesReply(sender, server.current_term, True, Index(last.index + 1), last.index, last.term),
        RequestVoteRpc(term, sender, Index(STRANGE_TERM), term),
        AppendEntriesRpc(term, sender, Index(0), last.index, last.term, (batch,)),
    ]


def judge_strangers(sim: "Simulation") -> None:
    """Check that no server has accepted a false message."""
    servers = [server for cluster in sim.clusters for _, server in cluster.servers()]
    heard = [str(server.id) for server in servers if server.current_term >= STRANGE_TERM]
    if heard:
        text = "a message of another cluster, or of a former member, was heard"
        sim.report(Violation("strangers are refused", text, tuple(heard)))


NETWORK_FAULTS: dict[str, Callable[["Nemesis"], None]] = {
    "swizzle": swizzle,
    "bridge": bridge,
    "ring": ring,
    "slow_link": slow_link,
    "half_open": half_open,
    "wrong_peer": wrong_peer,
}
"""By name. A fault that cannot happen now is not counted."""
