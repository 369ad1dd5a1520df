"""`barque.transport.handshake`: only who knows the secret, and is who he says, comes in."""

import contextlib
import hmac

import pytest
from hypothesis import given, strategies as st

from barque.errors import ProtocolError, Unauthenticated
from barque.transport import handshake
from barque.transport.authorization import Role
from barque.transport.framing import FrameKind, FrameReader
from barque.transport.handshake import (
    DialerHandshake,
    Established,
    ListenerHandshake,
    decode_challenge,
    decode_hello,
    refusal,
)
from barque.transport.secret import Secrets
from barque.types import is_valid_name

SECRET = b"0123456789abcdef"
ONES, TWOS = b"\x01" * 32, b"\x02" * 32


def dialer(**changes: object) -> DialerHandshake:
    """Node n1, which expects n2."""
    options: dict[str, object] = {
        "role": Role.NODE, "name": "n1", "expected": "n2", "cluster": "c", "incarnation": 7,
        "secret": SECRET, "nonce": ONES,
    }  # fmt: skip
    return DialerHandshake(**(options | changes))  # type: ignore[arg-type]


def listener(**changes: object) -> ListenerHandshake:
    """Node n2."""
    options: dict[str, object] = {
        "name": "n2", "cluster": "c", "incarnation": 8, "secrets": Secrets((SECRET,)), "nonce": TWOS,
        "knows": lambda name: name == "n1",
    }  # fmt: skip
    return ListenerHandshake(**(options | changes))  # type: ignore[arg-type]


def frame(data: bytes) -> tuple[FrameKind, bytes]:
    """The one frame that these bytes are."""
    reader = FrameReader(4096)
    reader.feed(data)
    found = reader.next_frame()
    assert found is not None
    assert reader.pending == 0
    return found.kind, found.payload


def converse(
    one: DialerHandshake, other: ListenerHandshake
) -> tuple[Established | None, Established | None, list[bytes]]:
    """Run both to the end: what the dialer learned, what the listener learned, and all that was said."""
    said = [one.start()]
    challenge = other.receive(*frame(said[0]))
    proof = one.receive(*frame(challenge.send))
    welcome = other.receive(*frame(proof.send))
    end = one.receive(*frame(welcome.send))
    return end.established, welcome.established, [*said, challenge.send, proof.send, welcome.send]


def test_both_sides_learn_who_is_there() -> None:
    """After four frames each side knows the other's name and incarnation."""
    at_dialer, at_listener, _ = converse(dialer(), listener())
    assert at_dialer == Established(Role.NODE, "n2", 8)
    assert at_listener == Established(Role.NODE, "n1", 7)


def test_clients_have_no_name_and_may_expect_any_node() -> None:
    """A client proves only that it knows the secret."""
    at_client, at_listener, _ = converse(dialer(role=Role.CLIENT, name="", expected=""), listener())
    assert at_client == Established(Role.CLIENT, "n2", 8)
    assert at_listener == Established(Role.CLIENT, "", 7)


def test_golden_bytes() -> None:
    """The four frames, byte by byte, as docs/protocol/wire.md draws them."""
    _, _, said = converse(dialer(), listener())
    hello, challenge = said[0][8:], said[1][8:]

    def mac(label: bytes, role: bytes = b"") -> str:
        return hmac.digest(
            SECRET, label + len(hello).to_bytes(4, "little") + hello + challenge + role, "sha256"
        ).hex()

    assert [part.hex() for part in said] == [
        "3700000001010000424152510800030700000000000000" + ONES.hex() + "010202636e316e32",
        "31000000010200004241525108000800000000000000" + TWOS.hex() + "026e32",
        "2000000001030000" + mac(b"barque dialer proof\0"),
        "210000000104000003" + mac(b"barque listener proof\0", b"\x03"),
    ]


def test_the_secret_is_never_said() -> None:
    """Neither the secret nor a part of it travels."""
    _, _, said = converse(dialer(), listener())
    assert not any(SECRET[:4] in part for part in said)


def test_a_wrong_secret_is_refused_by_both() -> None:
    """The listener refuses the dialer's proof; a false listener cannot make a welcome."""
    one, other = dialer(secret=b"another secret here"), listener()
    proof = one.receive(*frame(other.receive(*frame(one.start())).send)).send
    with pytest.raises(Unauthenticated, match=r"secrets of node 'n1' and node 'n2' differ.*same secret file"):
        other.receive(*frame(proof))
    one, impostor = dialer(), listener(secrets=Secrets((b"another secret here",)))
    one.receive(*frame(impostor.receive(*frame(one.start())).send))
    with pytest.raises(Unauthenticated, match="secrets"):
        one.receive(FrameKind.WELCOME, b"\x03" + bytes(32))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cluster": "d"}, "cluster names differ: node 'n1' belongs to 'd', node 'n2' to 'c'; set the same"),
        ({"expected": "n3"}, "expected node 'n3' at this address, but node 'n2' answers there; correct"),
        ({"name": "n2"}, "two nodes are called 'n2'"),
    ],
)
def test_the_listener_says_what_differs(changes: dict[str, object], text: str) -> None:
    """Another cluster, another node and a doubled name are refused with cause and cure."""
    with pytest.raises(Unauthenticated, match=text):
        listener().receive(*frame(dialer(**changes).start()))


def test_the_dialer_checks_the_node_itself() -> None:
    """A listener that says it is another node than expected gets no proof."""
    with pytest.raises(Unauthenticated, match=r"expected node 'n2'.*'n3' answers"):
        dialer().receive(*frame(listener(name="n3").receive(*frame(dialer(expected="n3").start())).send))


def test_versions_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either side refuses another version, whatever the rest of that version's frame looks like."""
    ours, theirs = dialer(), listener()
    challenge = bytearray(theirs.receive(*frame(ours.start())).send)
    challenge[12] = 9
    with pytest.raises(Unauthenticated, match="versions differ: node 'n1' speaks 8, the listener speaks 9"):
        ours.receive(*frame(bytes(challenge)[:14] + challenge[14:]))
    with pytest.raises(Unauthenticated, match="the dialer speaks 9, node 'n2' speaks 8; upgrade"):
        listener().receive(FrameKind.HELLO, b"BARQ\x09\x00 and then something new")


def test_a_replayed_conversation_fails() -> None:
    """What was said to a listener once is worth nothing later: its nonce is fresh."""
    _, _, said = converse(dialer(), listener())
    later = listener(nonce=b"\x03" * 32)
    later.receive(*frame(said[0]))
    with pytest.raises(Unauthenticated):
        later.receive(*frame(said[2]))
    again = dialer(nonce=b"\x04" * 32)
    again.start()
    again.receive(*frame(said[1]))
    with pytest.raises(Unauthenticated):
        again.receive(*frame(said[3]))


def test_reflected_proofs_fail() -> None:
    """A dialer's own proof is no welcome, and a node does not take its own hello for another's."""
    one = dialer()
    proof = one.receive(*frame(listener().receive(*frame(one.start())).send)).send
    with pytest.raises(Unauthenticated):
        one.receive(FrameKind.WELCOME, frame(proof)[1])
    with pytest.raises(Unauthenticated):
        listener(name="n1").receive(*frame(dialer().start()))


@pytest.mark.parametrize("position", range(8, 63))
def test_every_byte_of_the_hello_is_bound(position: int) -> None:
    """A hello changed under way is refused at once, or at the proof: role, names, nonce, incarnation."""
    one, other = dialer(), listener()
    hello = bytearray(one.start())
    hello[position] ^= 1
    with pytest.raises((Unauthenticated, ProtocolError)):
        other.receive(*frame(one.receive(*frame(other.receive(*frame(bytes(hello))).send)).send))


@pytest.mark.parametrize("position", range(8, 57))
def test_every_byte_of_the_challenge_is_bound(position: int) -> None:
    """A challenge changed under way is refused by one side or the other."""
    one, other = dialer(expected=""), listener()
    challenge = bytearray(other.receive(*frame(one.start())).send)
    challenge[position] ^= 1
    with pytest.raises((Unauthenticated, ProtocolError)):
        other.receive(*frame(one.receive(*frame(bytes(challenge))).send))


def test_frames_out_of_turn_are_refused() -> None:
    """Each side takes exactly the frame that is due, and no messages before the end."""
    for kind in (FrameKind.PROOF, FrameKind.CHALLENGE, FrameKind.WELCOME, FrameKind.ENVELOPES):
        with pytest.raises(ProtocolError):
            listener().receive(kind, b"")
    for kind in (FrameKind.WELCOME, FrameKind.HELLO, FrameKind.ANSWERS):
        with pytest.raises(ProtocolError):
            dialer().receive(kind, b"")
    other = listener()
    other.receive(*frame(dialer().start()))
    with pytest.raises(ProtocolError, match="out of turn"):
        other.receive(*frame(dialer().start()))


def test_refusals_are_printed_safely() -> None:
    """The other side's text is cut and stripped of control characters before it meets a log."""
    kind, payload = frame(refusal("no\x1b[31m\n" + "x" * 5000))
    with pytest.raises(Unauthenticated) as caught:
        dialer().receive(kind, payload)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a" * 65, "-a", "a\n", "a@b"])
def test_hostile_names_are_no_names(name: str) -> None:
    """A node's name is made of few characters, so that it is safe in logs and ids."""
    assert not is_valid_name(name)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(payload: bytes) -> None:
    """A decoder of strangers' bytes raises `ProtocolError` and nothing else."""
    for decode in (decode_hello, decode_challenge):
        for candidate in (payload, handshake._MAGIC + b"\x01\x00" + payload):
            with contextlib.suppress(ProtocolError):
                decode(candidate)


@given(st.sampled_from(FrameKind), st.binary(max_size=120))
def test_a_listener_survives_anything(kind: FrameKind, payload: bytes) -> None:
    """Whatever an unknown client sends first, the listener answers, refuses or gives up the protocol."""
    with contextlib.suppress(ProtocolError, Unauthenticated):
        listener().receive(kind, payload)
