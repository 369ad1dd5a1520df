"""Delivery of messages, to servers here and to other nodes (runtime/dispatcher.py)."""

from typing import Any

import msgspec
import pytest
from tests.runtime.test_deletion import new_disk

from barque.core.effects import Applied, Rejected
from barque.core.entries import EntryBatch, EntryKind, encode_body
from barque.core.log_contract import ChunkFlag, ChunkState, SnapshotMeta
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    InstallSnapshotRpc,
    Queries,
    RemoteMessage,
    TimeoutNow,
)
from barque.log.identity import Owner
from barque.runtime.directory import Directory
from barque.runtime.dispatcher import Dispatcher, _needs_space
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import ServerTable
from barque.testing.core.cluster import CoreCluster
from barque.testing.sim.disk import SimDisk
from barque.transport.wire import (
    Alive,
    Envelope,
    FrontRejected,
    FrontReplies,
    MemberRemoved,
    PeerMessage,
    RemovalAsked,
)
from barque.types import ClientRef, Index, IndexTerm, ReplyMode, ServerId, Term, Uid

HERE, ELSEWHERE = ClientRef("node_a", 7), ClientRef("node_b", 8)
A = ServerId("a", "node_a")


class Recording(ServerProcess):
    """A server that notes what it is to handle."""

    handled: list[Any]

    def handle(self, message: Any) -> None:
        """See `ServerProcess`."""
        self.handled.append(message)


class World:
    """A dispatcher with one server, and everything around it: transport, router, clock."""

    def __init__(self, disk: SimDisk) -> None:
        self.now = 100.0
        self.sent: list[tuple[str, str, PeerMessage, str, str]] = []
        self.heard: list[tuple[Any, ...]] = []
        self.handled: list[Any] = []
        self.servers = ServerTable(lambda: None)
        transport: Any = self
        self.dispatcher = Dispatcher(
            HERE, self.servers, Directory(disk, "/data", Owner("barque", "n1")), transport, self, lambda: None
        )
        self.dispatcher.attach(self)
        performer: Any = self
        self.process = Recording(CoreCluster("a", "b")["a"].server, performer, {})
        self.process.handled = self.handled
        self.servers.add(self.process)

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 0

    def send(self, node: str, to: str, message: PeerMessage, cluster_id: str = "", uid: str = "") -> bool:
        self.sent.append((node, to, message, cluster_id, uid))
        return True

    def connected(self) -> list[str]:
        """The nodes that are within reach."""
        return ["node_b", "node_c"]

    def on_replies(self, *answer: Any) -> None:
        self.heard.append(("replies", *answer))

    def on_rejected(self, *answer: Any) -> None:
        self.heard.append(("rejected", *answer))

    def leader_established(self, *news: Any) -> None:
        self.heard.append(("leader", *news))

    def server_failed(self, process: ServerProcess) -> None:
        """Of no interest here."""


@pytest.fixture
def world() -> World:
    """One server called `a`, of the cluster that `CoreCluster` makes."""
    return World(new_disk())


def commands(origin: ClientRef) -> Commands:
    """One command of this origin, correlated by 5."""
    return Commands(1, encode_body([b"\x01"], EntryKind.USER, ReplyMode.AWAIT_CONSENSUS, origin, 5))


def test_a_message_for_a_server_here_is_handed_over_as_it_is(world: World) -> None:
    """Nothing wraps it, and it is there when `send` returns."""
    reply = AppendEntriesReply(A, Term(1), True, Index(1), Index(0), Term(0))
    assert world.dispatcher.send(A, reply, world.process)
    assert world.handled[0] is reply
    assert not world.sent


def test_a_message_for_another_node_is_signed(world: World) -> None:
    """It carries the cluster and the incarnation of the server that speaks; a router's carries neither."""
    message = TimeoutNow(A)
    world.dispatcher.send(ServerId("b", "node_b"), message, world.process)
    query = Queries(HERE, 1, (b"",), True)
    world.dispatcher.send_to_server(ServerId("b", "node_b"), query)
    process = world.process
    assert world.sent == [
        ("node_b", "b", message, process.cluster_id, process.uid),
        ("node_b", "b", query, "", ""),
    ]


@pytest.mark.parametrize("origin", [HERE, ELSEWHERE])
@pytest.mark.parametrize("kind", ["commands", "queries"])
def test_a_request_for_a_server_that_is_not_here_is_refused(
    world: World, origin: ClientRef, kind: str
) -> None:
    """Its origin is told at once: this node's router directly, another node's by message."""
    message: RemoteMessage = commands(origin) if kind == "commands" else Queries(origin, 5, (b"",), False)
    world.dispatcher.receive(origin.node, [Envelope("nobody", message)])
    if origin is HERE:
        assert world.heard == [("rejected", 5, 1, "unknown_cluster", None)]
    else:
        refusal = FrontRejected(ELSEWHERE.incarnation, 5, 1, "unknown_cluster", None)
        assert world.sent == [("node_b", "", refusal, "", "")]


def test_a_failed_server_refuses_requests(world: World) -> None:
    """It does not lead, so the router may ask elsewhere."""
    world.process.failure = "a test"
    world.dispatcher.send_to_server(A, commands(HERE))
    assert world.heard == [("rejected", 5, 1, "not_leader", None)]
    assert not world.handled


def test_answers_find_their_node(world: World) -> None:
    """Values for this process's router, bytes for another node's, nothing for an earlier process."""
    replies = ["x", "y"]
    world.dispatcher.answer(Applied(HERE, 3, replies, None))
    assert world.heard == [("replies", 3, 2, replies, None)]
    assert world.heard[0][3] is replies
    world.dispatcher.answer(Applied(ELSEWHERE, 3, replies, {1: "no"}))
    encoded = FrontReplies(8, 3, 2, msgspec.Raw(msgspec.msgpack.encode(replies)), {1: "no"})
    assert world.sent == [("node_b", "", encoded, "", "")]
    world.dispatcher.answer(Applied(ClientRef("node_a", 6), 3, replies, None))
    world.dispatcher.reject(Rejected(ClientRef("node_a", 6), 3, 2, "no"))
    assert len(world.heard) == len(world.sent) == 1


def test_messages_of_nodes_go_to_their_handlers(world: World) -> None:
    """And answers for an earlier process of this node are dropped."""
    heard: list[tuple[str, Any]] = []
    world.dispatcher.on(Alive, lambda node, message: heard.append((node, message)))
    late = FrontRejected(HERE.incarnation - 1, 1, 1, "no", None)
    world.dispatcher.receive("node_b", [Envelope("", Alive()), Envelope("", late)])
    assert heard == [("node_b", Alive())]
    assert not world.heard


def test_a_removal_is_suspected_of_the_server_that_it_names(world: World) -> None:
    """All nodes are asked, and nothing ends on one node's word; another incarnation is not concerned."""
    cluster_id, uid = world.process.cluster_id, world.process.uid
    world.dispatcher.receive("node_b", [Envelope("", MemberRemoved(cluster_id, "another"))])
    assert not world.dispatcher.removals.is_suspected(world.process)
    for removed in (MemberRemoved(cluster_id, uid), MemberRemoved(cluster_id)):
        world.dispatcher.receive("node_b", [Envelope("", removed)])
        assert world.dispatcher.removals.is_suspected(world.process)
    assert [(node, type(message)) for node, _, message, *_ in world.sent] == [
        ("node_b", RemovalAsked),
        ("node_c", RemovalAsked),
    ]
    assert not world.servers.finished


def test_removal_notices_are_rare_and_repeated_after_a_reconnect(world: World) -> None:
    """Once a second for each node and server; and again when a new connection may have lost them."""
    removed = MemberRemoved("c", Uid("u"))
    for _ in range(3):
        world.dispatcher.notify_removed("node_b", removed)
    world.dispatcher.notify_removed("node_c", removed)
    assert [(node, message) for node, _, message, *_ in world.sent] == [
        ("node_b", removed),
        ("node_c", removed),
    ]
    world.now += 1.0
    world.dispatcher.notify_removed("node_b", removed)
    world.dispatcher.node_connected("node_c")
    assert [node for node, *_ in world.sent] == ["node_b", "node_c", "node_b", "node_c"]


@pytest.mark.parametrize(
    ("previous", "batches", "needs"),
    [
        (2, [], False),
        (2, [(3, EntryKind.USER)], True),
        (2, [(3, EntryKind.NOOP), (4, EntryKind.USER)], True),
        (2, [(3, EntryKind.NOOP), (4, EntryKind.CLUSTER_CHANGE), (5, EntryKind.CLUSTER_DELETE)], False),
        (1, [(2, EntryKind.USER)], False),
        (3, [], True),
    ],
    ids=["nothing new", "a command", "a command behind a noop", "no command", "known", "it would ask"],
)
def test_what_a_follower_without_space_does_not_get(
    previous: int, batches: list[tuple[int, EntryKind]], needs: bool
) -> None:
    """New commands, and what would make it ask for commands; never what elections or deletions need."""
    log = CoreCluster("a", "b")["a"].server.log
    log.write([EntryBatch(Index(i), Term(1), 1, 0, encode_body([b""])) for i in (1, 2)])
    entries = tuple(EntryBatch(Index(i), Term(1), 1, 0, encode_body([b""], kind)) for i, kind in batches)
    rpc = AppendEntriesRpc(Term(1), A, Index(0), Index(previous), Term(1), entries)
    assert _needs_space(log, rpc) is needs


def test_a_follower_without_space_gets_no_snapshot() -> None:
    """A piece of it is dropped, and the leader tries again later."""
    meta = SnapshotMeta(IndexTerm(Index(9), Term(1)), (), 0)
    piece = InstallSnapshotRpc(Term(1), A, meta, ChunkState(1, ChunkFlag.LAST), b"state", ())
    log = CoreCluster("a", "b")["a"].server.log
    assert _needs_space(log, piece)
    assert not _needs_space(log, TimeoutNow(A))
