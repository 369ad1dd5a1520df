"""Applying committed entries to the machine, a batch at a time (§3.5; COMMIT-05).

A batch is decoded once, here. The answers to all its entries leave in one effect. What a
follower's machine asks for is returned as well; the performer does it only on a leader.
"""

from collections.abc import Callable
from itertools import pairwise
from operator import attrgetter
from typing import Any, assert_never, get_args

import msgspec

from barque.core.captures import capture_effect, note_time
from barque.core.configuration import apply_cluster_change
from barque.core.effects import Applied, Defer, Effect, LeaderEstablished
from barque.core.entries import (
    BodyHead,
    EntryBatch,
    EntryKind,
    decode_head,
    payloads_of,
)
from barque.core.events import ApplyRest
from barque.core.log_contract import read_batches
from barque.core.roles import LeaderRole
from barque.core.state import RaftState, Server
from barque.core.user_commands import decode_commands, take_decoded
from barque.errors import MachineFault
from barque.machine.effects import (
    LATER,
    Append,
    Checkpoint,
    MachineEffect,
    ModCall,
    ReleaseCursor,
    SendMsg,
    Timer,
    TryAppend,
)
from barque.machine.machine import ApplyMany, Builtin, CommandMeta, MachineVersion, RunMeta
from barque.types import NOBODY, Index, ReplyMode

RUN_COMMANDS_MAX = 512
"""The longest run for `Machine.apply_many`. What a run leaves over is copied for the next one."""
_MACHINE_EFFECTS = frozenset(get_args(MachineEffect))
_LEAVES: dict[type, Callable[[Any], Any]] = {
    SendMsg: attrgetter("message"),
    Append: attrgetter("command"),
    TryAppend: attrgetter("command"),
    ModCall: attrgetter("arguments"),
    Timer: attrgetter("name"),
}
"""What of an effect leaves the machine as bytes. The leader encodes it; all members must know that it can."""

_encode = msgspec.msgpack.encode
_decode_version = msgspec.msgpack.Decoder(int).decode
_decode_builtin: Callable[[bytes], Builtin] = msgspec.msgpack.Decoder(Builtin).decode


def apply_to(server: Server, target: Index) -> list[Effect]:
    """Apply entries up to `target`, or to the end of the log if that is nearer.

    One step applies `apply_entries_max` entries or a little more, and asks for another one (`ApplyRest`):
    commits, votes and other clusters do not wait for a long apply.

    Raises `MachineFault` if the user's machine raises; the server must stop then.
    """
    effects: list[Effect] = []
    last = min(target, server.log.last_index_term().index)
    if last <= server.last_applied or server.frozen or server.deleted:
        return effects  # what follows a deletion, or a version that we lack, is not applied here, nor read
    most = room = server.cfg.apply_entries_max
    for batch in read_batches(server.log, Index(server.last_applied + 1), Index(last)):
        part = batch if batch.count <= most else batch.cut(batch.first_index, batch.first_index + most - 1)
        if not _apply_batch(server, part, effects) or server.deleted:
            break
        room -= part.count
        if room <= 0 and server.last_applied < last:
            effects.append(Defer(ApplyRest()))
            break
    return effects


def is_applying(server: Server) -> bool:
    """Whether committed entries are left that this server is going to apply."""
    return server.last_applied < server.commit_index and not (server.frozen or server.deleted)


def _apply_batch(server: Server, batch: EntryBatch, effects: list[Effect]) -> bool:
    """Apply one batch. False if this code cannot apply it, which freezes the machine (VER-02)."""
    head = decode_head(batch.body)
    if batch.timestamp_ms >= server.machine_time_ms:
        server.machine_time_ms = batch.timestamp_ms
    elif server.time_marks[-1][1] != server.machine_time_ms:
        note_time(server, batch.first_index)
    match head.kind:
        case EntryKind.USER:
            _apply_user(server, batch, head, effects)
        case EntryKind.NOOP:
            if not _apply_noop(server, batch, head, effects):
                return False
        case EntryKind.BUILTIN:
            [payload] = payloads_of(batch.body, 1, head)
            _apply_builtin(server, batch, _decode_builtin(payload), effects)
        case EntryKind.CLUSTER_CHANGE:
            effects += apply_cluster_change(server, batch)
            _answer_ok(server, head, effects)
        case EntryKind.CLUSTER_DELETE:
            # The machine's last word (CORE-11). Nothing is applied after it.
            server.deleted = True
            last_word = server.machine.state_enter("eol", server.machine_state)
            effects += take_callback_effects(server, last_word, "state_enter")
            _answer_ok(server, head, effects)
        case _:
            assert_never(head.kind)
    server.last_applied = batch.last_index
    if server.raft_state is not RaftState.RECOVER:  # a replay has no latency
        server.commit_latency_ms = max(0, server.environment.now_ms() - batch.timestamp_ms)
    return True


def newest_version(server: Server) -> int:
    """The newest machine version that our log asks for, committed or not.

    An entry that is in all logs may be committed without our knowledge. A leader that lacks its version could
    apply nothing from there on.
    """
    newest = server.effective_machine_version
    first, last = Index(server.last_applied + 1), server.log.last_index_term().index
    for batch in read_batches(server.log, first, last):
        head = decode_head(batch.body)
        if head.kind is EntryKind.NOOP:
            [payload] = payloads_of(batch.body, 1, head)
            newest = max(newest, _decode_version(payload))
    return newest


def _answer_ok(server: Server, head: BodyHead, effects: list[Effect]) -> None:
    """Reply `ok` to a change of the cluster: it has no other result."""
    if head.reply_mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY) and (
        server.raft_state is RaftState.LEADER
    ):
        effects.append(Applied(head.origin, head.first_correlation, ["ok"]))


def _apply_user(server: Server, batch: EntryBatch, head: BodyHead, effects: list[Effect]) -> None:
    commands = _commands_of(server, batch, head)
    if batch.count > 1 and server.apply_many is not None:
        _apply_runs(server, server.apply_many, batch, head, commands, effects)
        return
    replies: list[Any] = []
    machine_apply, state = server.machine.apply, server.machine_state
    term, version, time_ms = batch.term, server.effective_machine_version, server.machine_time_ms
    origin, mode = head.origin, head.reply_mode
    index = batch.first_index
    ahead = head.first_correlation - index
    later: list[int] = []
    try:
        for command in commands:
            meta = CommandMeta(index, term, version, time_ms, origin, mode, index + ahead)
            result: Any = machine_apply(meta, command, state)
            size = len(result) if isinstance(result, tuple) else 0
            if size == 3:
                _take_effects(server, index, result[2], effects)
            elif size != 2:
                raise _no_result(result)
            state = result[0]
            if result[1] is LATER:
                later.append(index - batch.first_index)
            replies.append(result[1])
            index = Index(index + 1)
    except Exception as error:
        raise _fault(server, index, error) from error
    server.machine_state = state
    if mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY) and server.raft_state is RaftState.LEADER:
        if later:
            effects += _answers_between(later, head, replies)
        else:
            effects.append(Applied(origin, head.first_correlation, replies))


def _apply_runs(
    server: Server,
    apply_many: ApplyMany,
    batch: EntryBatch,
    head: BodyHead,
    commands: list[Any],
    effects: list[Effect],
) -> None:
    """Apply a batch by the machine's `apply_many`, in runs that end where the machine wants."""
    replies: list[Any] = []
    later: list[int] = []
    state, first, ahead = server.machine_state, batch.first_index, head.first_correlation
    term, version, time_ms = batch.term, server.effective_machine_version, server.machine_time_ms
    done = 0
    while done < batch.count:
        run = commands[done : done + RUN_COMMANDS_MAX]
        own: list[Any] = []
        wanted: Any = None
        meta = RunMeta(
            Index(first + done), term, version, time_ms, head.origin, head.reply_mode, ahead + done
        )
        try:
            state, wanted = apply_many(meta, run, state, own)
            if not 0 < len(own) <= len(run):
                raise MachineFault(f"it gave {len(own)} replies to {len(run)} commands")
            if wanted:
                _take_effects(server, Index(first + done + len(own) - 1), wanted, effects)
        except Exception as error:
            last = len(run) if wanted is None else len(own)  # its effects are those of the run's last entry
            index = Index(first + done + min(len(own), last - 1))
            raise MachineFault(
                f"{type(server.machine).__name__}.apply_many raised at index {index}: {error!r}", index
            ) from error
        done += len(own)
        if own[-1] is LATER:
            later.append(done - 1)
        replies += own
    server.machine_state = state
    if head.reply_mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY) and (
        server.raft_state is RaftState.LEADER
    ):
        effects += _answers_between(later, head, replies)


def _answers_between(later: list[int], head: BodyHead, replies: list[Any]) -> list[Applied]:
    """The answers of a batch, without those at these offsets: the machine gives them later (EFF-21)."""
    return [
        Applied(head.origin, head.first_correlation + start + 1, replies[start + 1 : end])
        for start, end in pairwise((-1, *later, len(replies)))
        if end > start + 1
    ]


def _commands_of(server: Server, batch: EntryBatch, head: BodyHead) -> list[Any]:
    """The commands of a committed batch. Raises `MachineFault` for bytes that this code cannot decode."""
    role = server.role
    if type(role) is LeaderRole and role.decoded:
        kept = take_decoded(role, batch.first_index, batch.count)
        if kept is not None:
            return kept
    commands, errors = decode_commands(server.decode_commands, batch.body, batch.count, head)
    if errors:
        offset, error = next(iter(errors.items()))
        raise MachineFault(
            f"entry {batch.first_index + offset} is committed, and {type(server.machine).__name__} version "
            f"{server.effective_machine_version} cannot decode it here: {error}. The leader that admitted it "
            "runs other code. Install that code on this node and start it again"
        )
    return commands


def _apply_builtin(server: Server, batch: EntryBatch, command: Builtin, effects: list[Effect]) -> None:
    """Hand a built-in command to the machine. No caller waits for a reply."""
    meta = CommandMeta(
        batch.first_index,
        batch.term,
        server.effective_machine_version,
        server.machine_time_ms,
        NOBODY,
        ReplyMode.NOREPLY,
    )
    try:
        result: Any = server.machine.apply(meta, command, server.machine_state)
        size = len(result) if isinstance(result, tuple) else 0
        if size == 3:
            _take_effects(server, batch.first_index, result[2], effects)
        elif size != 2:
            raise _no_result(result)
    except Exception as error:
        raise _fault(server, batch.first_index, error, f" on {command!r}") from error
    server.machine_state = result[0]


def _no_result(result: Any) -> MachineFault:
    """Say what `apply` has returned: a string of two letters is no state and reply."""
    kind = type(result).__name__
    shown = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {kind}"
    return MachineFault(f"returned {shown}, neither (state, reply) nor (state, reply, effects)")


def _fault(server: Server, index: Index, error: Exception, on: str = "") -> MachineFault:
    """A failure of the machine's `apply`, with the names that an operator needs: machine and entry."""
    machine = type(server.machine).__name__
    if isinstance(error, MachineFault):
        return MachineFault(f"{machine}.apply at index {index}{on}: {error}", index)
    return MachineFault(f"{machine}.apply raised at index {index}{on}: {error!r}", index)


def _apply_noop(server: Server, batch: EntryBatch, head: BodyHead, effects: list[Effect]) -> bool:
    """Apply a leader's first entry: it permits changes and reads, and may raise the version (VER-01)."""
    [payload] = payloads_of(batch.body, 1, head)
    version, old = _decode_version(payload), server.effective_machine_version
    if version > old:
        server.use_machine_version(batch.first_index, version)
        if server.frozen:
            return False
        _apply_builtin(server, batch, MachineVersion(old, version), effects)
    if batch.term == server.current_term:
        leadership = server.leadership()
        if leadership is not None:
            leadership.established = True
        if server.raft_state is RaftState.LEADER:
            effects.append(LeaderEstablished(batch.term))
    return True


def _take_effects(server: Server, applied: Index, wanted: Any, effects: list[Effect]) -> None:
    """Append machine effects, single or in nested lists (EFF-31), in the machine's order.

    `applied` is the entry after which the machine asks: a state that is to be kept is captured now. Raises
    `MachineFault`, on every member alike, for what is no effect, and for what no leader could perform.
    """
    kind = type(wanted)
    if kind is ReleaseCursor or kind is Checkpoint:
        effects.append(capture_effect(server, wanted, applied))
    elif kind in _MACHINE_EFFECTS:
        # A replay at the start performs nothing, so it need not look again.
        if kind in _LEAVES and server.raft_state is not RaftState.RECOVER:
            _check_encoding(wanted, _LEAVES[kind](wanted))
        effects.append(wanted)
    elif isinstance(wanted, (list, tuple)):
        for effect in wanted:
            _take_effects(server, applied, effect, effects)
    elif wanted is not None:
        raise MachineFault(f"not an effect: {kind.__name__}; see barque.machine.effects")


def _check_encoding(effect: Any, value: Any) -> None:
    """Raise `MachineFault` if what an effect sends or commits has no encoding."""
    if type(effect) is Timer and not isinstance(value, str):
        raise MachineFault(f"the name of a Timer is not a str: {value!r}")
    try:
        _encode(value)
    except Exception as error:  # TypeError, ValueError, OverflowError, RecursionError; or a type's own
        name = type(effect).__name__
        raise MachineFault(f"{name} holds what msgpack cannot encode: {error!r}") from error


def persist_last_applied(server: Server) -> Index | None:
    """§9, COMMIT-08: the applied index to store, if it has moved; never beyond what is on disk.

    The runtime stores it, without waiting.
    """
    index = min(server.last_applied, server.log.last_written().index)
    if index <= server.persisted_last_applied:
        return None
    server.persisted_last_applied = index
    return index


def decode_entries(server: Server, batch: EntryBatch) -> list[Any]:
    """The user commands of a batch. Leave out other kinds of entries, and bytes that are no command."""
    head = decode_head(batch.body)
    if head.kind is not EntryKind.USER:
        return []
    commands, errors = decode_commands(server.decode_commands, batch.body, batch.count, head)
    return [c for offset, c in enumerate(commands) if not errors or offset not in errors]


def take_callback_effects(server: Server, wanted: Any, callback: str) -> list[Effect]:
    """Check and flatten the effects that a machine's `state_enter`, `tick` or other callback returned."""
    effects: list[Effect] = []
    try:
        _take_effects(server, server.last_applied, wanted, effects)
    except MachineFault as error:  # no entry is to blame: `index` stays None
        where = f"{type(server.machine).__name__}.{callback}, after index {server.last_applied}"
        raise MachineFault(f"{where}: {error}") from error
    return effects


def encode_builtin(command: Builtin) -> bytes:
    """The payload of a built-in command's entry."""
    return _encode(command)
