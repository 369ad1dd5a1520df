"""Defects that the simulator has found, each as small as possible."""

import asyncio
from typing import Any

import msgspec

from barque.client.requests import CommandBatch
from barque.core.effects import Rejection
from barque.core.messages import AppendEntriesRpc, RemoteMessage
from barque.core.state import Server
from barque.errors import OutcomeUnknown
from barque.runtime.client_session import ClientSessions, RemoteSession
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.requests import RequestRouter
from barque.testing.sim.host import Host
from barque.testing.sim.simulator import Simulation
from barque.testing.sim.swarm import Scenario
from barque.transport.authorization import Role
from barque.transport.wire import ClientAnswer, ClientCommands, ClientFailed, ClientReplies
from barque.types import ClientRef, Index, ReplyMode, ServerId, Term

CLUSTER = "lists"


class _Clock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 100.0

    def wall_ms(self) -> int:
        return 0


class _World:
    """Takes what a request router sends, and what its client hears."""

    def __init__(self) -> None:
        self.sent: list[RemoteMessage] = []
        self.later: list[float] = []
        self.answers: list[ClientAnswer] = []
        self.peer, self.role, self.unread, self.room = "a test", Role.ADMIN, 0, 1 << 30
        self.router = RequestRouter(
            ClientRef("n1", 1), self, self, _Clock(), commands_max=10, bytes_max=10_000
        )
        self.session = self._open()

    def _open(self) -> RemoteSession:
        async def no_verbs(_verb: str, _arguments: dict[str, Any]) -> Any:
            raise AssertionError

        rpc = NodeRpc(lambda _node, _message: False, no_verbs)
        return ClientSessions(self.router, rpc).open_remote(self)

    def send(self, answers: list[ClientAnswer]) -> bool:
        self.answers += answers
        return True

    def close(self, reason: str) -> None:
        raise AssertionError(reason)

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        self.sent.append(message)
        return True

    def note_invalid_mode(self, cluster: str, count: int) -> None:
        pass

    def why_not_here(self, cluster: str) -> str:
        return ""

    def local_query(self, cluster: str, payload: bytes) -> Any:
        raise AssertionError

    def wake(self) -> None:
        pass

    def wake_later(self, after_s: float) -> None:
        self.later.append(after_s)


def test_a_refused_router_sleeps_until_its_next_attempt() -> None:
    """While a refused command waits to be sent again, the node's turn does not spin.

    The node asked `busy` after each round, heard yes, and ran turns without end for 20 ms.
    """
    world = _World()
    router = world.router
    router.leader_hint("c", ServerId("c", "n2"), Term(1))
    command = ClientCommands("c", 1, 1, b"\1\0\0\0\1", ReplyMode.AWAIT_CONSENSUS, 1_000)
    world.session.on_requests([command])
    router.flush()
    assert len(world.sent) == 1
    router.on_rejected(1, 1, Rejection.NOT_LEADER, None)
    router.flush()
    assert not router.busy
    assert world.later
    assert len(world.sent) == 1


def _sent_commands(count: int) -> tuple[RequestRouter, list[ClientAnswer]]:
    """A router that has sent `count` commands of one session, with correlations from 1 on."""
    world = _World()
    world.router.leader_hint("c", ServerId("c", "n2"), Term(1))
    columns = b"\1\0\0\0" * count + b"\1" * count
    commands = ClientCommands("c", 1, count, columns, ReplyMode.NOTIFY, 1_000, low_priority=True)
    world.session.on_requests([commands])
    world.router.flush()
    return world.router, world.answers


def _outcomes(answers: list[ClientAnswer]) -> list[tuple[int, str]]:
    """Each answered correlation with its outcome, in the order of the correlations."""
    found: list[tuple[int, str]] = []
    for answer in answers:
        if isinstance(answer, ClientReplies):
            replies = msgspec.msgpack.decode(answer.replies)
            found += [(answer.first_correlation + i, str(reply)) for i, reply in enumerate(replies)]
        elif isinstance(answer, ClientFailed):
            found += [(answer.first_correlation + i, answer.error) for i in range(answer.count)]
    return sorted(found)


def test_a_command_is_answered_once_although_two_leaders_answer_it() -> None:
    """The first leader answers some commands; its successor applies and answers all of them."""
    router, answers = _sent_commands(4)
    router.on_replies(2, 1, ["b"], None)
    router.on_replies(1, 4, msgspec.Raw(msgspec.msgpack.encode(["a", "b", "c", "d"])), None)
    router.deliver()
    assert _outcomes(answers) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_hole_in_the_answers_is_unknown_and_nothing_else() -> None:
    """The answers to the first commands are lost with their leader: these commands alone are unknown.

    Answers were only counted, so the wrong commands were called unknown, and others were never answered.
    """
    router, answers = _sent_commands(4)
    router.on_replies(3, 2, ["c", "d"], None)
    router.leader_established("c", ServerId("c", "n3"), Term(2))
    router.deliver()
    unknown = "OutcomeUnknown"
    assert _outcomes(answers) == [(1, unknown), (2, unknown), (3, "c"), (4, "d")]


async def test_a_client_that_loses_its_node_hears_of_every_command() -> None:
    """Only the last commands of a batch were answered: the client fails the first ones."""
    loop = asyncio.get_running_loop()
    batch = CommandBatch("c", loop.time() + 5.0, ReplyMode.AWAIT_CONSENSUS)
    for _ in range(3):
        batch.ask(b"")
    batch.replied(2, ["c"], None)
    batch.replied(2, ["c"], None)
    batch.failed_rest(OutcomeUnknown("lost"))
    assert [type(future.exception()) for future in batch.waiters[:2]] == [OutcomeUnknown, OutcomeUnknown]
    assert batch.waiters[2].result() == "c"


def test_a_late_message_of_a_dead_leader_does_not_end_the_suspicion() -> None:
    """A leader's machine hangs, its followers suspect it, and an old message of it arrives: they still elect.

    The message stopped their election timers, and the failure detector had nothing more to report, so the
    cluster followed a dead leader without end.
    """
    simulation = Simulation(1, Scenario(duration_s=14.0))
    deceived: list[str] = []

    def leaders() -> list[Host]:
        return [host for host in simulation.hosts if host.leads()]

    def hang() -> None:
        (leader,) = leaders()
        assert leader.process is not None
        server = leader.server(CLUSTER)
        assert server is not None
        leader.process.freeze(13.0)
        deceive(server)

    def deceive(hung: Server) -> None:
        old = AppendEntriesRpc(hung.current_term, hung.id, Index(0), Index(0), Term(0), ())
        for host in simulation.hosts:
            assert host.node is not None
            member = host.node.servers.member_of(CLUSTER)
            if host.name not in deceived and (member, "election") in host.node.timers:
                assert host.process is not None
                assert member is not None
                deceived.append(host.name)
                host.process.call(member.handle, old)
        if len(deceived) < 2:
            simulation.loop.later(0.01, deceive, hung)

    def look() -> None:
        assert len(leaders()) == 2, "nobody but the one that hangs leads"

    simulation.loop.later(2.0, hang)
    simulation.loop.later(12.0, look)
    report = simulation.run()
    assert len(deceived) == 2
    assert report.violation is None, str(report)
