"""Effects: what a machine asks for besides its reply. The leader performs them, followers do not.

An effect may be repeated or lost when leadership changes (EFF-33): machines must be able
to live with both. A machine that returns anything else than the classes below stops its server
with a `MachineFault`.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from barque.types import Index, Named, Pid, ReplyTo, ServerId


class _Later(enum.Enum):
    LATER = "later"


LATER: Final[Any] = _Later.LATER
"""Return it from `apply` in the place of a reply: the caller is answered later, by a `Reply` or an `Append`.

Keep `CommandMeta.reply_from` in the state until then. A caller whose time runs out, or whose leader is
replaced before the answer, hears that the outcome is unknown (`OutcomeUnknown`, `CommandTimeout`).
"""


class ModCall(msgspec.Struct, frozen=True, gc=False):
    """Call a function that the leader's program has registered (`Node.register_call`), later (EFF-03).

    It runs beside the loop, in one thread with all other calls. `arguments` are values that msgspec can
    encode. Its result is dropped; an unknown name and an exception are counted and logged.
    """

    name: str
    arguments: Sequence[Any] = ()


class GarbageCollect(msgspec.Struct, frozen=True, gc=False):
    """Let Python collect its garbage now, on every member (EFF-19). The loop stands still meanwhile."""


class Timer(msgspec.Struct, frozen=True, gc=False):
    """Commit `Timeout(name)` later (EFF-09, EFF-10). Setting a name again replaces it.

    Exactly one of the two times is given: `after_ms` from now, or `at_ms`, Unix
    milliseconds on the leader's clock. Both None cancels. Timers die with leadership: set them again in
    `state_enter`.
    """

    name: str
    after_ms: int | None = None
    at_ms: int | None = None


class SendMsg(msgspec.Struct, frozen=True, gc=False):
    """Send a value to a process, at most once; nobody hears if it is gone (EFF-01, EFF-02).

    A client gets it from `Client.machine_events`, a process in a node by its callback or in its mailbox, with
    the name of the cluster. `meta.origin`, a `Pid` with the number 0, stands for all clients of that node.
    The leader sends it; with `local` the voter on the receiver's node, or the leader if there is none.
    """

    to: Pid | Named
    message: Any
    local: bool = False


class Append(msgspec.Struct, frozen=True, gc=False):
    """Commit another user command (EFF-04).

    Nobody gets its reply, or, with `reply_to`, the caller that is still waiting for one (`LATER`).
    """

    command: Any
    reply_to: ReplyTo | None = None


class TryAppend(msgspec.Struct, frozen=True, gc=False):
    """Commit another user command, whatever this member is (EFF-05). Nobody gets its reply.

    A leader appends it. Any other member sends it to the leader, and it is lost if there is none, or if it
    gives way before it is committed. Meant for aux machines: an `apply` that asks for it appends one command
    for each member.
    """

    command: Any


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Answer a caller whose command was answered with `LATER` (EFF-21, EFF-22).

    A caller gets one reply: the first. `by` says which member sends it: the leader; with `"local"` the voter
    on the caller's node, or the leader if there is none; or the member with that id, or the leader if it is
    not in the cluster. A member that answers has applied the entry, so a local read there sees it.
    """

    to: ReplyTo
    body: Any = None
    by: Literal["leader", "local"] | ServerId = "leader"


class Aux(msgspec.Struct, frozen=True, gc=False):
    """Hand a value to this member's `handle_aux` (EFF-18)."""

    command: Any


class MonitorProcess(msgspec.Struct, frozen=True, gc=False):
    """Commit `Down(pid, reason)` at the end of a process, or at once if it is gone already (EFF-06, EFF-08).

    The reasons: `"normal"`, it has ended; `"crashed"`, its callback has raised; `"noproc"`, it was gone, or
    its node has started anew; `"noconnection"`, its node is out of reach, and the process may live on. The
    number 0 ends with its node. A monitor fires once.

    With `aux` the aux machine of this member is told instead. Monitors of the machine end with leadership:
    set them again in `state_enter`.
    """

    pid: Pid
    aux: bool = False


class DemonitorProcess(msgspec.Struct, frozen=True, gc=False):
    """Stop watching this process (EFF-07)."""

    pid: Pid
    aux: bool = False


class MonitorNode(msgspec.Struct, frozen=True, gc=False):
    """Commit `NodeUp` or `NodeDown` now, and at each change (EFF-06, EFF-08)."""

    node: str
    aux: bool = False


class DemonitorNode(msgspec.Struct, frozen=True, gc=False):
    """Stop watching this node (EFF-07)."""

    node: str
    aux: bool = False


class ReadLog(msgspec.Struct, frozen=True, gc=False):
    """Read user commands back from the log and go on with them (EFF-11, EFF-12).

    `then` gets the commands at `indexes`, without missing ones, and returns effects. With
    `node` the member there reads, if it is a voter; the leader otherwise.
    """

    indexes: Sequence[int]
    then: Callable[[list[Any]], Any]
    node: str | None = None


class PlanRead(msgspec.Struct, frozen=True, gc=False):
    """Plan to read user commands back from the log (EFF-13).

    `then` gets a `barque.ReadPlan` of the commands at `indexes`, and returns effects. Execute the plan in
    another thread, and close it. Who plans: see `ReadLog`.
    """

    indexes: Sequence[int]
    then: Callable[[Any], Any]
    node: str | None = None


class ReleaseCursor(msgspec.Struct, frozen=True, gc=False):
    """Nothing at or below `index` is needed to rebuild `state`: a snapshot may be made (EFF-14).

    `state` is what the machine was after entry `index`. If a snapshot is due, it is captured
    (`Machine.capture`) before the next command is applied, so it may be the very object that `apply` goes on
    changing. A suggestion; the log decides. With `written` it waits until that index is on disk, with
    `no_snapshot_sends` until no snapshot is being sent (EFF-15). With `promote` the newest
    checkpoint at or below `index` becomes the snapshot, and `state` is not looked at (EFF-16).
    """

    index: Index
    state: Any = None
    promote: bool = False
    written: Index | None = None
    no_snapshot_sends: bool = False


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """Keep this state, for a faster start or a later `ReleaseCursor(promote=True)` (EFF-17).

    `state` is captured as that of `ReleaseCursor` is.
    """

    index: Index
    state: Any


MachineEffect: TypeAlias = (
    Timer
    | SendMsg
    | Append
    | TryAppend
    | Reply
    | ModCall
    | GarbageCollect
    | Aux
    | MonitorProcess
    | DemonitorProcess
    | MonitorNode
    | DemonitorNode
    | ReadLog
    | PlanRead
    | ReleaseCursor
    | Checkpoint
)
