"""Messages and effects of the core, each on one line: what transcripts show (`scenarios`).

The functions for one family of messages or effects return an empty line for all others.
"""

import msgspec

from barque.core.effects import (
    Applied,
    AuxEval,
    CancelElectionTimeout,
    Defer,
    Effect,
    LeaderEstablished,
    MembersGone,
    NextEvent,
    PersistTermAndVote,
    Rejected,
    SendRpc,
    SendSnapshot,
    SendVoteRequests,
    SnapshotAcked,
    StartConditionTimeout,
    StartElectionTimeout,
    StartQuorumTimeout,
    StartReceiveTimeout,
    StopServer,
    Unresolved,
)
from barque.core.entries import EntryBatch
from barque.core.log_contract import ChunkState
from barque.core.messages import (
    AcceptFailed,
    AppendEntriesReply,
    AppendEntriesRpc,
    Commands,
    DeleteCluster,
    ForceMemberChange,
    HeartbeatReply,
    HeartbeatRpc,
    InfoReply,
    InfoRpc,
    InstallSnapshotResult,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
    Message,
    NodeStatus,
    PreVoteResult,
    PreVoteRpc,
    Queries,
    RemoteMessage,
    RequestVoteResult,
    RequestVoteRpc,
    SnapshotAccepted,
    SnapshotFailed,
    SnapshotWritten,
    TimeoutNow,
    TransferLeadership,
    Written,
)
from barque.machine.effects import ReleaseCursor
from barque.types import ServerId

Envelope = tuple[ServerId, ServerId, RemoteMessage]


def envelope_in_words(envelope: Envelope) -> str:
    """A message with the link that it is on."""
    sender, to, message = envelope
    return f"{sender.name}->{to.name} {in_words(message)}"


def _chunk(chunk: ChunkState) -> str:
    return f"{chunk.flag.name.lower()} {chunk.number}"


def _span(first: int, last: int, term: int) -> str:
    return f"{first}.{term}" if first == last else f"{first}-{last}.{term}"


def _batch(batch: EntryBatch) -> str:
    return _span(batch.first_index, batch.last_index, batch.term)


def in_words(message: Message) -> str:
    """A message on one line; the name of its sender stands first, if the message has it."""
    for words in (_replication, _election, _snapshot, _information, _request, _news):
        line = words(message)
        if line:
            return f"{type(message).__name__}{line}"
    if isinstance(message, DeleteCluster | ForceMemberChange):
        return type(message).__name__
    details = [str(getattr(message, field)) for field in message.__struct_fields__]
    return f"{type(message).__name__} {' '.join(details)}".rstrip()


def _from(sender: ServerId, term: int) -> str:
    return f" of {sender.name} in term {term}"


def _replication(message: Message) -> str:
    """Entries, heartbeats and their replies; empty for any other message, like the functions below."""
    match message:
        case AppendEntriesRpc():
            entries = " ".join(map(_batch, message.entries)) or "no entries"
            after = f"after {message.prev_log_index}.{message.prev_log_term} {entries}"
            return f"{_from(message.leader_id, message.term)}: {after}, commit {message.leader_commit}"
        case AppendEntriesReply():
            result = "yes" if message.success else "no"
            has = f"has {message.last_index}.{message.last_term}, next {message.next_index}"
            return f"{_from(message.sender, message.term)}: {result}, {has}"
        case HeartbeatRpc():
            return f"{_from(message.leader_id, message.term)}: query {message.query_index}"
        case HeartbeatReply():
            return f"{_from(message.sender, message.term)}: query {message.query_index}"
    return ""


def _election(message: Message) -> str:
    """Requests for votes and pre-votes, their results, and the order to campaign."""
    match message:
        case RequestVoteRpc():
            log = f"log {message.last_log_index}.{message.last_log_term}"
            return f"{_from(message.candidate_id, message.term)}: {log}"
        case PreVoteRpc():
            log = f"log {message.last_log_index}.{message.last_log_term}"
            versions = f"round {message.token}, machine version {message.machine_version}"
            return f"{_from(message.candidate_id, message.term)}: {log}, {versions}"
        case RequestVoteResult():
            return f"{_from(message.sender, message.term)}: {'yes' if message.vote_granted else 'no'}"
        case PreVoteResult():
            vote = "yes" if message.vote_granted else "no"
            return f"{_from(message.sender, message.term)}: {vote}, round {message.token}"
        case TimeoutNow():
            return f" of {message.leader_id.name}"
    return ""


def _snapshot(message: Message) -> str:
    """Chunks of snapshots, and what is on the disk."""
    match message:
        case InstallSnapshotRpc():
            what = f"up to {message.meta.position.index}.{message.meta.position.term}"
            return f"{_from(message.leader_id, message.term)}: {what}, {_chunk(message.chunk)}"
        case InstallSnapshotResult():
            outcome = message.outcome.name.lower()
            return f"{_from(message.sender, message.term)}: {_chunk(message.chunk)} {outcome}"
        case SnapshotWritten() | SnapshotFailed():
            return f" {message.kind.value} {message.position.index}.{message.position.term}"
        case SnapshotAccepted() | AcceptFailed():
            return f" {message.position.index}.{message.position.term}"
        case Written():
            return f" {_span(message.first, message.last, message.term)}"
    return ""


def _information(message: Message) -> str:
    """Questions between servers about themselves, and the answers."""
    match message:
        case InfoRpc():
            return f"{_from(message.sender, message.term)}: {' '.join(message.keys)}"
        case InfoReply():
            told = " ".join(f"{key}={value}" for key, value in message.info.items()) or "nothing"
            return f"{_from(message.sender, message.term)}: {told}"
    return ""


def _request(message: Message) -> str:
    """Requests of clients and operators."""
    match message:
        case Commands():
            return f": {message.count}{', low priority' if message.low_priority else ''}"
        case Queries():
            return f": {len(message.payloads)}, {'consistent' if message.consistent else 'local'}"
        case TransferLeadership():
            return f" to {message.target.name}"
        case JoinMember():
            return f" {message.member.name} as {message.membership}"
        case LeaveMember():
            return f" {message.member.name}"
    return ""


def _news(message: Message) -> str:
    """News from the failure detector."""
    match message:
        case NodeStatus():
            return f" {message.node} {'up' if message.up else 'down'}"
    return ""


_SILENT = (
    StartReceiveTimeout,
    SnapshotAcked,
    ReleaseCursor,
    CancelElectionTimeout,
    AuxEval,
    NextEvent,
    Defer,
)
"""Effects that a transcript does not show."""


def effect_in_words(effect: Effect) -> str:
    """An effect on one line; empty for effects that a transcript does not show."""
    if isinstance(effect, _SILENT) or (isinstance(effect, SendVoteRequests) and not effect.requests):
        return ""
    for words in (_answering, _sending, _timing, _keeping):
        line = words(effect)
        if line:
            return line
    return f"machine wants {msgspec.to_builtins(effect)}"


def _answering(effect: Effect) -> str:
    """Answers to clients; empty for any other effect, like the functions below."""
    match effect:
        case Applied():
            replies = ", ".join(map(str, effect.replies))
            errors = f" errors {effect.errors}" if effect.errors else ""
            return f"answers {_numbers(effect.first_correlation, len(effect.replies))}: {replies}{errors}"
        case Rejected():
            leader = f", ask {effect.leader.name}" if effect.leader else ""
            return f"refuses {_numbers(effect.first_correlation, effect.count)}: {effect.reason}{leader}"
        case Unresolved():
            return f"does not know about {_numbers(effect.first_correlation, effect.count)}"
    return ""


def _sending(effect: Effect) -> str:
    """Messages to other servers and to their nodes."""
    match effect:
        case SendRpc():
            return f"to {effect.to.name}: {in_words(effect.message)}"
        case SendVoteRequests():
            names = " ".join(to.name for to, _ in effect.requests)
            return f"to {names}: {in_words(effect.requests[0][1])}"
        case SendSnapshot():
            return f"begins to send {effect.to.name} its snapshot"
        case MembersGone():
            return f"says that {' '.join(i.name for i, _ in effect.members)} may stop"
    return ""


def _timing(effect: Effect) -> str:
    """Timers that start and stop."""
    match effect:
        case StartElectionTimeout():
            return f"starts its election timer ({effect.span.value})"
        case StartConditionTimeout():
            return f"waits at most {effect.after_ms} ms"
        case StartQuorumTimeout():
            return "awaits signs of a majority"
    return ""


def _keeping(effect: Effect) -> str:
    """What a server stores, and how its leadership begins and its life ends."""
    match effect:
        case PersistTermAndVote():
            vote = effect.voted_for.name if effect.voted_for else "nobody"
            return f"stores term {effect.term}, vote for {vote}"
        case LeaderEstablished():
            return f"is established in term {effect.term}"
        case StopServer():
            return f"stops: {effect.reason.value}"
    return ""


def _numbers(first: int, count: int) -> str:
    return f"#{first}" if count == 1 else f"#{first}-{first + count - 1}"
