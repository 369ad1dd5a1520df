"""What the simulator has found, as small as it could be made."""

from typing import Any

from barque.core.effects import Rejection
from barque.core.messages import RemoteMessage
from barque.runtime.front import Front
from barque.transport.wire import ClientAnswer, ClientCommands
from barque.types import ClientRef, ReplyMode, ServerId, Term


class _Clock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 100.0

    def wall_ms(self) -> int:
        return 0


class _Outside:
    """Takes what the front sends."""

    def __init__(self) -> None:
        self.sent: list[RemoteMessage] = []
        self.later: list[float] = []

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        self.sent.append(message)
        return True

    def local_query(self, cluster: str, payload: bytes) -> Any:
        raise AssertionError

    def wake(self) -> None:
        pass

    def wake_later(self, after_s: float) -> None:
        self.later.append(after_s)


def test_a_refused_front_sleeps_until_its_next_attempt() -> None:
    """While a refused command waits to be sent again, the node's turn does not spin.

    The node asked `busy` after each round, heard yes, and ran turns without end for 20 ms.
    """
    outside = _Outside()
    front = Front(ClientRef("n1", 1), outside, _Clock(), commands_max=10, bytes_max=1_000)
    answers: list[ClientAnswer] = []
    session = front.session(answers.extend)
    front.leader_hint("c", ServerId("c", "n2"), Term(1))
    session.commands(ClientCommands("c", 1, 1, b"\1\0\0\0\1", ReplyMode.AWAIT_CONSENSUS, 1_000))
    front.flush()
    assert len(outside.sent) == 1
    front.on_rejected(1, 1, Rejection.NOT_LEADER, None)
    front.flush()
    assert not front.busy
    assert outside.later
    assert len(outside.sent) == 1
