"""Transcripts: commands to a cluster of core servers, each followed by what it caused.

A line that begins with `> ` is a command. The indented lines below it say what happened. Every other line is
a comment. `play` runs the commands and returns the text with what happens now; an equal text means that
nothing has changed. The commands are the methods `do_…` of `Player`. Names of members are single letters;
positions are written `index.term`.
"""

from collections.abc import Callable
from typing import Any

from barque.core import invariants
from barque.core.effects import (
    Effect,
)
from barque.core.messages import (
    AwaitConditionTimeout,
    ElectionTimeout,
    MachineTimeout,
    Message,
    NodeStatus,
    Tick,
    WalFailed,
    WalUp,
)
from barque.errors import BarqueError
from barque.machine.effects import ReleaseCursor, Timer
from barque.machine.machine import CommandMeta, Machine, MachineVersion, Result, Timeout
from barque.testing.core.cluster import CoreCluster, Member
from barque.types import Membership, ReplyMode
from tests.kit.words import Envelope, effect_in_words, envelope_in_words, in_words

MODES = {
    "none": ReplyMode.NOREPLY,
    "append": ReplyMode.AFTER_LOG_APPEND,
    "notify": ReplyMode.NOTIFY,
}


class Journal(Machine[tuple[str, ...]]):
    """A machine that records its commands. `timer x` also sets the timer `x`; `snap` asks for a snapshot."""

    def __init__(self, version: int = 0) -> None:
        self.version = version  # type: ignore[misc]  # of this member only

    def init(self, args: dict[str, Any]) -> tuple[str, ...]:
        """Start with no commands."""
        return ()

    def apply(self, meta: CommandMeta, command: Any, state: tuple[str, ...]) -> Result[tuple[str, ...]]:
        """Record a command. The reply is everything recorded so far."""
        match command:
            case Timeout():
                line = f"timeout {command.name}"
            case MachineVersion():
                line = f"version {command.old} to {command.new}"
            case _:
                line = str(command)
        state = (*state, line)
        if line == "snap":
            return state, "snapped", [ReleaseCursor(meta.index, state)]
        if line.startswith("timer "):
            return state, " ".join(state), [Timer(line.removeprefix("timer "), after_ms=50)]
        return state, " ".join(state)

    def query(self, query: Any, state: tuple[str, ...]) -> str:
        """Return everything recorded so far."""
        return " ".join(state)


def play(text: str) -> str:
    """Run a transcript, and return it as it should read now."""
    player = Player()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines += [f"  {happened}" for happened in player.run(line.removeprefix("> "))]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


class Player:
    """Runs commands, and records what the cluster does."""

    def __init__(self) -> None:
        self.cluster = CoreCluster()
        self.lines: list[str] = []
        self.loud = True

    def run(self, line: str) -> list[str]:
        """Run one command; return what it caused."""
        self.lines = []
        name, *words = line.split()
        command: Callable[..., None] | None = getattr(self, f"do_{name.replace('-', '_')}", None)
        if command is None:
            raise ValueError(f"no such command in a transcript: {line!r}")
        try:
            command(*words)
        except BarqueError as error:
            self.lines.append(f"{type(error).__name__}: {error}")
        return self.lines

    def say(self, what: str) -> None:
        """Record a line, unless the transcript is quiet."""
        if self.loud:
            self.lines.append(what)

    def _watch(
        self, member: Member, message: Message, before: invariants.Facts, effects: list[Effect]
    ) -> None:
        server, name = member.server, member.id.name
        self.say(f"{name} {in_words(message)}")
        if server.raft_state is not before.state:
            self.say(f"  {name}: {before.state} becomes {server.raft_state}, term {server.current_term}")
        last = server.log.last_index_term()
        if last != before.last:
            self.say(f"  {name}: log ends at {last.index}.{last.term}")
        if server.commit_index != before.commit_index:
            self.say(f"  {name}: commit {server.commit_index}, applied {server.last_applied}")
        for effect in effects:
            line = effect_in_words(effect)
            if line:
                self.say(f"  {name}: {line}")

    # --- setting up ------------------------------------------------------------------------

    def do_cluster(self, *words: str) -> None:
        """`cluster a b c [batch=1] [pipeline=1] [flush=1] [meta] [mail] [upgrade=quorum]`: a new cluster.

        With `meta`, terms and votes wait for `store`; with `mail`, flushes wait for `mail`. `upgrade` is the
        strategy by which a newer machine comes into force.
        """
        names = [word for word in words if "=" not in word and word not in ("meta", "mail")]
        keys = {
            "batch": "max_append_entries_rpc_batch_size",
            "pipeline": "max_pipeline_count",
            "flush": "low_priority_commands_flush_size",
        }
        options = dict(word.split("=") for word in words if "=" in word)
        strategy = options.pop("upgrade", "all")
        settings: dict[str, Any] = {keys[key]: int(value) for key, value in options.items()}
        settings["machine_upgrade_strategy"] = strategy
        self.cluster = CoreCluster(
            *names,
            machine=Journal(),
            settings=settings,
            hold_meta="meta" in words,
            defer_flush="mail" in words,
        )
        self.cluster.watch = self._watch

    def do_load(self, name: str, *words: str) -> None:
        """`load a 1 1 2 term=3`: give a member a durable log with these terms, and this term."""
        terms = [int(word) for word in words if "=" not in word]
        options = dict(word.split("=") for word in words if "=" in word)
        term = int(options["term"]) if "term" in options else None
        self.cluster.load(name, terms, current_term=term)

    def do_version(self, name: str, version: str) -> None:
        """`version a 1`: restart a member with another version of the machine."""
        self.cluster[name].machine = Journal(int(version))
        self.cluster[name].restart()

    def do_quiet(self) -> None:
        """Record nothing until `loud`, except answers to the commands that ask for something."""
        self.loud = False

    def do_loud(self) -> None:
        """Record everything again."""
        self.loud = True

    # --- messages --------------------------------------------------------------------------

    def do_deliver(self, *words: str) -> None:
        """`deliver [a->b] [Kind] [2]`: deliver messages (on this link, of this kind, the first two)."""
        for envelope in self._take(words):
            if not self.cluster.arrive(*envelope):
                self.say(f"lost: {envelope_in_words(envelope)}")

    def do_drop(self, *words: str) -> None:
        """`drop [a->b] [Kind] [2]`: these messages are lost."""
        for envelope in self._take(words):
            self.say(f"lost: {envelope_in_words(envelope)}")

    def do_delay(self, *words: str) -> None:
        """`delay [a->b] [Kind] [2]`: put these messages behind all others."""
        self.cluster.network += self._take(words)

    def do_copy(self, *words: str) -> None:
        """`copy [a->b] [Kind] [2]`: put copies of these messages at the end of the network."""
        self.cluster.network += self._find(words)

    def _find(self, words: tuple[str, ...]) -> list[Envelope]:
        link = next((word for word in words if "->" in word), None)
        kind = next((word for word in words if word[0].isupper()), None)
        count = next((int(word) for word in words if word.isdigit()), len(self.cluster.network))
        return [
            (sender, to, message)
            for sender, to, message in self.cluster.network
            if link in (None, f"{sender.name}->{to.name}") and kind in (None, type(message).__name__)
        ][:count]

    def _take(self, words: tuple[str, ...]) -> list[Envelope]:
        found = self._find(words)
        for envelope in found:
            self.cluster.network.remove(envelope)
        return found

    def do_network(self) -> None:
        """List what is on the network."""
        self.lines += [envelope_in_words(envelope) for envelope in self.cluster.network] or ["nothing"]

    def do_partition(self, groups: str) -> None:
        """`partition a|bc`: cut all links between these groups."""
        self.cluster.partition(*groups.split("|"))

    def do_heal(self) -> None:
        """Every link works again."""
        self.cluster.heal()

    def do_settle(self, *names: str) -> None:
        """Sync (these members, or all) and deliver until nothing moves."""
        self.cluster.settle(*names)

    # --- members ---------------------------------------------------------------------------

    def do_timeout(self, name: str) -> None:
        """Let the election timer of a member run out."""
        self.cluster[name].handle(ElectionTimeout())

    def do_elect(self, name: str) -> None:
        """Let the election timer of a member run out; the member wins."""
        self.cluster.elect(name)

    def do_await_timeout(self, name: str) -> None:
        """Let a member's wait for its condition run out."""
        self.cluster[name].handle(AwaitConditionTimeout())

    def do_tick(self, name: str) -> None:
        """Let a member tick."""
        self.cluster[name].handle(Tick(0))

    def do_sync(self, name: str) -> None:
        """Make the writes of a member durable, and tell it."""
        self.cluster[name].sync()

    def do_flush(self, name: str) -> None:
        """Make the writes of a member durable; the report is still under way."""
        self.cluster[name].flush()

    def do_hear(self, name: str) -> None:
        """Hand the reports of its disk to a member."""
        self.cluster[name].hear()

    def do_crash(self, name: str) -> None:
        """Stop a member; it loses what is not durable."""
        self.cluster[name].crash()

    def do_store(self, name: str) -> None:
        """Make the term and vote that a member is storing durable (`cluster … meta`)."""
        self.cluster[name].sync_meta()

    def do_forget(self, name: str, index: str) -> None:
        """`forget c 1`: restart a member from an older copy of its disk, which ends at entry 1."""
        log = self.cluster[name].log
        log.load(log.disk[: int(index)])
        self.cluster[name].start()

    def do_mail(self, name: str) -> None:
        """Let a member read what it has sent to itself (`cluster … mail`)."""
        self.cluster[name].read_mail()

    def do_restart(self, name: str) -> None:
        """Restart a member (after a crash, if it is up)."""
        self.cluster[name].restart()

    def do_wal_failed(self, name: str) -> None:
        """Let the write-ahead log of a member fail."""
        self.cluster[name].handle(WalFailed("EIO"))

    def do_wal_up(self, name: str) -> None:
        """Let the write-ahead log of a member take writes again."""
        self.cluster[name].handle(WalUp())

    def do_machine_timeout(self, name: str, timer: str) -> None:
        """Let a timer that the machine has set run out."""
        self.cluster[name].handle(MachineTimeout(timer))

    # --- clients ---------------------------------------------------------------------------

    def do_command(self, name: str, *words: str) -> None:
        """`command a x y [mode=append] [low]`: send commands in one batch; `timer:x` stands for `timer x`."""
        values = [word.replace(":", " ") for word in words if word != "low" and not word.startswith("mode=")]
        modes = [word.removeprefix("mode=") for word in words if word.startswith("mode=")]
        mode = MODES[modes[0]] if modes else ReplyMode.AWAIT_CONSENSUS
        self.cluster.command(name, *values, mode=mode, low_priority="low" in words)

    def do_query(self, name: str, *words: str) -> None:
        """`query a [local]`: send a consistent read, or a local one."""
        self.cluster.query(name, consistent="local" not in words)

    def do_transfer(self, name: str, target: str) -> None:
        """`transfer a b`: ask a to hand over to b."""
        self.cluster.transfer(name, target)

    # --- members and their end -------------------------------------------------------------

    def do_add(self, name: str) -> None:
        """`add d`: start a server that is not a member yet."""
        self.cluster.add(name)

    def do_join(self, name: str, member: str, *words: str) -> None:
        """`join a d [promotable|non_voter]`: ask a to make d a member, or to change its membership."""
        self.cluster.join(name, member, Membership(words[0]) if words else Membership.VOTER)

    def do_leave(self, name: str, member: str) -> None:
        """`leave a c`: ask a to remove c."""
        self.cluster.leave(name, member)

    def do_delete(self, name: str) -> None:
        """Ask a member to delete the cluster."""
        self.cluster.delete(name)

    def do_force(self, name: str) -> None:
        """Make a member the only member."""
        self.cluster.force(name)

    def do_node(self, name: str, other: str, status: str) -> None:
        """`node a c down`: the failure detector of a reports c's node."""
        self.cluster[name].handle(NodeStatus(f"node_{other}", up=status == "up"))

    def do_quorum_timeout(self, name: str) -> None:
        """End a leader's wait for signs of a majority."""
        self.cluster[name].expire_quorum()

    # --- looking ---------------------------------------------------------------------------

    def do_answers(self) -> None:
        """List the answers to clients since the last `answers`."""
        self.lines += [effect_in_words(answer) for answer in self.cluster.answers] or ["nothing"]
        self.cluster.answers.clear()

    def do_logs(self) -> None:
        """List the terms of each log; a bar marks the end of the durable part."""
        for name, member in self.cluster.members.items():
            terms = [str(entry.term) for entry in member.log.entries]
            terms.insert(member.log.last_written().index, "|")
            self.lines.append(f"{name}: {' '.join(terms)}")

    def do_members(self) -> None:
        """List the configuration of each member, with a question mark until it is known to be committed."""
        for name, member in self.cluster.members.items():
            server = member.server
            known = " ".join(
                f"{i.name}" if peer.voter else f"{i.name}({peer.membership})"
                for i, peer in server.cluster.items()
            )
            doubt = "" if server.cluster_index_term.index <= server.commit_index else "?"
            self.lines.append(f"{name}: {known}{doubt}")

    def do_status(self) -> None:
        """List the state of each member."""
        for name, member in self.cluster.members.items():
            server = member.server
            state = str(server.raft_state) if member.up or member.stopped else "down"
            leader = server.leader_id.name if server.leader_id else "-"
            machine = " ".join(server.machine_state)
            vote = server.voted_for.name if server.voted_for else "-"
            durable = f"term {server.current_term}, vote {vote}"
            done = f"commit {server.commit_index}, applied {server.last_applied} ({machine})"
            self.lines.append(f"{name}: {state}, {durable}, leader {leader}, {done}")
