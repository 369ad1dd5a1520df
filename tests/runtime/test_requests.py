"""What the request router answers for a command, and when (runtime/requests.py, pending_requests.py)."""

import struct
from typing import Any

import msgspec
import pytest

from barque.core.entries import COMMAND_BYTES_MAX, decode_head
from barque.core.messages import Commands, Queries, RemoteMessage
from barque.errors import ProtocolError, UnknownCluster
from barque.runtime.client_session import ClientSessions, RemoteSession
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.pending_requests import BATCH_COMMANDS_MAX
from barque.runtime.requests import RequestRouter
from barque.transport.authorization import Role
from barque.transport.wire import ClientAnswer, ClientCommands, ClientFailed, ClientQueries, ClientReplies
from barque.types import ClientRef, ReplyMode, ServerId, Term

ME = ClientRef("n1", 7)
N2 = ServerId("kv", "n2")
N3 = ServerId("kv", "n3")


async def no_verbs(_verb: str, _arguments: dict[str, Any]) -> Any:
    """No administration here."""
    raise AssertionError


class World:
    """A router, the clock and the network around it, and what one client hears."""

    def __init__(self, *, commands_max: int = 1_000, bytes_max: int = 1_000_000) -> None:
        self.now = 100.0
        self.sent: list[tuple[ServerId, RemoteMessage]] = []
        self.reachable = True
        self.heard: list[ClientAnswer] = []
        self.router = RequestRouter(ME, self, self, self, commands_max=commands_max, bytes_max=bytes_max)
        self.peer, self.role, self.unread, self.room = "a test", Role.ADMIN, 0, 1 << 30
        self.session = self.open()

    def open(self) -> RemoteSession:
        """Another client of this node."""
        return ClientSessions(self.router, NodeRpc(lambda _node, _message: False, no_verbs)).open_remote(self)

    def send(self, answers: list[ClientAnswer]) -> bool:
        """The client hears them."""
        self.heard.extend(answers)
        return True

    def close(self, reason: str) -> None:
        """The node ends the connection."""
        raise ProtocolError(reason)

    def monotonic(self) -> float:
        """The clock."""
        return self.now

    def wall_ms(self) -> int:
        """Unused here."""
        return 0

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        """The network."""
        if self.reachable:
            self.sent.append((to, message))
        return self.reachable

    def note_invalid_mode(self, cluster: str, count: int) -> None:
        pass

    def why_not_here(self, cluster: str) -> str:
        return ""

    def local_query(self, cluster: str, payload: bytes) -> Any:
        """A member on this node, for one cluster only."""
        if cluster != "kv":
            raise UnknownCluster("not here")
        return "local"

    def wake(self) -> None:
        """The test runs the turns."""

    def wake_later(self, after_s: float) -> None:
        """The test runs the turns."""

    def command(self, first: int, *payloads: bytes, mode: ReplyMode = ReplyMode.NOTIFY) -> None:
        """The client sends commands."""
        columns = b"".join((struct.pack(f"<{len(payloads)}I", *map(len, payloads)), *payloads))
        self.session.on_requests([ClientCommands("kv", first, len(payloads), columns, mode, 5_000)])

    def query(self, first: int, *payloads: bytes, level: str = "consistent") -> None:
        """The client asks."""
        self.session.on_requests([ClientQueries("kv", first, payloads, level, 5_000)])

    def turn(self) -> list[tuple[ServerId, RemoteMessage]]:
        """One turn; returns what was sent in it."""
        sent, self.sent = self.sent, []
        assert sent == []
        self.router.flush()
        self.router.deliver()
        sent, self.sent = self.sent, []
        return sent

    def pass_time(self, seconds: float) -> None:
        """Let deadlines pass."""
        self.now += seconds
        self.router.expire(self.now)
        self.router.deliver()


def first_of(message: RemoteMessage) -> int:
    """The first correlation of what was sent."""
    if isinstance(message, Commands):
        return decode_head(message.body).first_correlation
    assert isinstance(message, Queries)
    return message.first_correlation


def test_commands_of_a_turn_travel_as_one_batch_and_answers_find_their_way() -> None:
    """Two requests leave as one message; the answers come back under the client's own numbers."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(10, b"\x01", b"\x02")
    world.command(20, b"\x03")
    [(to, message)] = world.turn()
    assert to == N2
    assert isinstance(message, Commands)
    assert message.count == 3
    world.router.on_replies(first_of(message), 3, ["a", "b", "c"], {2: "no"})
    world.turn()
    assert [(a.first_correlation, a.count) for a in world.heard if isinstance(a, ClientReplies)] == [
        (10, 2),
        (20, 1),
    ]
    last = world.heard[-1]
    assert isinstance(last, ClientReplies)
    assert last.errors == {0: "no"}


def test_without_a_leader_a_command_waits_and_then_did_not_happen() -> None:
    """It is never sent, and at its deadline the answer is `NoLeader`."""
    world = World()
    world.command(1, b"\x01")
    assert world.turn() == []
    world.pass_time(5.1)
    [answer] = world.heard
    assert isinstance(answer, ClientFailed)
    assert answer.error == "NoLeader"


def test_a_leader_that_appears_gets_what_waited_in_order() -> None:
    """Parked commands leave in the order of their arrival."""
    world = World()
    world.command(1, b"\x01")
    world.turn()
    world.command(2, b"\x02")
    world.turn()
    world.router.leader_hint("kv", N3, Term(1))
    [(to, message)] = world.turn()
    assert (to, isinstance(message, Commands) and message.body[-2:]) == (N3, b"\x01\x02")


def test_sent_and_unanswered_is_unknown_and_never_sent_again() -> None:
    """At the deadline a write's outcome is unknown; a read times out."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    world.query(2, b"\x02")
    assert len(world.turn()) == 2
    world.pass_time(5.1)
    assert [a.error for a in world.heard if isinstance(a, ClientFailed)] == ["OutcomeUnknown", "QueryTimeout"]
    world.router.leader_hint("kv", N3, Term(2))
    assert world.turn() == []


def test_a_refusal_is_tried_elsewhere() -> None:
    """`not_leader` means that it was not appended: the named leader is asked next."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    [(_, message)] = world.turn()
    world.router.on_rejected(first_of(message), 1, "not_leader", N3)
    [(to, _)] = world.turn()
    assert to == N3
    assert world.heard == []


def test_a_refusal_without_a_name_is_tried_again_later() -> None:
    """The same leader is asked again, but not in a tight loop."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    [(_, message)] = world.turn()
    world.router.on_rejected(first_of(message), 1, "wal_down", None)
    assert world.turn() == []
    world.now += 0.05
    assert len(world.turn()) == 1


def test_what_cannot_be_queued_is_not_lost() -> None:
    """A leader out of reach gets the command when it is back; nothing was sent meanwhile."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.reachable = False
    world.command(1, b"\x01")
    assert world.turn() == []
    world.reachable = True
    world.now += 0.05
    assert len(world.turn()) == 1


def test_an_established_leader_settles_what_earlier_ones_left() -> None:
    """Writes sent in an earlier term become unknown at once; reads are asked again; later ones stay."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    world.query(2, b"\x02")
    world.turn()
    world.router.leader_hint("kv", N3, Term(2))
    world.command(3, b"\x03")
    world.turn()
    world.router.leader_established("kv", N3, Term(2))
    [(to, again)] = world.turn()
    assert to == N3
    assert isinstance(again, Queries)
    assert [(a.first_correlation, a.error) for a in world.heard if isinstance(a, ClientFailed)] == [
        (1, "OutcomeUnknown")
    ]
    world.router.leader_established("kv", N3, Term(2))
    world.router.leader_established("kv", N2, Term(1))
    assert world.turn() == []


def test_sec5_a_read_is_not_asked_of_leader_after_leader() -> None:
    """A read that two leaders had when they were replaced may be the reason: it ends, and changed nothing."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.query(1, b"\x02")
    world.turn()
    world.router.leader_established("kv", N3, Term(2))
    [(to, again)] = world.turn()
    assert (to, type(again)) == (N3, Queries)
    world.router.leader_established("kv", N2, Term(3))
    assert world.turn() == []
    assert [(a.first_correlation, a.error) for a in world.heard if isinstance(a, ClientFailed)] == [
        (1, "QueryTimeout")
    ]


def test_an_unfounded_suspicion_costs_nothing() -> None:
    """While a leader's node is suspected, commands wait; when it is back they go there."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.router.node_lost("n2")
    assert world.router.leader_of("kv") is None
    world.command(1, b"\x01")
    assert world.turn() == []
    world.router.node_back("n3")
    assert world.turn() == []
    world.router.node_back("n2")
    [(to, _)] = world.turn()
    assert to == N2


def test_a_suspected_leader_that_is_heard_of_again_is_trusted() -> None:
    """The same leader in the same term, named anew, ends the suspicion."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.router.node_lost("n2")
    world.router.leader_hint("kv", N2, Term(1))
    assert world.router.leader_of("kv") == N2


def test_old_news_of_a_leader_is_dropped() -> None:
    """A hint of an earlier term changes nothing."""
    world = World()
    world.router.leader_hint("kv", N3, Term(2))
    world.router.leader_hint("kv", N2, Term(1))
    assert world.router.leader_of("kv") == N3


def test_answers_that_nobody_waits_for_are_dropped() -> None:
    """Late and doubled replies and refusals, of any numbers, reach nobody."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    [(_, message)] = world.turn()
    first = first_of(message)
    world.router.on_replies(first, 1, ["a"], None)
    world.router.on_replies(first, 1, ["a"], None)
    world.router.on_replies(first + 100, 2, msgspec.Raw(b"\x92\x01\x02"), None)
    world.router.on_rejected(first, 1, "not_leader", N3)
    assert world.turn() == []
    assert len(world.heard) == 1


def test_a_batch_cut_on_its_way_is_answered_in_parts() -> None:
    """Low-priority commands are flushed in slices; each slice's answers find their commands."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01", b"\x02", b"\x03")
    [(_, message)] = world.turn()
    first = first_of(message)
    world.router.on_replies(first, 2, ["a", "b"], None)
    world.router.on_rejected(first + 2, 1, "not_leader", N3)
    world.turn()
    parts = [(type(a).__name__, a.first_correlation, a.count) for a in world.heard if not isinstance(a, str)]  # type: ignore[union-attr]
    assert parts == [("ClientReplies", 1, 2), ("ClientFailed", 3, 1)]


def test_too_much_is_refused_at_once() -> None:
    """Beyond the bounds on commands and bytes the answer is `Overloaded`; what waits is kept."""
    for world in (World(commands_max=2), World(bytes_max=600)):
        world.command(1, b"\x01", b"\x02")
        world.command(3, b"\x03" * 10)
        world.router.deliver()
        [answer] = world.heard
        assert isinstance(answer, ClientFailed)
        assert answer.error == "Overloaded"
        world.router.leader_hint("kv", N2, Term(1))
        assert len(world.turn()) == 1


def test_nobody_waits_for_commands_without_a_reply() -> None:
    """A `noreply` command leaves nothing behind once it is sent."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01", mode=ReplyMode.NOREPLY)
    assert len(world.turn()) == 1
    assert world.router.overview()["waiting"] == 0
    world.pass_time(10)
    assert world.heard == []


def test_local_reads_are_answered_here() -> None:
    """By the member on this node, or with the error that there is none."""
    world = World()
    world.query(1, b"\x01", level="local")
    world.session.on_requests([ClientQueries("other", 2, (b"\x01",), "local", 1)])
    world.turn()
    good, bad = world.heard
    assert isinstance(good, ClientReplies)
    assert msgspec.msgpack.decode(good.replies) == ["local"]
    assert isinstance(bad, ClientFailed)
    assert (bad.error, bad.text) == ("UnknownCluster", "not here")


def test_a_closed_session_hears_nothing() -> None:
    """Answers for a client that is gone are dropped."""
    world = World()
    world.router.leader_hint("kv", N2, Term(1))
    world.command(1, b"\x01")
    [(_, message)] = world.turn()
    world.session.on_closed()
    world.router.on_replies(first_of(message), 1, ["a"], None)
    world.turn()
    assert world.heard == []


def test_nonsense_is_a_protocol_error() -> None:
    """No commands, or no reads."""
    world = World()
    with pytest.raises(ProtocolError):
        world.session.on_requests([ClientCommands("kv", 1, 0, b"", ReplyMode.NOTIFY, 1)])
    with pytest.raises(ProtocolError):
        world.query(1)


def test_callers_of_a_deleted_cluster_hear_what_is_true() -> None:
    """What was sent may have happened, what was not did not; a read changed nothing."""
    world = World()
    world.router.leader_established("kv", N2, Term(7), "R1")
    world.command(1, b"\x01")
    world.turn()
    world.query(2, b"q")
    world.turn()
    world.router.leader_lost(N2)
    world.command(3, b"\x03")
    world.turn()
    world.router.cluster_gone("kv", "R2")  # another cluster of that name is none of our business
    world.turn()
    assert world.heard == []
    world.router.cluster_gone("kv", "R1")
    world.turn()
    failures = {a.first_correlation: a.error for a in world.heard if isinstance(a, ClientFailed)}
    assert failures == {1: "OutcomeUnknown", 2: "UnknownCluster", 3: "UnknownCluster"}
    assert world.router.leader_of("kv") is None
    assert world.router.overview()["waiting"] == 0
    assert world.router.next_deadline() is None


def test_what_was_answered_does_not_stay_behind_an_earlier_deadline() -> None:
    """A command that waits for long keeps nothing of those that came after it and are done."""
    world = World()
    world.session.on_requests([ClientCommands("dead", 1, 1, b"\1\0\0\0\1", ReplyMode.AWAIT_CONSENSUS, 1_000)])
    world.router.leader_hint("kv", N2, Term(1))
    for number in range(2, 2_000):
        world.command(number, b"\x01")
        [(_, message)] = world.turn()
        world.router.on_replies(first_of(message), 1, ["ok"], None)
        world.router.deliver()
    assert len(world.router.deadlines) < 600
    assert world.router.next_deadline() == world.now + 1.0
    world.pass_time(1.0)
    assert [a.error for a in world.heard if isinstance(a, ClientFailed)] == ["NoLeader"]


def test_the_terms_of_a_deleted_cluster_say_nothing_about_the_next() -> None:
    """A new cluster of the same name starts at term 1 and is heard; what its predecessor left is unknown."""
    world = World()
    world.router.leader_established("kv", N2, Term(7), "R1")
    world.command(1, b"\x01")
    world.turn()
    world.router.leader_hint("kv", N3, Term(9), "R2")  # only a hint: a removed member may have sent it
    assert world.router.leader_of("kv") == N2
    world.router.leader_established("kv", N3, Term(1), "R2")
    assert world.router.leader_of("kv") == N3
    assert (world.router.established_term("kv", "R1"), world.router.established_term("kv", "R2")) == (0, 1)
    world.turn()
    [answer] = world.heard
    assert isinstance(answer, ClientFailed)
    assert answer.error == "OutcomeUnknown"


@pytest.mark.parametrize("size", [COMMAND_BYTES_MAX, COMMAND_BYTES_MAX + 1])
def test_the_router_takes_the_largest_command_and_nothing_larger(size: int) -> None:
    """Callers inside the node's process bypass the client's check, and foreign clients may lack it."""
    world = World(bytes_max=1 << 30)
    world.command(1, bytes(size))
    world.turn()
    refused = [failed.error for failed in world.heard if isinstance(failed, ClientFailed)]
    assert refused == (["InvalidCommand"] if size > COMMAND_BYTES_MAX else [])


def test_a_busy_cluster_sends_one_share_a_turn_and_a_quiet_one_goes_with_it() -> None:
    """However much waits for one cluster, a turn sends about one batch of it; the rest follows in order."""
    world = World(commands_max=100_000)
    quiet = ServerId("quiet", "n2")
    world.router.leader_hint("kv", N2, Term(1))
    world.router.leader_hint("quiet", quiet, Term(1))
    each = BATCH_COMMANDS_MAX // 2
    for number in range(10):
        world.command(number * each, *[b"\x01"] * each)
    columns = struct.pack("<I", 1) + b"\x02"
    world.session.on_requests([ClientCommands("quiet", 99_999, 1, columns, ReplyMode.NOTIFY, 5_000)])
    turns = [world.turn()]
    while world.router.put_off:
        assert not world.router.busy  # the present turn has done its share
        world.router.go_on()
        turns.append(world.turn())
    assert [[(to, m.count) for to, m in sent] for sent in turns] == [  # type: ignore[union-attr]  # commands
        [(N2, 2 * each), (quiet, 1)],
        *[[(N2, 2 * each)]] * 4,
    ]
    firsts = [first_of(sent[0][1]) for sent in turns]
    assert firsts == sorted(firsts)
    assert world.turn() == []
    for sent in turns:
        count = sent[0][1].count  # type: ignore[union-attr]  # commands
        world.router.on_replies(first_of(sent[0][1]), count, [None] * count, None)
    world.turn()
    replied = [answer.first_correlation for answer in world.heard if isinstance(answer, ClientReplies)]
    assert replied == [number * each for number in range(10)]
