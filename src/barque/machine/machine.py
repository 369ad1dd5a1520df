"""The contract between Barque and the state machine that a user writes.

Theory of operation. A cluster replicates a log of commands. Each member hands the committed commands to its
own copy of the machine, in the order of the log, through `apply`. So `apply` must be deterministic: its
result may depend on the state, the command and `CommandMeta` only, never on a clock, a random number, the
order of a set, or anything outside. `meta.system_time_ms` is the one time that all members share, and
`meta.random` the one source of random numbers.

- `init(args)` makes the first state. `apply(meta, command, state)` returns `(new state, reply)` or
  `(new state, reply, effects)`; `query(query, state)` answers a read and changes nothing.
- A machine may define `apply_many` beside `apply`, to apply many commands in one call. Both must do the same.
- *Effects* (`machine.effects`) ask the leader to do something: set a timer, send a message, commit a command.
  They come after the entry is committed, at most once for each leadership, and are not repeated after a
  restart. State that must survive belongs in the state.
- *Built-in commands* reach `apply` beside the user's own: an expired timer, a monitored client or node that
  came or went, a new machine version.
- *Versions*: `version` is what this code supports; `which_module` returns the code of an older version. The
  cluster moves to a version when its members support it, at one entry of the log, the same on every member.
- An exception in `apply` stops this member's server and no other, since a retry would fail again.
- An *aux machine* (`handle_aux`) is volatile, runs on every member outside the log, and may look at anything.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import msgspec

from barque.errors import InvalidCommand, StorageError
from barque.machine.effects import MachineEffect
from barque.machine.snapshot_module import BoundModule, SnapshotModule
from barque.types import ClientRef, Index, IndexTerm, Pid, ReplyMode, ReplyTo, ServerId, Term

State = TypeVar("State")


class CommandMeta(msgspec.Struct, frozen=True, gc=False):
    """Where and when a command stands (CMD-19); the same on every member.

    `system_time_ms` is the leader's clock at append, in Unix milliseconds: the only time a
    machine may look at. `origin` is the node that waits for the reply, and `correlation` its number there.
    """

    index: Index
    term: Term
    machine_version: int
    system_time_ms: int
    origin: ClientRef
    reply_mode: ReplyMode
    correlation: int = 0
    _random: Random | None = None  # made when it is asked for

    @property
    def reply_from(self) -> ReplyTo | None:
        """Whom a later reply must name (`LATER`, `Reply`); None if nobody waits for this command's reply."""
        waits = self.reply_mode in (ReplyMode.AWAIT_CONSENSUS, ReplyMode.NOTIFY)
        return ReplyTo(self.origin, self.correlation) if waits else None

    @property
    def random(self) -> Random:
        """Random numbers that are the same on every member: the only ones that a machine may use.

        They begin anew with each command. A reader of the log can compute them, so they make no
        secrets. Members on different releases of Python agree on `random()` and `getrandbits()`; Python
        may change how it makes other numbers of these.
        """
        if self._random is None:
            origin = self.origin
            place = (self.index, self.term, self.system_time_ms, origin.incarnation, self.correlation)
            made = Random(f"{origin.node} {place}")  # noqa: S311  # the same everywhere, and no secret
            msgspec.structs.force_setattr(self, "_random", made)
            return made
        return self._random


class RunMeta(msgspec.Struct, frozen=True, gc=False):
    """Where and when a run of commands stands: consecutive entries that have all but their places in common.

    Command number `i` of the run, from 0 on, has the index `first_index + i`; see `CommandMeta`.
    """

    first_index: Index
    term: Term
    machine_version: int
    system_time_ms: int
    origin: ClientRef
    reply_mode: ReplyMode
    first_correlation: int = 0

    def at(self, offset: int) -> CommandMeta:
        """What `apply` would be told about this command: its `random`, its `reply_from`."""
        return CommandMeta(
            Index(self.first_index + offset),
            self.term,
            self.machine_version,
            self.system_time_ms,
            self.origin,
            self.reply_mode,
            self.first_correlation + offset,
        )


class Timeout(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="timeout"):
    """Built-in command: the timer `name`, set by the machine, has expired (MAC-04)."""

    name: str


class MachineVersion(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="machine_version"):
    """Built-in command: the cluster moves from version `old` to `new` (MAC-04)."""

    old: int
    new: int


class QueryMeta(msgspec.Struct, frozen=True, gc=False):
    """The state that a read sees: as of the entry `index`, by a member of this term and machine version."""

    index: Index
    term: Term
    machine_version: int


class Down(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="down"):
    """Built-in command: a process that the machine monitors is gone (MAC-04, MON-02)."""

    pid: Pid
    reason: str


class NodeUp(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="nodeup"):
    """Built-in command: a node that the machine monitors is within reach (MAC-04, MON-03)."""

    node: str


class NodeDown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="nodedown"):
    """Built-in command: a node that the machine monitors is out of reach (MAC-04, MON-03)."""

    node: str


PIECE_BYTES = 1 << 20
"""How much of a state one piece of a capture may hold."""


def slices(encoded: bytes) -> Iterator[bytes]:
    """Cut an encoded state into pieces."""
    view = memoryview(encoded)
    for start in range(0, len(encoded), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


Builtin: TypeAlias = Timeout | MachineVersion | Down | NodeUp | NodeDown
Result: TypeAlias = tuple[State, Any] | tuple[State, Any, Sequence[MachineEffect]]


class AuxKind(enum.Enum):
    """Whether the sender of an aux command waits for a reply (call) or not (cast)."""

    CALL = "call"
    CAST = "cast"


class Member(Protocol):
    """The read-only view of its member that an aux machine gets (AUX-05)."""

    @property
    def machine_state(self) -> Any:
        """The machine's state, as of `last_applied`."""

    @property
    def effective_machine_version(self) -> int:
        """The version in force."""

    @property
    def leader_id(self) -> ServerId | None:
        """The leader, if this member knows one."""

    @property
    def current_term(self) -> Term:
        """The member's term."""

    @property
    def last_applied(self) -> Index:
        """The index of the last applied entry."""

    def last_index_term(self) -> IndexTerm:
        """The end of the log."""

    def read_commands(self, indexes: Sequence[int]) -> list[Any]:
        """The user commands at these indexes, in this order; missing entries are left out."""

    def log_stats(self) -> dict[str, Any]:
        """Facts about the log: positions, sizes in bytes, counters."""

    def wal_fill_ratio(self) -> float:
        """How full the present file of the node's write-ahead log is, from 0 to 1."""

    def snapshot_size(self) -> int:
        """The size of the present snapshot, in bytes; 0 for none."""

    def members_info(self) -> dict[ServerId, dict[str, Any]]:
        """Facts about each member; all of them on the leader only."""

    def overview(self) -> dict[str, Any]:
        """Facts for an operator."""


class AuxResult(msgspec.Struct, frozen=True, gc=False):
    """The result of `handle_aux`: the new aux state, effects, and a reply for a caller."""

    aux: Any
    reply: Any = None
    effects: Sequence[MachineEffect] = ()


class Machine(Generic[State]):
    """A deterministic state machine. Subclass it, or use `SimpleMachine`.

    `apply` sees every command in the same order on every member and must do the same
    everywhere: no clock (`meta.system_time_ms` is the time), no random numbers but those of
    `meta.random`, no iteration over sets, no input or output. Commands, queries and replies are values that
    msgspec can encode; set `command_type` and `query_type` to have them decoded into your own
    `msgspec.Struct` types (a union of tagged ones, typically).
    """

    command_type: ClassVar[Any] = Any
    query_type: ClassVar[Any] = Any
    version: ClassVar[int] = 0

    def init(self, args: dict[str, Any]) -> State:
        """The state before the first command. `args` come from the cluster's configuration."""
        raise NotImplementedError(f"{type(self).__name__} must define init")

    def apply(self, meta: CommandMeta, command: Any, state: State) -> Result[State]:
        """One command: returns (state, reply) or (state, reply, effects).

        `command` is a decoded user command, or a `Builtin`. May change `state` in place and return it.
        An exception stops this server (`MachineFault`): it would stop all the others too.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def apply_many(
        self, meta: RunMeta, commands: list[Any], state: State, replies: list[Any]
    ) -> tuple[State, Sequence[MachineEffect]]:
        """Apply a run of user commands, in order; returns (state, effects). Optional: it saves calls.

        It must do exactly what `apply` does with one command after the other: members may use either.
        Append a reply to `replies` for each command, as it is applied. If a command raises, the length of
        `replies` tells which one it was.

        A run may end early, after at least one command: the rest comes in the next call. A command that asks
        for effects, or that is answered with `LATER`, must be the last of its run, so that effects come
        after their own entry and `ReleaseCursor` and `Checkpoint` keep the state of theirs. A run has at most
        512 commands. Built-in commands, and single ones, go to `apply`, as does everything in a subclass
        that defines `apply` anew and this not.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define apply_many")

    def query(self, query: Any, state: State) -> Any:
        """Answer a read. Must not change the state.

        An exception is the reader's answer and harms nothing else (QRY-17).
        """
        raise InvalidCommand(f"{type(self).__name__} answers no queries")

    def query_with_meta(self, meta: QueryMeta, query: Any, state: State) -> Any:
        """As `query`, for machines that must know which state they answer for (QRY-15).

        Define one of the two. Which of them is asked is decided when a version of the machine comes in force.
        """
        return self.query(query, state)

    def state_enter(self, raft_state: str, state: State) -> Sequence[MachineEffect]:
        """This member entered a Raft state: set timers again, for instance (MAC-05)."""
        return ()

    def tick(self, now_ms: int, state: State) -> Sequence[MachineEffect]:
        """The leader's tick (MAC-06). A machine that defines it keeps its cluster from idling."""
        return ()

    def overview(self, state: State) -> dict[str, Any]:
        """Facts for people, for `status` (MAC-07)."""
        return {}

    def init_aux(self, name: str) -> Any:
        """The volatile state of this member's aux machine (AUX-01)."""
        return None

    def handle_aux(self, raft_state: str, kind: AuxKind, command: Any, aux: Any, member: Member) -> AuxResult:
        """A command for this member's aux machine alone (AUX-02): not replicated, never replayed.

        Commands are what clients and `Aux` effects send, and `"eval"` after progress, `"tick"` on each
        tick, and `Down`, `NodeUp`, `NodeDown` for what the aux machine monitors (AUX-03). A machine
        that does not define this refuses calls and ignores the rest (AUX-04).
        """
        return AuxResult(aux)

    # --- versions and snapshots ----------------------------------------------------------

    def which_module(self, version: int) -> "Machine[State]":
        """The machine that applies commands while `version` is in force (MAC-10, VER-01).

        Old commands must go on to mean what they meant: keep the old class, and name it here.
        """
        return self

    def capture(self, state: State) -> Iterable[bytes]:
        """A consistent picture of the state, for a snapshot: the encoded state in pieces of at most 1 MiB.

        Called when the machine asks (`ReleaseCursor`, `Checkpoint`) and a snapshot is due; what it returns is
        iterated later, once, in another thread, while `apply` goes on changing the state. So copy here what
        changes in place (a shallow copy does for a dict of immutable values), and encode in the iterator.

        The default encodes the whole state with msgpack at once, which is always right. It costs the time of
        the encoding on the loop, and a second copy of the state in memory; define `capture` and `restore`
        for a state of more than some ten MiB, or of types that msgspec cannot encode.
        """
        return slices(msgspec.msgpack.encode(state))

    def restore(self, pieces: Iterator[bytes], args: dict[str, Any]) -> State:
        """The inverse of `capture`. `args` are those of `init`.

        It may run in another thread than `apply`. An exception makes the snapshot unusable here.
        """
        state: State = msgspec.msgpack.decode(b"".join(pieces))
        return state

    def snapshot_module(self) -> SnapshotModule[State] | None:
        """How snapshots of this machine are written and read (MAC-09); None: by `capture` and `restore`.

        Return one and the same object each time. A snapshot from before the machine had a module is read by
        `restore`.
        """
        return None

    def live_indexes(self, state: State) -> Sequence[Index]:
        """The entries that a snapshot of this state still needs (MAC-12), ascending."""
        return ()

    def snapshot_installed(
        self, position: IndexTerm, state: State, old_position: IndexTerm, old_state: State
    ) -> Sequence[MachineEffect]:
        """A snapshot from the leader has replaced the state of this member (MAC-11)."""
        return ()


ApplyMany: TypeAlias = Callable[[RunMeta, list[Any], Any, list[Any]], tuple[Any, Sequence[MachineEffect]]]


def apply_many_of(machine: Machine[Any]) -> ApplyMany | None:
    """The `apply_many` of a machine; None if it has none, or one that does not know of a newer `apply`."""
    if "apply" in getattr(machine, "__dict__", ()):
        return None
    for kind in type(machine).__mro__:
        if "apply_many" in vars(kind):
            return None if kind is Machine else machine.apply_many
        if "apply" in vars(kind):
            return None
    return None


def bound_module(machine: Machine[Any], args: dict[str, Any]) -> BoundModule | None:
    """The snapshot module of a machine, if it has one. Raises `StorageError` for one that is none."""
    name = type(machine).__name__
    try:
        module = machine.snapshot_module()
        return None if module is None else BoundModule(name, module, args)
    except Exception as error:
        raise StorageError(f"machine {name}: snapshot_module: {error!r}") from error
