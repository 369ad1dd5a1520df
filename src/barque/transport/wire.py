"""The messages inside frames: between nodes, and between clients and nodes.

A frame's payload is one msgpack array of messages; each message is an array that starts with
its tag. Tags below 32 are Raft's (`barque.core.messages`), 32 to 63 are for nodes, from 64 on
for clients. Decoding is closed and typed: an unknown tag or a wrong type is a `ProtocolError`.
Page: docs/protocol/wire.md.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX, BODY_BYTES_MAX, EntryKind, check_body, decode_head
from barque.core.messages import (
    SENDER_OF,
    AppendEntriesReply,
    AppendEntriesRpc,
    AuxCommand,
    Commands,
    DeleteCluster,
    HeartbeatReply,
    HeartbeatRpc,
    InfoReply,
    InfoRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
    PreVoteResult,
    PreVoteRpc,
    Queries,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    TransferLeadership,
    claimed_node,
)
from barque.errors import ProtocolError
from barque.machine.snapshot_module import FACTS_BYTES_MAX
from barque.transport.items import check_items
from barque.transport.node_messages import (
    Alive as Alive,
    ClockIs as ClockIs,
    EndHeard as EndHeard,
    FrontEvent as FrontEvent,
    FrontRejected as FrontRejected,
    FrontReplies as FrontReplies,
    LeaderIs as LeaderIs,
    MachineCode as MachineCode,
    MachinesAre as MachinesAre,
    MemberRemoved as MemberRemoved,
    NodeCall as NodeCall,
    NodeCallReply as NodeCallReply,
    NodeMessage as NodeMessage,
    ProcessIs as ProcessIs,
    ProcessMessage as ProcessMessage,
    RemovalAnswer as RemovalAnswer,
    RemovalAsked as RemovalAsked,
    StateDigest as StateDigest,
    WatchProcess as WatchProcess,
)
from barque.types import TERM_MAX, ServerId, is_valid_name

MESSAGES_MAX = 65_536
"""Messages in one frame. Bounds what small messages cost once they are decoded."""
CORRELATION_MAX = 2**64 - 1
TIMEOUT_MS_MAX = 60 * 60 * 1000
"""Nobody waits longer than an hour: what waits takes memory."""
CALL_BYTES_MAX = BODY_BYTES_MAX
CALL_ITEMS_MAX = 100_000
"""Values in the arguments of one administrative request."""
CLUSTER_BYTES_MAX = 255
"""The longest name of a cluster in a request. The names that clusters may have are shorter."""

# --- between nodes -------------------------------------------------------------------------

PeerMessage: TypeAlias = RemoteMessage | NodeMessage


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message for the server called `to`; for the node itself where `to` is empty.

    What a server says proves which cluster it belongs to and which incarnation of it speaks; both are
    empty for what nodes and fronts say.
    """

    to: str
    message: PeerMessage
    cluster_id: str = ""
    sender_uid: str = ""


# --- between clients and nodes -------------------------------------------------------------


class ClientCommands(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """`count` commands for a cluster, correlated from `first_correlation` on.

    `columns` is what an entry-batch body holds after its head: `count` lengths (u32, little
    endian), then the encoded commands. `timeout_ms` bounds the wait for a leader and the answer.
    """

    cluster: str
    first_correlation: int
    count: int
    columns: bytes
    reply_mode: int  # a `ReplyMode`; the receiver answers another number with an error
    timeout_ms: int
    low_priority: bool = False


class ClientQueries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """Reads. `level` is `local`, `leader` or `consistent`."""

    cluster: str
    first_correlation: int
    payloads: tuple[bytes, ...]
    level: str
    timeout_ms: int


class ClientCall(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """An administrative request, for this node or forwarded by it."""

    correlation: int
    verb: str
    arguments: dict[str, Any]
    timeout_ms: int


class _EncodedCall(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """A `ClientCall` as it arrives: its arguments are counted before they are decoded."""

    correlation: int
    verb: str
    arguments: msgspec.Raw
    timeout_ms: int


class ClientReplies(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """Answers to consecutive correlations. `leader` is a hint: who answered, or leads now."""

    first_correlation: int
    count: int
    replies: msgspec.Raw
    errors: dict[int, str] | None = None
    leader: ServerId | None = None


class ClientFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=68):
    """Consecutive correlations that ended without a reply.

    `error` is a class name of `barque.errors`, and says whether they may have happened.
    """

    first_correlation: int
    count: int
    error: str
    text: str
    leader: ServerId | None = None


class ClientCallReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=69):
    """The answer to a `ClientCall`."""

    correlation: int
    value: Any = None
    error: str | None = None
    text: str = ""


class ClientEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """A machine's message to its clients (`SendMsg`)."""

    cluster: str
    message: msgspec.Raw


ClientRequest: TypeAlias = ClientCommands | ClientQueries | ClientCall
ClientAnswer: TypeAlias = ClientReplies | ClientFailed | ClientCallReply | ClientEvent


# --- codec ---------------------------------------------------------------------------------

_Message = TypeVar("_Message")
_Decoded = TypeVar("_Decoded")
_encoder = msgspec.msgpack.Encoder()
_Bounded = msgspec.Meta(max_length=MESSAGES_MAX)
_envelopes = msgspec.msgpack.Decoder(Annotated[list[Envelope], _Bounded])
_MALFORMED = (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError, MemoryError)
_requests = msgspec.msgpack.Decoder(Annotated[list[ClientCommands | ClientQueries | _EncodedCall], _Bounded])
_arguments = msgspec.msgpack.Decoder(dict[str, Any])
_answers = msgspec.msgpack.Decoder(Annotated[list[ClientAnswer], _Bounded])


def encode_envelopes(envelopes: Sequence[Envelope]) -> bytes:
    """The payload of an `ENVELOPES` frame."""
    return _encoder.encode(envelopes)


SPLICED_BYTES = 32 * 1024
"""A message of this weight is sent in pieces: to copy its entries costs more than more buffers."""
_NO_ENTRIES, _NO_BODY = b"\x90", b"\xc4\x00"  # an empty array, empty bytes

ALIVE = [Envelope("", Alive())]
"""The most frequent message: half of all frames, nearly all of an idle cluster's. Do not change it."""
ALIVE_PAYLOAD = encode_envelopes(ALIVE)


def encode_requests(requests: Sequence[ClientRequest]) -> bytes:
    """The payload of a `REQUESTS` frame."""
    return _encoder.encode(requests)


def encode_answers(answers: Sequence[ClientAnswer]) -> bytes:
    """The payload of an `ANSWERS` frame."""
    return _encoder.encode(answers)


def encode_in_pieces(envelopes: Sequence[Envelope], offset: int) -> list[bytes | bytearray]:
    """The payload of an `ENVELOPES` frame behind `offset` free bytes, in pieces: bodies are not copied.

    Of an AppendEntries everything but the bodies is encoded, and those are put in between: `entries` is its
    last field, and the body that of a batch.
    """
    piece = bytearray(offset)
    pieces: list[bytes | bytearray] = [piece]
    piece += _array_header(len(envelopes))
    for envelope in envelopes:
        rpc = envelope.message
        if type(rpc) is not AppendEntriesRpc or weight(rpc) < SPLICED_BYTES:
            _encoder.encode_into(envelope, piece, -1)
            continue
        bare = msgspec.structs.replace(envelope, message=msgspec.structs.replace(rpc, entries=()))
        encoded = _encoder.encode(bare)
        behind = _encoder.encode(envelope.cluster_id) + _encoder.encode(envelope.sender_uid)
        split = len(encoded) - len(behind) - len(_NO_ENTRIES)
        assert encoded[split:] == _NO_ENTRIES + behind, "`entries` comes last"
        piece += encoded[:split] + _array_header(len(rpc.entries))
        for batch in rpc.entries:
            head = _encoder.encode(msgspec.structs.replace(batch, body=b""))
            assert head.endswith(_NO_BODY), "`body` comes last"
            piece += head[: -len(_NO_BODY)] + b"\xc6" + len(batch.body).to_bytes(4, "big")
            pieces.append(batch.body)
            pieces.append(piece := bytearray())
        piece += behind
    return pieces


def _array_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


encode_into: Callable[[Sequence[Any], bytearray, int], None] = _encoder.encode_into
"""Encode any of the three at an offset of a frame, which becomes as long as it must."""


def decode_envelopes(payload: bytes | memoryview) -> list[Envelope]:
    """Read and check an `ENVELOPES` payload. Raises `ProtocolError` only.

    Nothing of the result refers to a payload that is a view.
    """
    envelopes = _decode(_envelopes, payload)
    if type(payload) is memoryview:
        envelopes = [_without_views(envelope) for envelope in envelopes]
    for envelope in envelopes:
        message = envelope.message
        check = _CHECKS.get(type(message))
        if check is not None:
            check(message)
    return envelopes


def _without_views(envelope: Envelope) -> Envelope:
    """Copy what was decoded as a view; all else was copied by the decoder."""
    message = envelope.message
    match message:
        case FrontReplies():
            message = msgspec.structs.replace(message, replies=message.replies.copy())
        case ProcessMessage() | FrontEvent():
            message = msgspec.structs.replace(message, message=message.message.copy())
        case _:
            return envelope
    return msgspec.structs.replace(envelope, message=message)


def decode_requests(payload: bytes | memoryview) -> list[ClientRequest]:
    """Read and check a `REQUESTS` payload. Raises `ProtocolError` only. Nothing refers to the payload."""
    requests: list[Any] = _decode(_requests, payload)
    for at, request in enumerate(requests):
        if request.__class__ is _EncodedCall:
            requests[at] = _call_of(request)
    return _checked(requests)


def _call_of(call: _EncodedCall) -> ClientCall:
    encoded = memoryview(call.arguments)
    if len(encoded) > CALL_BYTES_MAX:
        raise ProtocolError(f"the arguments of {call.verb[:64]!r} have {len(encoded)} bytes")
    check_items(encoded, CALL_ITEMS_MAX)
    return ClientCall(call.correlation, call.verb, _decode(_arguments, call.arguments), call.timeout_ms)


def decode_answers(payload: bytes) -> list[ClientAnswer]:
    """Read and check an `ANSWERS` payload. Raises `ProtocolError` only."""
    return _checked(_decode(_answers, payload))


def may_come_from(message: PeerMessage, node: str) -> bool:
    """Whether `node` may send this message: it must not claim to come from another node."""
    sender_of = SENDER_OF.get(type(message))
    if sender_of is not None:
        return sender_of(message).node == node
    if type(message) is Commands:
        return decode_head(message.body).origin.node in (node, "")
    claimed = claimed_node(message)
    if claimed is None and message.__class__ is LeaderIs:
        claimed = message.leader.node  # a leader is announced by its own node
    return claimed in (node, None)  # other messages between nodes claim nothing


def weight(message: Any) -> int:
    """The approximate encoded size of a message, in bytes; exact for large messages."""
    kind = type(message)
    if kind is AppendEntriesReply or kind is HeartbeatRpc or kind is HeartbeatReply:
        return 64
    if kind is AppendEntriesRpc:
        size = 128
        for batch in message.entries:
            size += len(batch.body)
        return size
    if kind is Commands:
        return 64 + len(message.body)
    if kind is FrontReplies:
        return 64 + len(memoryview(message.replies))
    if kind is ProcessMessage or kind is FrontEvent:
        return 64 + len(memoryview(message.message))
    if kind is Queries:
        return 128 + sum(map(len, message.payloads))
    return 64


def _decode(
    decoder: "msgspec.msgpack.Decoder[_Decoded]", payload: bytes | memoryview | msgspec.Raw
) -> "_Decoded":
    try:
        return decoder.decode(payload)
    except _MALFORMED as error:
        raise ProtocolError(f"malformed messages: {error}") from error


def _checked(messages: list[_Message]) -> list[_Message]:
    for message in messages:
        check = _CHECKS.get(type(message))
        if check is not None:
            check(message)
    return messages


def _bounds(message: object, *numbers: int) -> None:
    """Terms, indexes and counts: a number out of bounds is an attack or a bug (reliability S16)."""
    bits = 0
    for number in numbers:
        bits |= number
    if bits >> 62 and (min(numbers) < 0 or max(numbers) > TERM_MAX):  # one look at all of them first
        raise ProtocolError(f"{type(message).__name__}: a term or an index is out of bounds")


def _correlated(message: object, first_correlation: int, count: int) -> None:
    if first_correlation < 0 or not 0 <= count <= BATCH_ENTRIES_MAX:
        raise ProtocolError(f"{type(message).__name__}: {count} correlations from {first_correlation} on")
    if first_correlation + count > CORRELATION_MAX:
        raise ProtocolError(f"{type(message).__name__}: correlations run out")


def _check_append_entries(rpc: AppendEntriesRpc) -> None:
    """Consecutive batches that start behind `prev`, of terms that never fall."""
    index, term = rpc.prev_log_index, rpc.prev_log_term
    _bounds(rpc, rpc.term, rpc.leader_commit, index, term)
    for batch in rpc.entries:
        if batch.first_index != index + 1 or not term <= batch.term <= rpc.term:
            raise ProtocolError(
                f"AppendEntriesRpc: a batch at ({batch.first_index}, {batch.term}) "
                f"does not follow ({index}, {term})"
            )
        if not 0 <= batch.timestamp_ms <= TERM_MAX:
            raise ProtocolError("AppendEntriesRpc: timestamp is out of bounds")
        check_body(batch.body, batch.count)
        index, term = batch.last_index, batch.term
    if index > TERM_MAX:
        raise ProtocolError("AppendEntriesRpc: indexes run out")


def _check_append_entries_reply(reply: AppendEntriesReply) -> None:
    """One look at all bits first: this is the most frequent message of all."""
    indexes = reply.next_index | reply.last_index | reply.commit_index
    if (reply.term | reply.last_term | indexes) >> 62:
        _bounds(reply, reply.term, reply.next_index, reply.last_index, reply.last_term, reply.commit_index)


def _check_install_snapshot_result(result: InstallSnapshotResult) -> None:
    position, accepts = result.position, result.accepts
    _bounds(result, result.term, result.request_term, position.index, position.term, result.chunk.number)
    if accepts is not None:
        _bounds(result, accepts.module_version, *accepts.packings)
        if len(accepts.context) > FACTS_BYTES_MAX:
            raise ProtocolError("InstallSnapshotResult: a module's context that is too large")


def _check_install_snapshot(rpc: InstallSnapshotRpc) -> None:
    """Live entries may leave gaps, but never run backwards."""
    position = rpc.meta.position
    meta = rpc.meta
    _bounds(rpc, rpc.term, position.index, position.term, meta.machine_version, meta.machine_time_ms)
    _bounds(rpc, rpc.chunk.number, rpc.packing)
    index = 0
    for batch in rpc.entries:
        if not (index < batch.first_index <= TERM_MAX and 0 <= batch.term <= rpc.term):
            raise ProtocolError("InstallSnapshotRpc: entries that are out of order, or of a later term")
        check_body(batch.body, batch.count)
        index = batch.last_index


def _check_vote(rpc: RequestVoteRpc) -> None:
    _bounds(rpc, rpc.term, rpc.last_log_index, rpc.last_log_term)
    _named(rpc, rpc.candidate_id)


def _named(message: object, server: ServerId) -> None:
    """The server of a vote or of a change is kept on disk."""
    if not (is_valid_name(server.name) and is_valid_name(server.node)):
        raise ProtocolError(f"{type(message).__name__}: no name of a server: {str(server)[:160]!r}")


def _check_join(join: JoinMember) -> None:
    _correlated(join, join.correlation, 0)
    _named(join, join.member)
    _bounds(join, join.target or 0)
    if join.uid is not None and not 1 <= len(join.uid) <= 64:
        raise ProtocolError("JoinMember: a uid has 1 to 64 characters")


def _check_commands(commands: Commands) -> None:
    head = check_body(commands.body, commands.count)
    if head.kind is not EntryKind.USER:
        raise ProtocolError(f"Commands: {head.kind.name} is no user command")
    _correlated(commands, head.first_correlation, commands.count)


def _check_queries(queries: Queries) -> None:
    _bounds(queries, queries.origin.incarnation >> 2)
    _correlated(queries, queries.first_correlation, len(queries.payloads))


def _check_pre_vote(rpc: PreVoteRpc) -> None:
    _bounds(rpc, rpc.version, rpc.machine_version, rpc.term, rpc.last_log_index, rpc.last_log_term)
    _bounds(rpc, rpc.token >> 2)


def _check_replies(message: FrontReplies | ClientReplies) -> None:
    _correlated(message, message.first_correlation, message.count)
    if _array_length(message.replies) != message.count:
        raise ProtocolError(f"{type(message).__name__}: these are not {message.count} replies")
    if message.errors and not all(0 <= at < message.count for at in message.errors):
        raise ProtocolError(f"{type(message).__name__}: an error stands at no reply")


def _array_length(raw: msgspec.Raw) -> int:
    """How many items an encoded msgpack array has; -1 if it is no array."""
    view = memoryview(raw)
    if view[0] & 0xF0 == 0x90:
        return view[0] & 0x0F
    if view[0] == 0xDC:
        return int.from_bytes(view[1:3], "big")
    return int.from_bytes(view[1:5], "big") if view[0] == 0xDD else -1


def _check_process_message(message: ProcessMessage) -> None:
    number = message.to if isinstance(message.to, int) else 0
    _bounds(message, message.incarnation, number)


def _check_member_removed(message: MemberRemoved) -> None:
    if not message.cluster_id:
        raise ProtocolError("MemberRemoved: of which cluster?")


def _check_client_commands(request: ClientCommands) -> None:
    count = request.count
    if not 1 <= count <= BATCH_ENTRIES_MAX or 4 * count > len(request.columns):
        raise ProtocolError(f"ClientCommands: {count} commands in {len(request.columns)} bytes")
    lengths = struct.unpack_from(f"<{count}I", request.columns)
    if 4 * count + sum(lengths) != len(request.columns):
        raise ProtocolError("ClientCommands: lengths and bytes disagree")
    _correlated(request, request.first_correlation, count)
    _check_waiting(request, request.cluster)


def _check_client_queries(request: ClientQueries) -> None:
    _correlated(request, request.first_correlation, len(request.payloads))
    _check_waiting(request, request.cluster)


def _check_client_call(request: ClientCall) -> None:
    _correlated(request, request.correlation, 0)
    _check_waiting(request, request.verb)


def _check_waiting(request: ClientCommands | ClientQueries | ClientCall, name: str) -> None:
    """What a node keeps while a request waits: it ends, and its name is short."""
    if len(name) * 4 > CLUSTER_BYTES_MAX and len(name.encode(errors="replace")) > CLUSTER_BYTES_MAX:
        raise ProtocolError(f"{type(request).__name__}: a name is longer than {CLUSTER_BYTES_MAX} bytes")
    if not 0 <= request.timeout_ms <= TIMEOUT_MS_MAX:
        raise ProtocolError(f"{type(request).__name__}: timeout of {request.timeout_ms} ms is out of bounds")


_CHECKS: dict[type, Callable[[Any], None]] = {
    AppendEntriesRpc: _check_append_entries,
    AppendEntriesReply: _check_append_entries_reply,
    RequestVoteRpc: _check_vote,
    RequestVoteResult: lambda m: _bounds(m, m.term),
    PreVoteRpc: _check_pre_vote,
    PreVoteResult: lambda m: _bounds(m, m.term, m.token >> 2),
    HeartbeatRpc: lambda m: _bounds(m, m.term, m.query_index),
    HeartbeatReply: lambda m: _bounds(m, m.term, m.query_index),
    InstallSnapshotRpc: _check_install_snapshot,
    InstallSnapshotResult: _check_install_snapshot_result,
    InfoRpc: lambda m: _bounds(m, m.term),
    InfoReply: lambda m: _bounds(m, m.term),
    JoinMember: _check_join,
    LeaveMember: lambda m: _correlated(m, m.correlation, 0),
    DeleteCluster: lambda m: _correlated(m, m.correlation, 0),
    AuxCommand: lambda m: _correlated(m, m.correlation, 0),
    Commands: _check_commands,
    Queries: _check_queries,
    TransferLeadership: lambda m: _correlated(m, m.correlation, 0),
    FrontReplies: _check_replies,
    FrontRejected: lambda m: _correlated(m, m.first_correlation, m.count),
    LeaderIs: lambda m: _bounds(m, m.term),
    RemovalAsked: lambda m: _bounds(m, m.since),
    RemovalAnswer: lambda m: _bounds(m, m.index),
    ClockIs: lambda m: _bounds(m, m.wall_ms),
    MemberRemoved: _check_member_removed,
    ProcessMessage: _check_process_message,
    WatchProcess: lambda m: _bounds(m, m.incarnation, m.number),
    ProcessIs: lambda m: _bounds(m, m.incarnation, m.number),
    EndHeard: lambda m: _bounds(m, m.incarnation, m.number),
    NodeCall: lambda m: _correlated(m, m.correlation, 0),
    NodeCallReply: lambda m: _correlated(m, m.correlation, 0),
    ClientCommands: _check_client_commands,
    ClientQueries: _check_client_queries,
    ClientCall: _check_client_call,
    ClientReplies: _check_replies,
    ClientFailed: lambda m: _correlated(m, m.first_correlation, m.count),
    ClientCallReply: lambda m: _correlated(m, m.correlation, 0),
}
"""Checks beyond the types. A message that is not here has none."""
