"""What surrounds a performer of effects: its servers, and the places where effects go.

`performer.Performer` performs; a node, or a test's world, hands in the rest.
"""

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

from barque.core.effects import (
    Applied,
    Effect,
    MembersGone,
    Rejected,
    StartConditionTimeout,
    StartElectionTimeout,
    StartReceiveTimeout,
    StartSnapshotRetry,
    StopReason,
    Unresolved,
)
from barque.core.messages import Component, Message, RemoteMessage
from barque.core.state import Server
from barque.machine.effects import (
    DemonitorNode,
    DemonitorProcess,
    ModCall,
    MonitorNode,
    MonitorProcess,
    Timer,
)
from barque.runtime.counters import ServerCounters
from barque.types import Named, Pid, ServerId, Term, Uid


class PerformedServer(Protocol):
    """A server whose effects are performed: a node's `server_process.ServerProcess`, or a test's own."""

    server: Server
    counters: ServerCounters

    @property
    def uid(self) -> Uid:
        """The server's incarnation."""
        ...

    @property
    def held(self) -> MutableSequence[Effect] | None:
        """The effects that wait for the sync of the meta store; None while nothing waits for it."""
        ...

    def enqueue(self, message: Message) -> None:
        """Handle this after the present message."""

    def defer_until_synced(self) -> None:
        """Hold everything from here on (`held`), unless terms and votes are durable at once."""


ServerT = TypeVar("ServerT", bound=PerformedServer)
ServerT_contra = TypeVar("ServerT_contra", bound=PerformedServer, contravariant=True)


class PerformerEnvironment(Protocol[ServerT_contra]):
    """The surroundings of the servers: where their messages, answers and news go."""

    def wake(self) -> None:
        """Run a turn after a timer, so that messages of its server leave."""

    def send(self, to: ServerId, message: RemoteMessage, process: ServerT_contra) -> bool:
        """Queue a message of this server for another, here or elsewhere; False if it was dropped."""

    def answer(self, applied: Applied) -> None:
        """Pass replies on to the router that waits for them."""

    def reject(self, rejected: Rejected) -> None:
        """Pass a refusal on to the router that waits."""

    def unresolved(self, effect: Unresolved) -> None:
        """Tell the router that waits that the outcome of these commands is unknown."""

    def send_event(self, process: ServerT_contra, to: Pid | Named, message: Any) -> None:
        """Pass a machine's message on to a process, or to a node's clients."""

    def call_function(self, process: ServerT_contra, effect: ModCall) -> None:
        """Call a function of the node's program, beside the loop."""

    def append_elsewhere(self, process: ServerT_contra, leader: ServerId, payload: bytes) -> None:
        """Send a machine's command to the leader of its cluster."""

    def plan_read(self, process: ServerT_contra, indexes: Sequence[int]) -> Any:
        """A plan to read user commands from the server's log (`log.read_plan.ReadPlan`)."""

    def leadership_changed(self, process: ServerT_contra) -> None:
        """This member's state, or the leader that it follows, has changed."""

    def leader_established(self, process: ServerT_contra) -> None:
        """This leader has applied its noop."""

    def replicate_soon(self, process: ServerT_contra) -> None:
        """Hand this server a `PipelineRpcs` before the turn ends."""

    def flush_commands_soon(self, process: ServerT_contra) -> None:
        """Hand this server a `FlushCommands` when all input of this turn is handled (CMD-06)."""

    def apply_soon(self, process: ServerT_contra) -> None:
        """Hand this server an `ApplyRest` in the next turn."""

    def server_stopped(self, process: ServerT_contra) -> None:
        """This server has failed, or ended."""

    def server_ended(self, process: ServerT_contra, reason: StopReason) -> None:
        """This server has come to its end by itself."""

    def members_gone(self, process: ServerT_contra, effect: MembersGone) -> None:
        """Tell the nodes of former members that they may forget them."""

    def server_deleted(self, process: ServerT_contra, *, whole_cluster: bool) -> None:
        """This server is gone for good: with it all of its cluster, or only this member."""


class TermAndVoteStore(Protocol):
    """Keeps terms and votes; a later sync makes them durable."""

    def store(self, uid: Uid, current_term: Term, voted_for: ServerId | None) -> None:
        """Remember both for this server, as one record."""


class Timers(Protocol[ServerT_contra]):
    """The timers of servers. Each sends its message to the server when it runs out."""

    def start_election(self, process: ServerT_contra, effect: StartElectionTimeout) -> None:
        """Arm the election timer, unless it is armed already."""

    def cancel_election(self, process: ServerT_contra) -> None:
        """Disarm the election timer."""

    def start_condition(self, process: ServerT_contra, effect: StartConditionTimeout) -> None:
        """Arm the timer of a server that waits for a condition."""

    def start_quorum(self, process: ServerT_contra) -> None:
        """Arm the timer of a leader that looks for signs of a majority."""

    def start_receive(self, process: ServerT_contra, effect: StartReceiveTimeout) -> None:
        """Arm the timer for the next chunk of a snapshot."""

    def start_snapshot_retry(self, process: ServerT_contra, effect: StartSnapshotRetry) -> None:
        """Arm the timer before the next attempt to send a member a snapshot."""

    def cancel_snapshot_retry(self, process: ServerT_contra, member: ServerId) -> None:
        """Disarm it."""

    def set_machine_timer(self, process: ServerT_contra, timer: Timer) -> None:
        """Arm or disarm a timer of the server's machine."""

    def state_left(self, process: ServerT_contra) -> None:
        """The server has left a state, whose timers end with it."""

    def cancel_machine_timers(self, process: ServerT_contra) -> None:
        """The machine's timers end."""

    def forget(self, process: ServerT_contra) -> None:
        """Cancel all timers of this server."""


class Watches(Protocol[ServerT_contra]):
    """Which machines watch which processes and nodes (`monitors.Monitors`)."""

    def watch_node(self, process: ServerT_contra, effect: MonitorNode) -> None:
        """Watch a node."""

    def watch_process(self, process: ServerT_contra, effect: MonitorProcess) -> None:
        """Watch a process."""

    def unwatch(self, process: ServerT_contra, effect: DemonitorProcess | DemonitorNode) -> None:
        """Watch it no longer."""

    def forget(self, process: ServerT_contra, *, only: Component | None = None) -> None:
        """Drop the monitors of this server."""
