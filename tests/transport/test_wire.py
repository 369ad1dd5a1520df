"""`barque.transport.wire`: closed, typed, checked; nothing but `ProtocolError` comes out of bad bytes."""

import contextlib
import random
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from tests.transport import samples

from barque.core.entries import EntryBatch, encode_body
from barque.core.messages import (
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    JoinMember,
    RemoteMessage,
    RequestVoteRpc,
    claimed_node,
)
from barque.errors import ProtocolError
from barque.transport import wire
from barque.transport.wire import Alive, Envelope
from barque.types import TERM_MAX, ClientRef, Index, ReplyMode, ServerId, Term, Uid

GOLDEN = {
    1: "91 94 a1 74 97 01 03 92 a1 73 a2 6e 31 03 03 02 92 95 04 02 02 cd 03 e8",
    2: "91 94 a1 74 98 02 92 a1 73 a2 6e 31 03 c3 07 06 03 05 a2 63 31 a3 4b 56 31",
    3: "91 94 a1 74 96 03 03 92 a1 73 a2 6e 31 06 02 c3 a2 63 31 a3 4b 56 31",
    5: "91 94 a1 74 99 05 01 00 03 4d 92 a1 73 a2 6e 31 06 02 c2 a2 63 31 a3 4b 56 31",
    9: "91 94 a1 74 98 09 03 92 a1 73 a2 6e 31 95 92 06 02 91 94 92 a1 73 a2 6e 31 a2 53 31",
    10: "91 94 a1 74 98 0a 92 a1 73 a2 6e 31 03 03 92 06 02 92 03 03 02",
    16: "9194a174991093a26e310500090292a173a26e31a25331aa70726f",
    20: "91 94 a1 74 95 14 92 a1 73 a2 6e 31 03 92 af 6d 61 63",
    32: "91 94 a1 74 91 20 a2 63 31 a3 4b 56 31",
    35: "91 94 a1 74 96 23 a2 6b 76 92 a1 73 a2 6e 31 03 a2 63 31 91 a3 4b 56 31",
    39: "91 94 a1 74 93 27 a2 63 31 a3 4b 56 31",
    45: "91 94 a1 74 95 2d 03 05 a2 6b 76 a2 6f 6b",
    46: "91 94 a1 74 93 2e 05 03",
    47: "91 94 a1 74 94 2f 05 03 a6 6e 6f 72 6d 61 6c",
    48: "91 94 a1 74 93 30 05 03",
}
GOLDEN_ENDS = {9: "02", 10: "94 92 01 02 a5 66 69 6c 65 73 03 c4 01 80"}


def plain(value: Any) -> Any:
    """A value with raw parts made comparable."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


@pytest.mark.parametrize("message", samples.PEER_MESSAGES, ids=lambda m: type(m).__name__)
def test_every_peer_message_travels(message: wire.PeerMessage) -> None:
    """What is encoded comes back as the same class with the same fields."""
    (envelope,) = wire.decode_envelopes(wire.encode_envelopes([Envelope("t", message, "c1", "KV1")]))
    assert (envelope.to, envelope.cluster_id, envelope.sender_uid) == ("t", "c1", "KV1")
    assert type(envelope.message) is type(message)
    assert plain(envelope.message) == plain(message)


@pytest.mark.parametrize("message", samples.PEER_MESSAGES, ids=lambda m: type(m).__name__)
def test_every_peer_message_outlives_the_bytes_that_it_came_in(message: wire.PeerMessage) -> None:
    """What is decoded where it has arrived refers to none of those bytes: the next read replaces them."""
    arrived = bytearray(wire.encode_envelopes([Envelope("t", message, "c1", "KV1")]))
    (envelope,) = wire.decode_envelopes(memoryview(arrived))
    arrived[:] = b"\xc1" * len(arrived)
    assert plain(envelope.message) == plain(message)


@pytest.mark.parametrize("message", samples.REQUESTS, ids=lambda m: type(m).__name__)
def test_every_request_outlives_the_bytes_that_it_came_in(message: wire.ClientRequest) -> None:
    """The same for what clients ask."""
    arrived = bytearray(wire.encode_requests([message]))
    requests = wire.decode_requests(memoryview(arrived))
    arrived[:] = b"\xc1" * len(arrived)
    assert requests == [message]


@pytest.mark.parametrize("message", samples.REQUESTS, ids=lambda m: type(m).__name__)
def test_every_request_travels(message: wire.ClientRequest) -> None:
    """What a client encodes is what the node decodes."""
    assert wire.decode_requests(wire.encode_requests([message])) == [message]


@pytest.mark.parametrize("message", samples.ANSWERS, ids=lambda m: type(m).__name__)
def test_every_answer_travels(message: wire.ClientAnswer) -> None:
    """What a node encodes is what the client decodes."""
    (answer,) = wire.decode_answers(wire.encode_answers([message]))
    assert type(answer) is type(message)
    assert plain(answer) == plain(message)


def test_golden_bytes() -> None:
    """Messages are msgpack arrays that begin with their tag."""
    found = {message.__struct_config__.tag: message for message in samples.PEER_MESSAGES}
    for tag, text in GOLDEN.items():
        expected = bytes.fromhex(text)
        assert wire.encode_envelopes([Envelope("t", found[tag], "c1", "KV1")])[: len(expected)] == expected


def test_golden_ends_of_the_messages_of_a_snapshot() -> None:
    """The fields that wire 7 has added stand at the end."""
    found = {message.__struct_config__.tag: message for message in samples.PEER_MESSAGES}
    for tag, text in GOLDEN_ENDS.items():
        expected = bytes.fromhex(text) + bytes.fromhex("a0 a0")
        assert wire.encode_envelopes([Envelope("t", found[tag])])[-len(expected) :] == expected


def test_tags_are_as_documented() -> None:
    """Every message has a sample; tags are 1 to 21 (Raft), 32 to 48 (nodes) and 64 to 70 (clients)."""
    messages = [*samples.PEER_MESSAGES, *samples.REQUESTS, *samples.ANSWERS]
    tags = [message.__struct_config__.tag for message in messages]
    assert tags == [*range(1, 22), *range(32, 49), *range(64, 71)]
    assert {type(m) for m in samples.PEER_MESSAGES} == {*RemoteMessage.__args__, *wire.NodeMessage.__args__}


def rpc(*batches: EntryBatch, prev: int = 3, prev_term: int = 2, term: int = 3) -> AppendEntriesRpc:
    """An AppendEntries from n1 with these batches behind `prev`."""
    return AppendEntriesRpc(Term(term), samples.N1, Index(0), Index(prev), Term(prev_term), batches)


def batch(first: int, term: int = 2, count: int = 2, body: bytes = samples.BODY, at: int = 1) -> EntryBatch:
    """A batch of entries."""
    return EntryBatch(Index(first), Term(term), count, at, body)


BAD_MESSAGES = [
    rpc(batch(5)),  # a gap
    rpc(batch(3)),  # an overlap
    rpc(batch(4), batch(7)),  # a gap inside
    rpc(batch(4, term=1)),  # a term below prev
    rpc(batch(4, term=4)),  # a term above the leader's
    rpc(batch(4, term=3), batch(6, term=2)),  # a term that falls
    rpc(batch(4, count=3)),  # lengths and count disagree
    rpc(batch(4, count=0)),
    rpc(batch(4, count=-1)),
    rpc(batch(4, count=2**40)),
    rpc(batch(4, body=b"")),
    rpc(batch(4, at=-1)),
    rpc(term=TERM_MAX + 1),
    rpc(term=-1),
    rpc(prev=-1),
    rpc(batch(TERM_MAX + 1), prev=TERM_MAX),
    RequestVoteRpc(Term(2**63), samples.N1, Index(0), Term(0)),
    AppendEntriesReply(samples.N1, Term(1), True, Index(1), Index(0), Term(0), Index(2**63)),
    Commands(1, samples.NOOP),  # only user commands may be asked for
    Commands(3, samples.BODY),
    Commands(2, encode_body([b"", b""], first_correlation=2**64 - 1)),
    wire.FrontRejected(5, 9, -1, "not_leader", None),
    wire.FrontRejected(5, 9, 2**40, "not_leader", None),
    wire.FrontReplies(5, 9, 1, msgspec.Raw(b"\x91\x01"), {1: "beyond"}),
    wire.FrontReplies(5, 9, 2, msgspec.Raw(b"\x91\x01"), None),
    wire.MemberRemoved(""),  # of no cluster: it would mean all that do not know theirs
]


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=lambda m: type(m).__name__)
def test_what_types_cannot_say_is_checked(message: wire.PeerMessage) -> None:
    """Gaps, falling terms, numbers out of bounds and counts that lie are refused."""
    with pytest.raises(ProtocolError):
        wire.decode_envelopes(wire.encode_envelopes([Envelope("t", message)]))


@pytest.mark.parametrize(
    "request_",
    [
        wire.ClientCommands("kv", 0, 2, struct.pack("<2I", 1, 3) + b"abc", ReplyMode.NOTIFY, 1),
        wire.ClientCommands("kv", 0, 0, b"", ReplyMode.NOTIFY, 1),
        wire.ClientCommands("kv", 0, 2**20, b"", ReplyMode.NOTIFY, 1),
        wire.ClientCommands("kv", -1, 1, struct.pack("<I", 0), ReplyMode.NOTIFY, 1),
        wire.ClientCommands("kv", 0, 1, struct.pack("<I", 0), ReplyMode.NOTIFY, -1),
        wire.ClientQueries("kv", -1, (), "leader", 1),
        wire.ClientCall(-1, "x", {}, 1),
        wire.ClientCall(1, "x", {}, 2**40),
    ],
    ids=lambda m: type(m).__name__,
)
def test_hostile_requests_are_refused(request_: wire.ClientRequest) -> None:
    """A client's counts and time-outs are checked like a peer's."""
    with pytest.raises(ProtocolError):
        wire.decode_requests(wire.encode_requests([request_]))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc0",
        b"\xdd\xff\xff\xff\xff",  # a list of four thousand million messages
        b"\x91\x92\xa1t\x91\x63",  # tag 99
        b"\x91\x92\xa1t\x95\x03\x03\x03\x06\x02",  # a number where an id belongs
        b"\x91\x92\xa1\xff\x91\x20",  # text that is no UTF-8
        b"\x91\x95\x42\x01\xa1x\x81\xa1a" + b"\x91" * 50_000,  # deeper than any machine's stack
        b"\x91\x92\xa1t\x91\x20\x00",  # bytes behind the end
        b"\xdc\xff\xff" + b"\x92\xa1t\x91\x20" * 65_535 + b"\x92\xa1t\x91\x20",
        b"\xdd\x00\x01\x00\x01" + b"\x92\xa1t\x91\x20" * 65_537,  # too many for one frame
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    """Bad bytes raise `ProtocolError`, and take no memory for what they only announce."""
    for decode in (wire.decode_envelopes, wire.decode_requests, wire.decode_answers):
        with pytest.raises(ProtocolError):
            decode(payload)


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_else(payload: bytes) -> None:
    """No bytes make a decoder raise anything but `ProtocolError`."""
    for decode in (wire.decode_envelopes, wire.decode_requests, wire.decode_answers):
        with contextlib.suppress(ProtocolError):
            decode(payload)


def test_mutated_frames_raise_nothing_else() -> None:
    """Thousands of frames with changed, lost or doubled bytes are decoded or refused."""
    rng = random.Random(7)
    kinds = [
        (wire.decode_envelopes, [wire.encode_envelopes([Envelope("t", m)]) for m in samples.PEER_MESSAGES]),
        (wire.decode_requests, [wire.encode_requests([m]) for m in samples.REQUESTS]),
        (wire.decode_answers, [wire.encode_answers([m]) for m in samples.ANSWERS]),
    ]
    for decode, originals in kinds:
        for _ in range(6000):
            payload = bytearray(rng.choice(originals))
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(payload))
                match rng.randrange(4):
                    case 0:
                        payload[at] = rng.randrange(256)
                    case 1:
                        payload[at] ^= 1 << rng.randrange(8)
                    case 2:
                        del payload[at:]
                        payload += bytes(1)
                    case _:
                        payload[at:at] = payload[max(0, at - 5) : at]
            with contextlib.suppress(ProtocolError):
                decode(bytes(payload))


payloads = st.lists(st.binary(max_size=40), min_size=1, max_size=20)


@given(st.lists(payloads, max_size=5), st.integers(0, TERM_MAX - 1000), st.integers(0, TERM_MAX))
def test_append_entries_round_trip(batches: list[list[bytes]], prev: int, term: int) -> None:
    """Any consecutive batches travel unchanged, up to the bounds of indexes and terms."""
    entries, first = [], prev + 1
    for commands in batches:
        entries.append(EntryBatch(Index(first), Term(term), len(commands), 5, encode_body(commands)))
        first += len(commands)
    message = AppendEntriesRpc(Term(term), samples.N1, Index(prev), Index(prev), Term(term), tuple(entries))
    assert wire.decode_envelopes(wire.encode_envelopes([Envelope("a", message)])) == [Envelope("a", message)]


@pytest.mark.parametrize("message", samples.PEER_MESSAGES[:15], ids=lambda m: type(m).__name__)
def test_a_raft_message_comes_only_from_its_node(message: wire.PeerMessage) -> None:
    """A message that claims to be of n1 may come from n1 alone; commands are checked by their origin."""
    assert claimed_node(message) in ("n1", None)
    assert wire.may_come_from(message, "n1")
    assert not wire.may_come_from(message, "n2")


def test_messages_without_a_claim_may_come_from_anybody() -> None:
    """Node messages claim nothing, and neither do commands for which nobody waits."""
    assert wire.may_come_from(wire.Alive(), "n9")
    assert wire.may_come_from(Commands(1, encode_body([b"x"])), "n9")
    assert not wire.may_come_from(Commands(1, encode_body([b"x"], origin=ClientRef("n1", 1))), "n9")


@pytest.mark.parametrize("message", samples.PEER_MESSAGES, ids=lambda m: type(m).__name__)
def test_weight_covers_what_is_large(message: wire.PeerMessage) -> None:
    """The estimate used to bound output is not below the true size by more than a small message."""
    assert wire.weight(message) + 64 >= len(wire.encode_envelopes([Envelope("t", message)]))


@pytest.mark.parametrize("name", ["../x\0", "", "x" * 65, "x" * 70_000, "a b"])
def test_sec3_names_that_are_kept_on_disk_are_checked(name: str) -> None:
    """A candidate goes into the meta file, a new member into the log: both need proper names."""
    for member in (ServerId(name, "n1"), ServerId("kv", name)):
        join = JoinMember(samples.ASKER, 9, ReplyMode.AWAIT_CONSENSUS, member, Uid("S1"))
        for message in (RequestVoteRpc(Term(1), member, Index(0), Term(0)), join):
            with pytest.raises(ProtocolError, match="no name of a server"):
                wire.decode_envelopes(wire.encode_envelopes([Envelope("kv", message)]))


def test_a_frame_in_pieces_holds_what_a_whole_one_holds() -> None:
    """Bodies stay the objects that they are; small messages stand between them, in their order."""
    bodies = [encode_body([bytes([number]) * size]) for number, size in enumerate((10, 40_000, 70_000))]
    batches, index = [], 7
    for body in bodies:
        batches.append(EntryBatch(Index(index), Term(2), 1, 1_700_000_000_000, body))
        index += 1
    rpc = AppendEntriesRpc(Term(3), ServerId("s", "n1"), Index(5), Index(6), Term(1), tuple(batches))
    envelopes = [
        Envelope(
            "s", AppendEntriesRpc(Term(3), ServerId("s", "n1"), Index(5), Index(6), Term(1)), "id", "uid"
        ),
        Envelope("s", rpc, "id", "uid of the sender"),
        Envelope("", Alive()),
        Envelope("t", msgspec.structs.replace(rpc, entries=tuple(batches[2:]), prev_log_index=Index(8))),
    ]
    pieces = wire.encode_in_pieces(envelopes, 8)
    assert pieces[0][:8] == bytes(8)
    assert [piece for piece in pieces if len(piece) > 30_000] == [bodies[1], bodies[2], bodies[2]]
    assert all(any(piece is body for piece in pieces) for body in bodies)
    assert wire.decode_envelopes(b"".join(pieces)[8:]) == envelopes
