"""Who may send what: every message of the wire and every verb, with each role, over real sockets."""

import asyncio
from collections.abc import Callable
from typing import Any, get_args

import pytest
from tests.transport.samples import ANSWERS, PEER_MESSAGES, REQUESTS
from tests.transport.support import Recorder, until
from tests.transport.test_tcp import make

from barque.config import NodeConfig
from barque.core.messages import RemoteMessage
from barque.errors import Refused, Unauthenticated
from barque.transport import wire
from barque.transport.authorization import MESSAGES, VERBS, Role, forbids
from barque.transport.client_link import ClientLink
from barque.transport.connection import split_address
from barque.transport.credentials import Credentials
from barque.transport.framing import HEADER, FrameKind, encode_frame
from barque.transport.handshake import DialerHandshake, Established
from barque.transport.secret import Secrets

Run = Callable[..., Any]
SECRETS = {
    Role.NODE: b"the secret of nodes",
    Role.ADMIN: b"the secret of administrators",
    Role.CLIENT: b"the secret of clients",
}
THREE = Credentials(
    NodeConfig(
        name="n1",
        data_dir="",
        nodes={},
        secret=SECRETS[Role.NODE].decode(),
        admin_secret=SECRETS[Role.ADMIN].decode(),
        client_secret=SECRETS[Role.CLIENT].decode(),
    )
)
WIRE_MESSAGES = {*get_args(RemoteMessage), *get_args(wire.NodeMessage)}
"""What nodes say to each other."""


async def shake(address: str, role: Role, secret: bytes, name: str = "") -> tuple[Any, Any, Established]:
    """A connection of this role by hand. Raises `Unauthenticated` with the node's text."""
    reader, writer = await asyncio.open_connection(*split_address(address, "test"))
    side = DialerHandshake(
        role=role, name=name, expected="n1", cluster="test", incarnation=1, secret=secret, nonce=bytes(32)
    )
    writer.write(side.start())
    try:
        while True:
            length, _, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
            step = side.receive(FrameKind(kind), await reader.readexactly(length))
            writer.write(step.send)
            if step.established:
                return reader, writer, step.established
    except BaseException:
        writer.close()
        raise


def test_sec8_the_table_is_total() -> None:
    """Every message of the wire has a row, and nothing else has."""
    spoken = {*WIRE_MESSAGES, *get_args(wire.ClientRequest), *get_args(wire.ClientAnswer)}
    assert set(MESSAGES) == spoken
    assert all(MESSAGES[kind] is Role.NODE for kind in WIRE_MESSAGES)


def test_a_message_without_a_row_is_for_nobody_but_nodes() -> None:
    """A new message or verb is closed until somebody opens it."""

    class New:
        pass

    assert forbids(Role.ADMIN, New()) is not None
    assert forbids(Role.ADMIN, wire.ClientCall(1, "new", {}, 1)) is not None


@pytest.mark.parametrize("held", list(Role))
def test_sec8_each_secret_grants_its_role(run: Run, held: Role) -> None:
    """A dialer gets the role that its secret grants, whatever it claims; a node must prove a node's."""

    async def main() -> None:
        n1 = make("n1", Recorder(), credentials=THREE)
        await n1.start()
        for claimed in (Role.CLIENT, Role.ADMIN):
            _, writer, end = await shake(n1.address, claimed, SECRETS[held])
            assert end.role is min(claimed, held)
            writer.close()
        if held is Role.NODE:
            _, writer, end = await shake(n1.address, Role.NODE, SECRETS[held], "n2")
            assert end.role is Role.NODE
            writer.close()
        else:
            with pytest.raises(Unauthenticated, match=f"a secret of {held.name.lower()}s"):
                await shake(n1.address, Role.NODE, SECRETS[held], "n2")
        await n1.stop()

    run(main)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.ADMIN])
def test_sec8_no_client_speaks_as_a_node(run: Run, role: Role) -> None:
    """Each message between nodes on a client's connection ends it, is counted, and reaches nobody."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, credentials=THREE)
        await n1.start()
        assert {type(message) for message in PEER_MESSAGES} == WIRE_MESSAGES
        for number, message in enumerate(PEER_MESSAGES, start=1):
            reader, writer, _ = await shake(n1.address, role, SECRETS[role])
            payload = wire.encode_envelopes([wire.Envelope("s", message)])
            writer.write(encode_frame(FrameKind.ENVELOPES, payload))
            said = await reader.read()
            assert b"needs the role node" in said, type(message)
            assert n1.counters.forbidden_messages == number
            writer.close()
        assert not recorder.received
        await n1.stop()

    run(main)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.ADMIN])
def test_sec8_a_message_of_nodes_hides_in_no_other_frame(run: Run, role: Role) -> None:
    """A frame of requests holds requests only: anything else ends the connection and reaches nobody."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, credentials=THREE)
        await n1.start()
        for message in [*PEER_MESSAGES, *ANSWERS]:
            reader, writer, _ = await shake(n1.address, role, SECRETS[role])
            writer.write(encode_frame(FrameKind.REQUESTS, wire.encode_requests([message])))  # type: ignore[list-item]
            assert await reader.read() == b""
            writer.close()
        await until(lambda: all(sink.closed for sink in recorder.sinks))
        assert not recorder.received
        assert not any(sink.requests for sink in recorder.sinks)
        await n1.stop()

    run(main)


def test_a_node_makes_no_requests_of_clients(run: Run) -> None:
    """Frames of requests and answers are not for nodes to send to each other."""

    async def main() -> None:
        recorder = Recorder()
        n1 = make("n1", recorder, credentials=THREE)
        await n1.start()
        for kind, payload in (
            (FrameKind.REQUESTS, wire.encode_requests(REQUESTS)),
            (FrameKind.ANSWERS, wire.encode_answers(ANSWERS)),
        ):
            reader, writer, _ = await shake(n1.address, Role.NODE, SECRETS[Role.NODE], "n2")
            writer.write(encode_frame(kind, payload))
            assert await reader.read() == b""
            writer.close()
        assert not recorder.sinks
        await n1.stop()

    run(main)


def test_sec8_a_node_of_an_unknown_name_is_refused(run: Run) -> None:
    """The secret of nodes is not enough: the name must be among the nodes, and the text says where."""

    async def main() -> None:
        n1 = make(
            "n1", Recorder(), credentials=THREE, knows_node=lambda _: False, peers={"n2": "127.0.0.1:1"}
        )
        await n1.start()
        _, writer, _ = await shake(n1.address, Role.NODE, SECRETS[Role.NODE], "n2")
        writer.close()
        with pytest.raises(Unauthenticated, match=r"'n3' is not among the nodes of .*add it to \[nodes\]"):
            await shake(n1.address, Role.NODE, SECRETS[Role.NODE], "n3")
        assert n1.counters.handshakes_refused == 1
        await n1.stop()

    run(main)


def test_a_client_is_told_its_role(run: Run) -> None:
    """The welcome names the role, and nobody can change it on its way."""

    async def main() -> None:
        n1 = make("n1", Recorder(), credentials=THREE)
        await n1.start()
        for held, granted in ((Role.CLIENT, Role.CLIENT), (Role.ADMIN, Role.ADMIN), (Role.NODE, Role.ADMIN)):
            link = await ClientLink.connect(
                n1.address, "test", SECRETS[held], on_answers=lambda _: None, on_closed=lambda _: None
            )
            assert link.role is granted
            link.close()
        await n1.stop()

    run(main)


def test_forbidden_is_a_refusal_that_names_both_roles() -> None:
    """A caller learns what it has, what it needs, and that nothing happened."""
    for verb, needed in VERBS.items():
        for held in (Role.CLIENT, Role.ADMIN):
            error = forbids(held, wire.ClientCall(1, verb, {}, 1))
            assert (error is None) == (held >= needed)
            if error is not None:
                assert isinstance(error, Refused)
                assert repr(verb) in str(error)
                assert f"role {needed.name.lower()}" in str(error)
                assert f"has {held.name.lower()}" in str(error)


def test_no_secret_is_shown() -> None:
    """Neither a set of secrets nor a configuration's error shows one."""
    assert "secret of" not in repr(Secrets(tuple(SECRETS.values())))


def test_sec8_a_node_speaks_in_its_own_name_only(run: Run) -> None:
    """Every message that names its sender, a client's origin or a leader is dropped from another node.

    The samples all come from n1. The kinds that name nobody are listed: a new one has to be thought about.
    """
    nameless = {wire.Alive, wire.FrontReplies, wire.FrontRejected, wire.NodeCall, wire.NodeCallReply}
    nameless |= {wire.FrontEvent, wire.MemberRemoved, wire.RemovalAsked, wire.RemovalAnswer}
    nameless |= {wire.ClockIs, wire.MachinesAre, wire.StateDigest}
    nameless |= {wire.ProcessMessage, wire.WatchProcess, wire.ProcessIs, wire.EndHeard}
    forged = [message for message in PEER_MESSAGES if type(message) not in nameless]
    assert {type(message) for message in forged} == WIRE_MESSAGES - nameless

    async def main() -> None:
        recorder = Recorder()
        n3 = make("n3", recorder, credentials=THREE)
        await n3.start()
        host, port = split_address(n3.address, "test")
        for name, heard in (("n2", 0), ("n1", len(forged))):
            reader, writer = await asyncio.open_connection(host, port)
            side = DialerHandshake(
                role=Role.NODE,
                name=name,
                expected="n3",
                cluster="test",
                incarnation=1,
                secret=SECRETS[Role.NODE],
                nonce=bytes(32),
            )
            writer.write(side.start())
            step = None
            while step is None or not step.established:
                length, _, kind, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
                step = side.receive(FrameKind(kind), await reader.readexactly(length))
                writer.write(step.send)
            for message in [*forged, wire.Alive()]:
                payload = wire.encode_envelopes([wire.Envelope("s", message)])
                writer.write(encode_frame(FrameKind.ENVELOPES, payload))
            await until(lambda: recorder.received and recorder.received[-1][1].message == wire.Alive())
            assert len(recorder.received) == heard + 1, name
            recorder.received.clear()
            writer.close()
        assert n3.counters.forged_messages == len(forged)
        await n3.stop()

    run(main)
